#!/usr/bin/env bash
# Do the CUDA parts compile and link? Needs nvcc, not a GPU; `lamina list` must then say that none answers, not crash.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
configure cuda build-cuda -DLAMINA_TESTS=OFF -DLAMINA_MICRO=OFF
build build-cuda lamina
build-cuda/lamina list >/dev/null
