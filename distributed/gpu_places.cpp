#include "distributed/gpu_places.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>

#include "distributed/agree.hpp"
#include "kernels/cuda/cuda_devices.hpp"

namespace lamina {
namespace {

constexpr double kNoise = 0.03;

}  // namespace

std::vector<GpuPlace> gather_gpu_places(const GpuPlace& own, Communicator& comm) {
  std::vector<GpuPlace> places;
  for (int rank = 0; rank < comm.size(); ++rank)
    places.push_back({comm.broadcast_text(own.host, rank), comm.broadcast_text(own.gpu, rank)});
  return places;
}

std::string shared_gpus(const std::vector<GpuPlace>& places) {
  std::map<std::pair<std::string, std::string>, std::vector<size_t>> users;
  for (size_t rank = 0; rank < places.size(); ++rank)
    users[{places[rank].host, places[rank].gpu}].push_back(rank);
  std::string shared, all;
  for (const auto& [place, ranks] : users) {
    if (ranks.size() < 2) continue;
    std::string list;
    for (const size_t rank : ranks) list += (list.empty() ? "" : ", ") + std::to_string(rank);
    shared += fmt::format("{}ranks {} share GPU {} of {}", shared.empty() ? "" : "; ", list, place.second,
                          place.first);
  }
  if (shared.empty()) return "";
  for (size_t rank = 0; rank < places.size(); ++rank)
    all += fmt::format("{}{}: {}", all.empty() ? "" : ", ", rank, places[rank].gpu);
  return fmt::format(
      "expected a GPU for each rank, found that {} (GPUs by rank: {}); start as many ranks a node as it has "
      "GPUs, or set \"ranks\" to it",
      shared, all);
}

void require_own_gpus(Communicator& comm) {
  GpuPlace own;
  together(comm, [&] {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    own = {host, cuda_bus_id()};
  });
  const std::string shared = shared_gpus(gather_gpu_places(own, comm));
  if (!shared.empty()) throw AgreedError(shared);  // the same on every rank
}

AllReduceWay way_of(const std::vector<AllReduceTimes>& times, int64_t bytes) {
  const auto entry =
      std::find_if(times.begin(), times.end(), [&](const AllReduceTimes& one) { return one.bytes >= bytes; });
  if (entry == times.end()) return AllReduceWay::nccl;
  AllReduceWay way = AllReduceWay::nccl;
  double best = entry->nccl_us * (1 - kNoise);
  if (entry->one_shot_us > 0 && entry->one_shot_us < best) {
    way = AllReduceWay::one_shot;
    best = entry->one_shot_us;
  }
  if (entry->two_shots_us > 0 && entry->two_shots_us < best) way = AllReduceWay::two_shots;
  return way;
}

}  // namespace lamina
