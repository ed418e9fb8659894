#!/usr/bin/env bash
# Builds everything and runs all tests. Arguments go to ctest: scripts/test.sh -R kernels. The output ends with ctest's
# own count. lib.sh has the knobs; LAMINA_TEST_FOLDER is the build folder (build).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

install_packages "${build_packages[@]}" "${test_packages[@]}"

preset=$(choose_preset)
folder=${LAMINA_TEST_FOLDER:-build}
[ "$preset" = cpu ] || folder=${LAMINA_TEST_FOLDER:-build-$preset}
configure "$preset" "$folder" -DLAMINA_TESTS=ON -DLAMINA_MICRO=ON
build "$folder"
say "tests of what is not here (a GPU, Slurm) skip: ctest lists them at the end as not run"
exec ctest --test-dir "$folder" --output-on-failure --parallel "$(nproc)" "$@"
