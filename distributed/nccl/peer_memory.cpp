#include "distributed/nccl/peer_memory.hpp"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <string>

#include "distributed/agree.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/error.hpp"

namespace lamina {

PeerMemory::PeerMemory(Communicator& comm, int64_t bytes)
    : rank_(comm.rank()), all_(static_cast<size_t>(comm.size()), nullptr) {
  cudaIpcMemHandle_t handle{};
  together(comm, [&] {
    own_ = cuda_device()->allocate(bytes);
    check_cuda(cudaIpcGetMemHandle(&handle, own_.data()),
               "sharing device memory with the node's other ranks");
  });
  std::vector<cudaIpcMemHandle_t> handles(all_.size());
  comm.all_gather(&handle, handles.data(), std::vector<int64_t>(all_.size(), sizeof handle));
  try {
    together(comm, [&] {
      for (size_t rank = 0; rank < all_.size(); ++rank) {
        if (static_cast<int>(rank) == rank_) {
          all_[rank] = own_.as<uint8_t>();
          continue;
        }
        void* opened = nullptr;
        const cudaError_t status =
            cudaIpcOpenMemHandle(&opened, handles[rank], cudaIpcMemLazyEnablePeerAccess);
        if (status != cudaSuccess) {
          cudaGetLastError();
          throw DeviceError(fmt::format(
              "its GPU does not reach the memory of rank {}'s ({}); take \"communicator\": \"nccl\"", rank,
              cudaGetErrorString(status)));
        }
        all_[rank] = static_cast<uint8_t*>(opened);
      }
    });
  } catch (...) {
    close();
    throw;
  }
}

PeerMemory::~PeerMemory() {
  close();
}

void PeerMemory::close() {
  for (size_t rank = 0; rank < all_.size(); ++rank)
    if (static_cast<int>(rank) != rank_ && all_[rank] != nullptr) cudaIpcCloseMemHandle(all_[rank]);
  all_.clear();
}

}  // namespace lamina
