#!/bin/bash
# Lamina by Open MPI's mpirun: scripts/cluster/mpirun.sh RANKS CORES_PER_RANK CONFIG [ARGUMENTS OF lamina run]
# Several nodes: HOSTS=node1:2,node2:2 (two ranks on each), with the same folder on all of them.
set -euo pipefail
if [ "$#" -lt 3 ]; then
  echo "usage: $0 RANKS CORES_PER_RANK CONFIG [ARGUMENTS]" >&2
  exit 64
fi
ranks=$1 cores=$2
shift 2

export OMP_PLACES=cores OMP_PROC_BIND=close
# PE=N binds each rank to N cores of its own; without it mpirun binds every rank to one core, whatever its threads.
exec mpirun -n "$ranks" ${HOSTS:+--host "$HOSTS"} --map-by "slot:PE=$cores" --bind-to core \
  -x OMP_PLACES -x OMP_PROC_BIND "${LAMINA:-build/lamina}" run "$@"
