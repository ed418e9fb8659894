#!/usr/bin/env bash
# NVIDIA's compute-sanitizer over the tests of the GPU's kernels: memcheck, racecheck and initcheck.
#   scripts/sanitize_gpu.sh [BUILD_FOLDER] [TOOL...]
# Large layers are left out. On one H200 memcheck takes seconds, the others minutes.
set -euo pipefail
build=${1:-build-cuda}
shift || true
tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck initcheck)
failed=0
for tool in "${tools[@]}"; do
  more=()
  # It does not see the bulk copies by which cuBLASLt's kernels store sums, and takes the scaling that reads them for wrong.
  [ "$tool" = initcheck ] && more=(--kernel-name-exclude kernel_substring=scale_)
  echo "== $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 9 "${more[@]}" "$build/tests/kernels_test" \
    --gtest_filter='*Cuda*-*LargeLayers*:*ProbesRun*:*SaysWhatDoesNotFit*:*SurvivesAFailedCapture*' || failed=1
done
exit $failed
