#!/usr/bin/env bash
# Builds the commit that a change started from and the change itself, measures both in turn on this machine, and
# says whether the change made anything slower, larger in error, or invalid.
#   scripts/ci/gate.sh BASE CONFIG LAUNCHES [FOLDER]
# BASE is a commit: that from which HEAD and it parted is measured, so that what others did since does not count.
# CONFIG is the change's own, for both. FOLDER (gate) gets verdict.json, comment.md, and in ab/ the launches.
# Environment: LAMINA_CMAKE_ARGS, as in scripts/lib.sh; LAMINA_AB_ARGS, more words for `lamina ab`, separated by spaces:
# "--filter o_proj --limit 10". Exit codes: those of `lamina ab`: 0 nothing got worse, 1 a launch failed, 10 a regression, 11
# rows missing or invalid, 12 inconclusive, 64 bad usage; 69 where either cannot be built. Where there is no report,
# comment.md says that nothing was compared.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

if [ $# -lt 3 ] || [ $# -gt 4 ]; then
  say "usage: gate.sh BASE CONFIG LAUNCHES [FOLDER]"
  exit 64
fi
base=$1 config=$2 launches=$3 folder=${4:-gate}
mkdir -p "$folder"
rm -rf "$folder/ab" "$folder/verdict.json" "$folder/comment.md"
folder=$(cd "$folder" && pwd)

base_tree=
# Whatever ends it: no comment of an earlier run stays, and no tree.
# shellcheck disable=SC2317  # called by the trap
finish() {
  local status=$?
  if [ -n "$base_tree" ]; then
    git -C "$root" worktree remove --force "$base_tree" 2>/dev/null || true
    rm -rf "$base_tree"
  fi
  [ -s "$folder/comment.md" ] || printf \
    '<!-- lamina-gate -->\n### Lamina: nothing was compared\n\nThe log of the job says why (exit code %d).\n' "$status" \
    >"$folder/comment.md"
}
trap finish EXIT

if ! parted=$(git -C "$root" merge-base "$base" HEAD); then
  say "no commit that $base and HEAD both come from: fetch the whole history (fetch-depth: 0, GIT_DEPTH: 0)"
  exit 64
fi
base_tree=$(mktemp -d)
git -C "$root" worktree add --quiet --detach "$base_tree" "$parted"

# build_program TREE: the program alone, into TREE/build-gate.
build_program() {
  local more=()
  read -r -a more <<<"${LAMINA_CMAKE_ARGS:-}"
  if ! cmake -S "$1" -B "$1/build-gate" -DCMAKE_BUILD_TYPE=Release -DLAMINA_TESTS=OFF -DLAMINA_MICRO=OFF \
    ${more[@]+"${more[@]}"} >&2 || ! cmake --build "$1/build-gate" --parallel "$(nproc)" --target lamina >&2; then
    say "cannot build $1"
    exit "$exit_unavailable"
  fi
}
build_program "$base_tree"
build_program "$root"

say "comparing $parted with $(git -C "$root" rev-parse HEAD) by $config, $launches launches of each"
status=0
more=()
read -r -a more <<<"${LAMINA_AB_ARGS:-}"
"$root/build-gate/lamina" ab --base "$base_tree/build-gate/lamina" --new "$root/build-gate/lamina" "$config" \
  --launches "$launches" ${more[@]+"${more[@]}"} -o "$folder/ab" || status=$?
[ ! -f "$folder/ab/verdict.json" ] || cp "$folder/ab/verdict.json" "$folder/verdict.json"
# The first line marks the comment, so that the next run of a change finds and replaces it.
if [ -s "$folder/ab/report.md" ]; then
  { printf '<!-- lamina-gate -->\n' && cat "$folder/ab/report.md"; } >"$folder/comment.md"
fi
exit "$status"
