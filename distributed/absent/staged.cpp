// MPI and codes for a GPU's memory, in a build without CUDA.
#include "distributed/collectives/codec.hpp"
#include "distributed/transports.hpp"

namespace lamina {

TransportType staged_mpi_transport() {
  return absent_transport("mpi", "cuda", "built without CUDA; configure with the `cuda` preset");
}

std::unique_ptr<Codec> make_cuda_codec(Payload, int64_t) {
  return nullptr;
}

}  // namespace lamina
