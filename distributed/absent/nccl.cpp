// NCCL was not built: the same interface, saying so.
#include "distributed/transports.hpp"

namespace lamina {
namespace {

constexpr const char* kWhy =
    "built without NCCL; configure with the `cuda` preset where libnccl-dev is installed";

}  // namespace

TransportType nccl_transport() {
  return absent_transport("nccl", "cuda", kWhy);
}

TransportType nccl_oneshot_transport() {
  return absent_transport("nccl-oneshot", "cuda", kWhy);
}

}  // namespace lamina
