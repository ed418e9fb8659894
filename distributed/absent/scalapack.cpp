// A build without ScaLAPACK.
#include "distributed/scalapack.hpp"

namespace lamina::svd {
namespace {

const char* const kAbsent =
    "built without ScaLAPACK; install libscalapack-openmpi-dev (libscalapack-mpich-dev for MPICH), then "
    "configure and build again";

SvdResult absent_run(const Input&, const SvdOptions&, TimedCommunicator&) {
  throw AgreedError(std::string("svd: ") + kAbsent);
}
int64_t no_bytes(Shape, Layout, int64_t, int, const SvdOptions&) {
  return 0;
}

}  // namespace

std::string scalapack_absent() {
  return kAbsent;
}

SpreadMatrix scalapack_redistribute(Shape, const Distribution&, const Matrix<float>&, const Distribution&,
                                    Communicator&, int) {
  throw AgreedError(std::string("block-cyclic layout: ") + kAbsent);
}

Eigenpairs scalapack_eigen(SymmetricTiles&&, const ChooseRank&, Communicator&, int) {
  throw AgreedError(std::string("svd: ") + kAbsent);
}

int64_t scalapack_eigen_bytes(int64_t, int64_t, int) {
  return 0;
}

Method scalapack_method() {
  return {{"scalapack", "ScaLAPACK's psgesvd, float32, 2D block-cyclic", kAbsent, false, no_bytes},
          absent_run};
}

Method scalapack_f64_method() {
  return {{"scalapack-f64", "ScaLAPACK's pdgesvd, float64, 2D block-cyclic", kAbsent, false, no_bytes},
          absent_run};
}

}  // namespace lamina::svd
