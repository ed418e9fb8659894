# shellcheck shell=bash disable=SC2034  # the arrays are for those who source this
# Shared by the other scripts: what the machine offers, missing packages, configure and build. Sourced, not run.
#
# Environment:
#   LAMINA_NO_INSTALL=1   install nothing: the dependencies come from elsewhere, such as a cluster's modules
#   LAMINA_CMAKE_ARGS     more arguments for CMake, separated by spaces: "-DBLA_VENDOR=Intel10_64lp -DLAMINA_MICRO=OFF"
#   LAMINA_PRESET         cpu or cuda; by default cuda where both a GPU and nvcc answer

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What the program needs, what its tests and micro-benchmarks add, and what the checks add: tools, and the libraries
# that are optional otherwise, so that the code that calls them is compiled and tested. The names are the
# same on Debian 12 and Ubuntu 24.04.
build_packages=(g++ cmake ninja-build libopenmpi-dev openmpi-bin libopenblas-openmp-dev
  libscalapack-openmpi-dev nlohmann-json3-dev libcli11-dev libfmt-dev libboost-dev)
test_packages=(libgtest-dev libgmock-dev libbenchmark-dev python3)
check_packages=(clang-format-14 ccache git libbenchmark-tools python3-scipy python3-yaml nodejs
  libdnnl-dev libblis-openmp-dev libxsmm-dev libelpa-dev libhwloc-dev)

# sysexits.h: a service (here: a package) is not available.
exit_unavailable=69

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# The packages of the arguments that are not installed, on one line.
missing_packages() {
  local package missing=()
  for package in "$@"; do
    if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
      missing+=("$package")
    fi
  done
  printf '%s' "${missing[*]-}"
}

# The words to put before apt-get, or failure where it cannot be run as root. A sudo that asks for a password is of
# use only where somebody can type it.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    return 0
  elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    printf 'sudo'
  else
    return 1
  fi
}

# Installs what is missing of the arguments. Where that cannot be done, it notes so in $not_installed and goes on: the
# machine may offer the same things in another way, and CMake will tell.
not_installed=
install_packages() {
  local missing sudo
  if [ "${LAMINA_NO_INSTALL:-0}" = 1 ] || ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    return 0
  fi
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  if ! sudo=$(as_root); then
    not_installed=$missing
    say "missing packages: $missing"
    say "neither root nor sudo: trying with what is here"
    return 0
  fi
  say "installing: $missing"
  # $sudo and $missing are lists of words.
  # shellcheck disable=SC2086
  if ! { $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 &&
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >&2; }; then
    say "apt-get failed (above); needed: $missing"
    exit "$exit_unavailable"
  fi
}

# Says how to get the packages that could not be installed, and ends. Called where the build failed without them.
require_packages() {
  if [ -n "$not_installed" ]; then
    say "not installed: $not_installed"
    say "ask an administrator for: apt-get install --no-install-recommends $not_installed"
    say "or load modules that bring the same, and see docs/building.md"
    exit "$exit_unavailable"
  fi
}

# cuda only where a kernel could run (a GPU answers) and be compiled (nvcc).
choose_preset() {
  if [ -n "${LAMINA_PRESET:-}" ]; then
    printf '%s' "$LAMINA_PRESET"
  elif find_nvcc >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
    printf 'cuda'
  else
    printf 'cpu'
  fi
}

find_nvcc() {
  command -v nvcc || { [ -x /usr/local/cuda/bin/nvcc ] && printf '/usr/local/cuda/bin/nvcc\n'; }
}

# configure PRESET FOLDER [CMAKE ARGUMENTS]: as `cmake --preset`, then LAMINA_CMAKE_ARGS.
configure() {
  local preset=$1 folder=$2 more=()
  shift 2
  read -r -a more <<<"${LAMINA_CMAKE_ARGS:-}"
  if [ "$preset" = cuda ] && ! command -v nvcc >/dev/null; then
    CUDACXX=$(find_nvcc)
    export CUDACXX
  fi
  if ! command -v cmake >/dev/null; then
    say "no cmake on PATH"
    require_packages
    say "install or load CMake 3.22 or newer"
    exit "$exit_unavailable"
  fi
  # A preset names no generator, so that a folder configured by hand stays usable; Ninja only for new ones.
  if [ ! -f "$folder/CMakeCache.txt" ] && command -v ninja >/dev/null; then
    more=(-G Ninja "${more[@]}")
  fi
  if ! (cd "$root" && cmake --preset "$preset" -B "$folder" "$@" "${more[@]}") >&2; then
    require_packages
    say "cmake could not configure (above); docs/building.md lists what is needed"
    exit "$exit_unavailable"
  fi
}

# build FOLDER [TARGETS]
build() {
  local folder=$1
  shift
  cmake --build "$folder" --parallel "$(nproc)" ${1:+--target "$@"} >&2
}

# logged LOG COMMAND...: what it prints is added to LOG, and the end of that to stderr where it fails.
logged() {
  local log=$1 status=0
  shift
  mkdir -p "$(dirname "$log")"
  ("$@") >>"$log" 2>&1 || status=$?
  [ "$status" -eq 0 ] || { tail -n 40 "$log" >&2 && say "failed (above; all of it is in $log)"; }
  return "$status"
}

# cached FOLDER NAME: a variable of a configured build.
cached() { sed -n "s|^$2:[^=]*=||p" "$1/CMakeCache.txt" | head -n 1; }

# Physical cores that this process may use: nproc counts hardware threads, and a rank wants a core.
count_cores() {
  local allowed cores
  allowed=$(nproc)
  cores=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l)
  if [ "$cores" -gt 0 ] && [ "$cores" -lt "$allowed" ]; then
    printf '%s' "$cores"
  else
    printf '%s' "$allowed"
  fi
}

# Fills $launcher with the words that start N ranks of one program on this machine, each rank bound to its share of the
# cores: mpi_launcher FOLDER N.
mpi_launcher() {
  local folder=$1 ranks=$2 mpiexec cores per_rank version
  mpiexec=$(cached "$folder" MPIEXEC_EXECUTABLE)
  mpiexec=${mpiexec:-mpirun}
  cores=$(count_cores)
  per_rank=$((cores / ranks))
  launcher=("$mpiexec" "$(cached "$folder" MPIEXEC_NUMPROC_FLAG)" "$ranks")
  version=$("$mpiexec" --version 2>&1 || true)
  if [[ $version == *HYDRA* && $per_rank -ge 1 ]]; then  # MPICH and its kin
    launcher+=(-bind-to "core:$per_rank")
  elif [[ $version == *"Open MPI"* || $version == *OpenRTE* || $version == *prte* ]]; then
    if [ "$(id -u)" -eq 0 ]; then
      export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    if [ "$per_rank" -ge 1 ]; then
      launcher+=(--map-by "slot:PE=$per_rank" --bind-to core)
    else
      launcher+=(--oversubscribe)
    fi
  fi
}
