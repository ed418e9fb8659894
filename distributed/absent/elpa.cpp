// A build without ELPA.
#include "distributed/scalapack.hpp"

namespace lamina::svd {

std::string elpa_absent() {
  return "built without ELPA; install libelpa-dev, then configure and build again";
}

Eigenpairs elpa_eigen(SymmetricTiles&&, const ChooseRank&, Communicator&, int) {
  throw AgreedError("svd: " + elpa_absent());
}

int64_t elpa_eigen_bytes(int64_t, int64_t, int) {
  return 0;
}

}  // namespace lamina::svd
