#!/usr/bin/env bash
# NVIDIA's compute-sanitizer over the tests of the GPU's kernels: memcheck, racecheck and initcheck.
#   scripts/sanitize_gpu.sh [BUILD_FOLDER] [TOOL...]
# Large layers are left out, which would take an hour. Libraries' own kernels are checked along with ours.
set -euo pipefail
build=${1:-build-cuda}
shift || true
tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck initcheck)
failed=0
for tool in "${tools[@]}"; do
  more=()
  # A buffer that is written in part is not wrong, and libraries' uninitialised padding is not ours.
  [ "$tool" = initcheck ] && more=(--track-unused-memory no)
  echo "== $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 9 "${more[@]}" "$build/tests/kernels_test" \
    --gtest_filter='*Cuda*-*LargeLayers*:*ProbesRun*:*SaysWhatDoesNotFit*:*SurvivesAFailedCapture*' || failed=1
done
exit $failed
