#!/usr/bin/env bash
# Do the CUDA parts compile and link? Needs nvcc, not a GPU; `lamina list` must then say that none answers, not crash.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
# -Werror as the tests' build has it: what both compile, ccache then has for the second.
configure cuda build-cuda -DLAMINA_WERROR=ON -DLAMINA_TESTS=OFF -DLAMINA_MICRO=OFF
build build-cuda lamina
build-cuda/lamina list >/dev/null
