#!/usr/bin/env bash
# Is every C++ and CUDA file as clang-format leaves it, and every merge finished? The version is fixed, since versions
# differ in what they do.
#   scripts/check_style.sh [FOLDER]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "${1:-$root}"

formatter=${CLANG_FORMAT:-clang-format-14}
if ! command -v "$formatter" >/dev/null; then
  say "no $formatter on PATH; install the package clang-format-14 or name one in CLANG_FORMAT"
  exit "$exit_unavailable"
fi
mapfile -t files < <(find kernels distributed bench tests -regex '.*\.\(hpp\|cpp\|cu\|cuh\)' | sort)
if [ "${#files[@]}" -eq 0 ]; then
  say "found no C++ file under $PWD"
  exit 1
fi
if ! printf '%s\0' "${files[@]}" | xargs -0 -n 16 -P "$(nproc)" "$formatter" --style=file --dry-run -Werror; then
  say "not formatted (above): $formatter -i FILE"
  exit 1
fi
# A merge that was committed half done: where no build reads a file, nothing else says so.
if git rev-parse --git-dir >/dev/null 2>&1 && git grep -n -E '^(<<<<<<<|>>>>>>>) ' -- . >&2; then
  say "marks of an unfinished merge (above)"
  exit 1
fi
say "${#files[@]} files formatted"
