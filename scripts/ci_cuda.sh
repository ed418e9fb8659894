#!/usr/bin/env bash
# Do the CUDA parts compile and link? Needs nvcc, not a GPU; `lamina list` must then say that none answers, not crash.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
# One architecture is enough to see that the code compiles. -Werror as the tests' build has it: what both compile, ccache
# then has for the second.
configure cuda build-cuda -DLAMINA_WERROR=ON -DLAMINA_TESTS=OFF -DLAMINA_MICRO=OFF -DCMAKE_CUDA_ARCHITECTURES=90a-real
build build-cuda lamina
build-cuda/lamina list >/dev/null
