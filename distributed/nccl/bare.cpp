// ncclAllReduce as nccl-tests times it: one rank a GPU, a pair of buffers of the largest size, calls before
// the clock starts, then many between two waits for the stream.
#include <cuda_runtime.h>
#include <fmt/format.h>
#include <mpi.h>
#include <nccl.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "distributed/mpi/bare/bare.hpp"

namespace bare {
namespace {

constexpr int kWarmUps = 5, kIterations = 20;

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(fmt::format("cuda: {}: {}", what, cudaGetErrorString(status)));
}

void check(ncclResult_t status, const char* what) {
  if (status != ncclSuccess)
    throw std::runtime_error(fmt::format("nccl: {}: {}", what, ncclGetErrorString(status)));
}

int node_rank() {
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  int own = 0;
  MPI_Comm_rank(node, &own);
  MPI_Comm_free(&node);
  return own;
}

float* device_numbers(int64_t bytes, int rank) {
  void* data = nullptr;
  check(cudaMalloc(&data, static_cast<size_t>(bytes)), "allocating device memory");
  std::vector<float> numbers(static_cast<size_t>(bytes) / sizeof(float));
  fill_random(numbers.data(), static_cast<int64_t>(numbers.size()), rank);
  check(cudaMemcpy(data, numbers.data(), static_cast<size_t>(bytes), cudaMemcpyHostToDevice),
        "copying to the GPU");
  return static_cast<float*>(data);
}

}  // namespace

std::string gpu_absence() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return fmt::format("no usable GPU: {}", cudaGetErrorString(status));
  return count > 0 ? "" : "no GPU answers";
}

std::vector<Row> time_nccl(const Options& options) {
  int rank = 0, ranks = 1, gpus = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  const int gpu = node_rank();
  check(cudaGetDeviceCount(&gpus), "counting GPUs");
  if (gpu >= gpus)
    throw std::runtime_error(fmt::format(
        "rank {} is number {} of its node, which has {} GPUs: start as many ranks", rank, gpu, gpus));
  check(cudaSetDevice(gpu), "choosing a GPU");
  setenv("NCCL_NVLS_ENABLE", "0", 1);  // never multicast: see docs/collectives.md
  ncclUniqueId id{};
  if (rank == 0) check(ncclGetUniqueId(&id), "making an id");
  MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
  ncclComm_t comm = nullptr;
  check(ncclCommInitRank(&comm, ranks, id, rank), "setting up");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  const int64_t most = *std::max_element(options.bytes.begin(), options.bytes.end());
  float* const in = device_numbers(most, rank);
  float* const out = device_numbers(most, rank);
  const auto wait = [&] { check(cudaStreamSynchronize(stream), "waiting for all-reduces"); };

  std::vector<Row> rows;
  for (const bool graph : {true, false}) {
    for (const int64_t bytes : options.bytes) {
      Row row{"nccl", true, graph, bytes, options.iterations > 0 ? options.iterations : kIterations, {}};
      const auto enqueue = [&](int calls) {
        for (int i = 0; i < calls; ++i)
          check(ncclAllReduce(in, out, static_cast<size_t>(bytes) / sizeof(float), ncclFloat32, ncclSum, comm,
                              stream),
                "all-reduce");
      };
      enqueue(kWarmUps);
      wait();
      if (!graph) {
        row.us = time_repeats(options.repeats, row.iterations, [&] {
          enqueue(row.iterations);
          wait();
        });
        rows.push_back(std::move(row));
        continue;
      }
      cudaGraph_t captured = nullptr;
      cudaGraphExec_t ready = nullptr;
      check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning a capture");
      enqueue(row.iterations);
      check(cudaStreamEndCapture(stream, &captured), "ending a capture");
      check(cudaGraphInstantiate(&ready, captured, 0), "making a graph's executable");
      const auto replay = [&] {
        check(cudaGraphLaunch(ready, stream), "launching a graph");
        wait();
      };
      replay();
      row.us = time_repeats(options.repeats, row.iterations, replay);
      check(cudaGraphExecDestroy(ready), "giving back a graph's executable");
      check(cudaGraphDestroy(captured), "giving back a graph");
      rows.push_back(std::move(row));
    }
  }
  cudaFree(in);
  cudaFree(out);
  cudaStreamDestroy(stream);
  ncclCommDestroy(comm);
  return rows;
}

}  // namespace bare
