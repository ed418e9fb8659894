// The launch of a build without MPI: one process alone.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "distributed/communicator.hpp"
#include "distributed/launcher.hpp"
#include "distributed/transports.hpp"

namespace lamina {
namespace {

constexpr const char* kWhy = "built without MPI; build with -DLAMINA_MPI=ON";

}  // namespace

TransportType mpi_transport() {
  return absent_transport("mpi", "cpu", kWhy);
}

TransportType mpi_shm_transport() {
  return absent_transport("mpi-shm", "cpu", kWhy);
}

struct Launch::State {
  std::unique_ptr<Communicator> world;
};

Launch::Launch(int*, char***) {
  const std::string mismatch = launch_mismatch(launcher_claim(), 1, "");
  if (!mismatch.empty()) throw std::runtime_error(mismatch);
  state_ = std::make_unique<State>();
  state_->world = make_self_communicator();
}

Launch::~Launch() = default;

Communicator& Launch::world() {
  return *state_->world;
}

void Launch::finalize() {}

std::string Launch::library() {
  return "none (built with LAMINA_MPI=OFF)";
}

void Launch::abort(int exit_code) {
  std::fflush(nullptr);
  std::_Exit(exit_code);
}

}  // namespace lamina
