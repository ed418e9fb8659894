#!/usr/bin/env bash
# Does every header compile by itself, and twice in a row? Headers that need CUDA are compiled where nvcc is. Of a header
# that its own .cpp or .cu includes before all else the build shows it, if every build compiles that file, or every build
# with CUDA where nvcc is: not again here.
#   scripts/check_headers.sh [FOLDER]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "${1:-$root}"

# check_header FILE: one translation unit of nothing but the header.
check_header() {
  local header=$1 unit
  unit=$(printf '#include "%s"\n#include "%s"\n' "$header" "$header")
  if [[ $header == *.cuh ]] || grep -qE '#[[:space:]]*include[[:space:]]*<(cuda|cublas|cusparse|nccl)' "$header"; then
    [ -n "$nvcc" ] || return 0
    # PTX, of which there is hardly any: nvcc's front end has then read the header, and nothing was assembled.
    "$nvcc" -std=c++20 -I. -x cu -o /dev/null -ptx - <<<"$unit"
  elif [[ $header == distributed/mpi/* || $header == distributed/scalapack/* ]]; then
    "${MPICXX:-mpicxx}" -std=c++20 -I. -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX -Wall -Wextra -Werror -fsyntax-only \
      -x c++ - <<<"$unit"
  else
    "${CXX:-g++}" -std=c++20 -I. -fopenmp -Wall -Wextra -Werror -fsyntax-only -x c++ - <<<"$unit"
  fi || {
    printf '%s does not compile by itself (above)\n' "$header" >&2
    return 1
  }
}
export -f check_header

# shown_by_build FILE
shown_by_build() {
  local source=${1%.hpp}.cpp
  [ -f "$source" ] || source=${1%.hpp}.cu
  [[ $1 == *.hpp && ! $1 =~ /(nccl|scalapack|hwloc)/ && -f $source ]] &&
    { [[ $1 != */cuda/* ]] || [ -n "$nvcc" ]; } &&
    [ "$(grep -m 1 '^#' "$source")" = "#include \"$1\"" ] && grep -q '^#pragma once$' "$1"
}

nvcc=$(find_nvcc || true)
export nvcc

mapfile -t headers < <(find kernels distributed bench tests -name '*.hpp' -o -name '*.cuh' | sort)
if [ "${#headers[@]}" -eq 0 ]; then
  say "found no header under $PWD"
  exit 1
fi
alone=() shown=0
for header in "${headers[@]}"; do
  if shown_by_build "$header"; then
    shown=$((shown + 1))
  else
    alone+=("$header")
  fi
done
# xargs passes the first failure on as 123.
# $0 is for the inner shell.
# shellcheck disable=SC2016
if ! printf '%s\0' ${alone[@]+"${alone[@]}"} | xargs -0 -r -n 1 -P "$(nproc)" bash -c 'check_header "$0"'; then
  exit 1
fi
say "${#alone[@]} headers stand by themselves; of $shown more the build shows it"
