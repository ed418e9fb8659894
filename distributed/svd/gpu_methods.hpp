// The methods that run on GPUs too: Method::run_on_gpus and SvdMethod::gpu_bytes.
#pragma once

#include <memory>

#include "distributed/svd/basis.hpp"
#include "distributed/svd/method.hpp"

namespace lamina::svd {

SvdResult gram_on_gpus(const Input& input, const SvdOptions& options, TimedCommunicator& comm);
int64_t gram_gpu_bytes(Shape shape, int64_t rank, int ranks, const SvdOptions& options);

// Of the host's memory, of a method on GPUs: this rank's factors, and what moves A to where it is wanted.
int64_t gpu_host_bytes(Shape shape, int64_t rank, int ranks);

std::unique_ptr<Basis> make_gpu_basis(const Input& input, const SvdOptions& options, TimedCommunicator& comm);
// Of a basis of so many columns, of which `rank` become factors.
int64_t gpu_basis_bytes(Shape shape, int64_t columns, int64_t rank, int ranks);

}  // namespace lamina::svd
