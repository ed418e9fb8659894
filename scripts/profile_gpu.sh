#!/usr/bin/env bash
# What holds a GPU kernel back, by Nsight Compute: the sections that docs/gpu-kernels.md quotes.
#   scripts/profile_gpu.sh CONFIG KERNEL_REGEX [BUILD_FOLDER]
# CONFIG should hold one case: take --set and --filter's place in a copy of it. Clocks stay as they are.
set -euo pipefail
config=${1:?the config of the case}
kernel=${2:?a regular expression of the kernel, such as decode_kernel}
build=${3:-build-cuda}
exec ncu --clock-control none -k "regex:$kernel" -s 3 -c 2 --section SpeedOfLight --section SchedulerStats \
  --section WarpStateStats --section MemoryWorkloadAnalysis --section LaunchStats \
  "$build/lamina" run "$config" -o "$(mktemp -d)/run"
