#!/usr/bin/env bash
# The tests under AddressSanitizer (leaks included) and UndefinedBehaviorSanitizer together. A preset alone:
#   scripts/ci_sanitizers.sh asan      or      scripts/ci_sanitizers.sh ubsan
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

# MPI and OpenMP keep memory until exit on purpose; whatever is Lamina's own still counts as a leak.
# Thread-local storage is not searched for pointers: that of plugins which Open MPI has unloaded is gone, and looking
# there ends the search for leaks itself.
export LSAN_OPTIONS="suppressions=$root/scripts/lsan.supp:print_suppressions=0:use_tls=0"
export UBSAN_OPTIONS="print_stacktrace=1"

preset=${1:-asan}
folder=build-${1:-sanitizers}
# Without the optional libraries: what stands in for them is compiled here, and they themselves by the tests.
# So tests may skip for want of them. ScaLAPACK is among them because its ranks wait in a loop: three of them on
# two cores, instrumented, take many minutes.
unset LAMINA_CI
arguments=(-DLAMINA_TESTS=ON -DLAMINA_MICRO=OFF -DLAMINA_ONEDNN=OFF -DLAMINA_BLIS=OFF -DLAMINA_LIBXSMM=OFF
  -DLAMINA_SCALAPACK=OFF -DLAMINA_ELPA=OFF -DLAMINA_HWLOC=OFF)
[ "$#" -gt 0 ] || arguments+=(-DLAMINA_SANITIZE=address,undefined)
configure "$preset" "$folder" "${arguments[@]}"
build "$folder"
# Three ranks meet every uneven and empty part; the others, what only reads results, and the simulation of ten thousand
# series would double the time. Of memory only plain builds can tell.
skipped='distributed.(alone|ranks[124])|KeepsTheIntervalsPromise|FalseAlarmsAreRare|Selftest|GateBank|cli.(checks|ci|collective|compare|compress|docs|export|gate|history|memory|run|svd)_test'
# run_tests ASAN_OPTIONS PREFIXES
status=0
run_tests() {
  ASAN_OPTIONS=$1 ctest --test-dir "$folder" --output-on-failure --parallel "$(nproc)" --timeout 600 -R "^($2)\\." \
    -E "$skipped" || status=1
}
run_tests detect_leaks=1 'kernels|bench'
# Open MPI unloads its plugins before the end: only whole call stacks still lead to a library that has a name. They take
# their time at every allocation.
run_tests detect_leaks=1:fast_unwind_on_malloc=0 'distributed|cli'
exit "$status"
