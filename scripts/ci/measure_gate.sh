#!/usr/bin/env bash
# Says what a gate by `lamina ab` is worth on this machine: one build against itself, and beside each pair of launches
# builds whose kernels are really slower (LAMINA_INJECT_SLOWDOWN).
#   scripts/ci/measure_gate.sh [FOLDER] [CONFIG] [PAIRS] [PERCENT...]
# FOLDER (runs/gate-bank) gets the launches, selftest.md and times.csv; CONFIG is configs/gate.json, PAIRS 90, PERCENT
# 1 2 3 5 10: about half an hour on 2 cores. It goes on with a FOLDER that an earlier call left. Exit codes: those of
# `lamina selftest`: 0 a gate finds 5 % here, 12 none of those tried does; 64 bad usage; 69 where the program cannot be
# built.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

folder=${1:-$root/runs/gate-bank} config=${2:-$root/configs/gate.json} pairs=${3:-90}
percents=("${@:4}")
[ ${#percents[@]} -gt 0 ] || percents=(1 2 3 5 10)
for percent in "${percents[@]}"; do
  if ! [[ $percent =~ ^(100|[0-9]{1,2}(\.[0-9]+)?)$ && $percent =~ [1-9] ]]; then
    say "PERCENT: expected more than 0 and at most 100, found $percent"
    exit 64
  fi
done
# One tree, since a slowdown changes one file of it. Copied, since the next build takes its place.
tree=$root/build-measure-gate
slow=()
for slower in 0 "${percents[@]}"; do
  configure cpu "$tree" -DLAMINA_TESTS=OFF -DLAMINA_MICRO=OFF "-DLAMINA_INJECT_SLOWDOWN=$slower"
  if ! build "$tree" lamina || ! cp "$tree/lamina" "$tree/lamina-slower-$slower"; then
    say "cannot build $tree"
    exit "$exit_unavailable"
  fi
  [ "$slower" = 0 ] || slow+=(--slow "$tree/lamina-slower-$slower")
done
resume=()
[ ! -f "$folder/ab.json" ] || resume=(--resume)
exec "$tree/lamina-slower-0" selftest "$config" "${slow[@]}" --launches "$pairs" -o "$folder" \
  ${resume[@]+"${resume[@]}"}
