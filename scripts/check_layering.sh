#!/usr/bin/env bash
# Holds the tree to the rules of docs/design.md that a compiler does not: which way dependencies point, where the
# headers of MPI, NCCL, CUDA and JSON may be included, no #if for what was not built, and file lengths.
#   scripts/check_layering.sh [FOLDER]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "${1:-$root}"

max_lines=450
breaches=0
sources='.*\.\(hpp\|cpp\|cu\|cuh\|inc\)'

# breach RULE: reads offending FILE:LINE:TEXT lines, prints them under the rule.
breach() {
  local lines
  lines=$(cat)
  [ -n "$lines" ] || return 0
  printf '%s\n' "$1" "$lines" | sed '2,$s/^/  /' >&2
  breaches=$((breaches + 1))
}

# search PATTERN FOLDER...: FILE:LINE:TEXT of every match in sources of the folders that exist.
search() {
  local pattern=$1
  shift
  { find "$@" -regex "$sources" -print0 2>/dev/null || true; } | sort -z | xargs -0 -r grep -HnE "$pattern" || true
}

# except PATH...: drops lines of files under these prefixes.
except() {
  local prefixes
  prefixes=$(printf '|%s' "$@")
  grep -vE "^(${prefixes:1})" || true
}

all=(kernels distributed bench tests)
for folder in kernels distributed bench; do
  if [ ! -d "$folder" ]; then
    say "found no folder $folder under $PWD"
    exit 1
  fi
done

include='^[[:space:]]*#[[:space:]]*include[[:space:]]*'
breach 'kernels/ must include nothing of distributed/ or bench/' \
  < <(search "${include}[\"<](\.\./)*(distributed|bench)/" kernels)
breach 'distributed/ must include nothing of bench/' < <(search "${include}[\"<](\.\./)*bench/" distributed)
breach 'the program must include nothing of tests/' < <(search "${include}[\"<](\.\./)*tests/" kernels distributed bench)
breach 'project headers are included relative to the root: "kernels/layer.hpp"' \
  < <(search "${include}\"" "${all[@]}" | grep -vE 'include *"((kernels|distributed|bench|tests)/[^"]+|commit\.inc)"' || true)
# lamina_bare is a program of its own, which uses nothing of what it is held against.
bare=(distributed/mpi/bare distributed/nccl/bare.cpp distributed/absent/bare_nccl.cpp)
breach 'the loops of lamina_bare must include nothing else of the project' \
  < <(search "${include}\"" "${bare[@]}" | grep -v 'include *"distributed/mpi/bare/' || true)
breach 'nothing but lamina_bare includes its loops' \
  < <(search "${include}[\"<]distributed/mpi/bare/" "${all[@]}" | except "${bare[@]}")
breach 'mpi.h belongs under distributed/{mpi,scalapack,nccl}/' \
  < <(search "${include}[\"<]mpi\.h" "${all[@]}" | except distributed/mpi/ distributed/scalapack/ distributed/nccl/)
breach 'nccl.h belongs under distributed/nccl/' \
  < <(search "${include}[\"<]nccl\.h" "${all[@]}" | except distributed/nccl/)
breach 'hwloc.h belongs under bench/hwloc/' \
  < <(search "${include}[\"<]hwloc" "${all[@]}" | except bench/hwloc/)
breach 'CUDA headers belong under kernels/cuda/ and distributed/nccl/' \
  < <(search "${include}[\"<](cuda|cublas|cusparse|cusolver|curand)[A-Za-z0-9_]*\.h" "${all[@]}" |
    except kernels/cuda/ distributed/nccl/)
breach "oneDNN's headers belong in kernels/cpu/onednn.cpp" \
  < <(search "${include}[\"<]([a-z]+/)*dnnl" "${all[@]}" | except 'kernels/cpu/onednn\.cpp')
breach "LIBXSMM's headers belong in kernels/cpu/libxsmm.cpp" \
  < <(search "${include}[\"<]([a-z]+/)*libxsmm" "${all[@]}" | except 'kernels/cpu/libxsmm\.cpp')
breach "ELPA's headers belong in distributed/scalapack/elpa.cpp" \
  < <(search "${include}[\"<]elpa/" "${all[@]}" | except 'distributed/scalapack/elpa\.cpp')
breach "Boost's headers belong in bench/compare/ and bench/history/" \
  < <(search "${include}[\"<]boost/" "${all[@]}" | except bench/compare/ bench/history/)
breach 'JSON is read and written in kernels/json.*, kernels/weights/*.cpp and bench/: no nlohmann elsewhere' \
  < <(search "${include}[\"<](nlohmann/|kernels/json\.hpp)" "${all[@]}" |
    except 'kernels/json\.' 'kernels/weights/[^:]*\.cpp' bench/ tests/)
breach 'what is not built is a stub in absent/ chosen by CMake, not an #if' \
  < <(search '^[[:space:]]*#[[:space:]]*(if|ifdef|ifndef|elif)\b.*(LAMINA_|HAVE_|WITH_|USE_|__CUDACC__|_OPENMP|OMPI_|MPI_)' \
    "${all[@]}" | except kernels/cpu/dispatch.cpp)
breach 'NVLink multicast is never used (docs/collectives.md): machines hung on it' \
  < <(search 'cuMulticast|multimem\.|NCCL_NVLS_ENABLE' "${all[@]}" | grep -v 'setenv("NCCL_NVLS_ENABLE", "0", 1)' || true)
breach "files stay under $max_lines lines: split them by what they do" \
  < <(find "${all[@]}" scripts cmake -type f \
    -regex '.*\.\(hpp\|cpp\|cu\|cuh\|inc\|py\|sh\|cmake\)' -print0 2>/dev/null | sort -z |
    xargs -0 -r wc -l | awk -v max="$max_lines" '$2 != "total" && $1 > max { print $2 ": " $1 " lines" }')

if [ "$breaches" -gt 0 ]; then
  say "$breaches rules broken (above)"
  exit 1
fi
say "layering holds"
