// NCCL's communicator of a Communicator's ranks, one GPU each.
#pragma once

#include <cuda_runtime.h>
#include <nccl.h>

#include <memory>
#include <string>
#include <vector>

#include "distributed/transport.hpp"

namespace lamina {

// Throws DeviceError with NCCL's words unless the call succeeded.
void check_nccl(ncclResult_t status, const char* call);

// Collective. AgreedError where two ranks share a GPU, or where NCCL cannot be set up in time.
std::unique_ptr<Transport> make_nccl(Communicator& comm, const TransportOptions& options);

// Why there is no transport over NCCL in this process: no GPU answers. Empty: there is.
std::string nccl_absence();

}  // namespace lamina
