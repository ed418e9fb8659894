#!/usr/bin/env bash
# All tests under AddressSanitizer (leaks included), then under UndefinedBehaviorSanitizer. One sanitizer alone:
#   scripts/ci_sanitizers.sh asan
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

# MPI and OpenMP keep memory until exit on purpose; whatever is Lamina's own still counts as a leak.
export LSAN_OPTIONS="suppressions=$root/scripts/lsan.supp:print_suppressions=0"
export ASAN_OPTIONS="detect_leaks=1"
export UBSAN_OPTIONS="print_stacktrace=1"

presets=("$@")
[ "$#" -gt 0 ] || presets=(asan ubsan)
for name in "${presets[@]}"; do
  configure "$name" "build-$name" -DLAMINA_TESTS=ON -DLAMINA_MICRO=OFF
  build "build-$name"
  ctest --test-dir "build-$name" --output-on-failure --parallel "$(nproc)" --timeout 600
done
