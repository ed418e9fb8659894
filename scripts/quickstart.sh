#!/usr/bin/env bash
# From nothing to a first table: installs what is missing, builds, and runs configs/quickstart.json on two ranks.
# Needs Debian 12, Ubuntu 24.04 or a machine that brings the dependencies itself (see lib.sh for the knobs). Running it
# again builds only what changed. Arguments go to `lamina run`: scripts/quickstart.sh --filter int8
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

install_packages "${build_packages[@]}"

preset=$(choose_preset)
folder=build
[ "$preset" = cpu ] || folder=build-$preset
# The first build makes the program alone; test.sh adds the tests to the same folder.
first=()
[ -f "$folder/CMakeCache.txt" ] || first=(-DLAMINA_TESTS=OFF -DLAMINA_MICRO=OFF)
rm -f "$folder/quickstart.log"
# Nobody who wants a table reads hundreds of lines before it. At a terminal the build shows how far it is, in one.
logged "$folder/quickstart.log" configure "$preset" "$folder" "${first[@]}"
if [ -t 2 ]; then
  say "building; five to ten minutes on two cores the first time"
  build "$folder" lamina
else
  say "building; five to ten minutes on two cores the first time; what it prints goes to $folder/quickstart.log"
  logged "$folder/quickstart.log" build "$folder" lamina
fi

# A slice of a larger machine may show all of that one's cache. To run past it takes gigabytes a case, and minutes.
cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
cache_kib=$(for one in /sys/devices/system/cpu/cpu[0-9]*/cache/index3; do
  [ -r "$one/size" ] && echo "$(cat "$one/shared_cpu_list") $(cat "$one/size")"
done | sort -u | awk '{ sum += $2 } END { print sum + 0 }')
most_kib=$((48 * 1024 * cores))  # more than any processor has
if [ -z "${LAMINA_CACHE_BYTES:-}" ] && [ "$cache_kib" -gt "$most_kib" ]; then
  export LAMINA_CACHE_BYTES=$((most_kib * 512))
  say "this machine shows $((cache_kib >> 10)) MiB of cache for $cores cores, which it must share: rows are cold past" \
    "$((LAMINA_CACHE_BYTES >> 20)) MiB here; LAMINA_CACHE_BYTES=$((cache_kib << 10)) measures past all of it"
fi

mpi_launcher "$folder" 2
out=runs/quickstart-$(date -u +%Y%m%dT%H%M%SZ)
command=("${launcher[@]}" "$folder/lamina" run configs/quickstart.json -o "$out" "$@")
say "running: ${command[*]}"
status=0
"${command[@]}" || status=$?

if [ -n "${OMPI_ALLOW_RUN_AS_ROOT:-}" ]; then
  root_note='
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1    as root, before mpirun'
fi
cat <<END

How to read it (every column: README.md): shard is how the weights are cut over the two ranks; speedup is against the fastest
dense row of the same shard; limit is the share of what this machine's memory or arithmetic allows; NMSE is what
compression loses; check is ok where a float64 product of the same weights agrees.
Records, environment and table: $out/
Next:${root_note:-}
  $folder/lamina list                                        what can be named in a config
  $folder/lamina run configs/quickstart.json --dry-run       the cases, without running them
  $folder/lamina export $out --format csv
  ${launcher[*]} $folder/lamina run configs/mlp.json
  docs/config.md explains how to write a config of your own
END
exit "$status"
