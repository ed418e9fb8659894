#!/usr/bin/env bash
# Does every header compile by itself, and twice in a row? Headers that need CUDA are compiled where nvcc is.
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
    "$nvcc" -std=c++20 -I. -x cu -o /dev/null -c - <<<"$unit"
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
nvcc=$(find_nvcc || true)
export nvcc

mapfile -t headers < <(find kernels distributed bench tests -name '*.hpp' -o -name '*.cuh' | sort)
if [ "${#headers[@]}" -eq 0 ]; then
  say "found no header under $PWD"
  exit 1
fi
# xargs passes the first failure on as 123.
# $0 is for the inner shell.
# shellcheck disable=SC2016
if ! printf '%s\0' "${headers[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c 'check_header "$0"'; then
  exit 1
fi
say "${#headers[@]} headers stand by themselves"
