#!/usr/bin/env bash
# Does no file of one instruction set emit a function that others may emit too? Of inline functions and templates with
# external linkage the linker keeps one copy, perhaps one whose instructions the processor lacks. The files are
# compiled without optimisation, which inlines nothing that need not be, for processors that have all they use; every weak
# or unique symbol is then a breach. Allowed are the pointers to the C++ runtime's handler of exceptions: they are no
# code, and alike everywhere. What a file exports under a name of its own (avx2_ops) is found by that name alone.
#   scripts/check_isa.sh [FOLDER]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "${1:-$root}"

if [ "$(uname -m)" != x86_64 ]; then
  say "nothing to check on $(uname -m)"
  exit 0
fi
shopt -s nullglob
files=(kernels/cpu/isa_*.cpp)
if [ "${#files[@]}" -eq 0 ]; then
  say "found no kernels/cpu/isa_*.cpp under $PWD"
  exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# check_file FILE: its shared symbols on stderr, and failure where there are any.
check_file() {
  local file=$1 object shared processor=x86-64
  object=$folder/$(basename "$file").o
  case $file in
    *portable*) return 0 ;;  # compiled as everything else is
    *avx2*) processor=x86-64-v3 ;;
    *) processor=sapphirerapids ;;
  esac
  "${CXX:-g++}" -std=c++20 -I. -O0 "-march=$processor" -w -c "$file" -o "$object"
  shared=$(nm -C --defined-only "$object" | grep -E '^[0-9a-f]+ [WVu] ' | grep -v ' V DW\.ref\.__gxx_personality_v0$' || true)
  [ -z "$shared" ] || {
    printf '%s shares with other files:\n%s\n' "$file" "$shared" >&2
    return 1
  }
}
export -f check_file
export folder

# $0 is for the inner shell.
# shellcheck disable=SC2016
if ! printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -euo pipefail -c 'check_file "$0"'; then
  say "keep these internal (anonymous namespace), without constructors, or in a file of no instruction set"
  exit 1
fi
say "${#files[@]} instruction sets share no functions"
