// Which rank has which GPU, and what follows from it. Any topology can be tried without a GPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "distributed/communicator.hpp"

namespace lamina {

struct GpuPlace {
  std::string host;
  std::string gpu;  // its PCI bus id
};

// Every rank's, in rank order. Collective.
std::vector<GpuPlace> gather_gpu_places(const GpuPlace& own, Communicator& comm);
// Empty where every rank has a GPU of its own; else which ranks share one, every rank's GPU, and what to do.
std::string shared_gpus(const std::vector<GpuPlace>& places);
// Collective. AgreedError with that, or where a rank has no GPU.
void require_own_gpus(Communicator& comm);

// How an all-reduce of a node is done: NCCL's way, each rank's message whole to each other, or in parts.
enum class AllReduceWay { nccl, one_shot, two_shots };

// What was measured of messages of so many bytes, in µs, of the slowest rank. 0: that way takes no such
// message.
struct AllReduceTimes {
  int64_t bytes = 0;
  double nccl_us = 0, one_shot_us = 0, two_shots_us = 0;
};
// The way of a message by the measured one that is next in size and not smaller (`times` ascends); beyond all
// of them NCCL's. What does not win by more than the noise, 3 %, stays NCCL's.
AllReduceWay way_of(const std::vector<AllReduceTimes>& times, int64_t bytes);

}  // namespace lamina
