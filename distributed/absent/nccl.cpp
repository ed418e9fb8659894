// NCCL was not built: the same interface, saying so.
#include "distributed/transports.hpp"

namespace lamina {
namespace {

TransportType absent_transport(const std::string& name) {
  TransportType type;
  type.name = name;
  type.device = "cuda";
  type.absent = "built without NCCL; configure with the `cuda` preset where libnccl-dev is installed";
  return type;
}

}  // namespace

TransportType nccl_transport() {
  return absent_transport("nccl");
}

TransportType nccl_oneshot_transport() {
  return absent_transport("nccl-oneshot");
}

}  // namespace lamina
