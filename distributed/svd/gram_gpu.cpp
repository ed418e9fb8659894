// gram on the ranks' GPUs: the Gram matrix and products with cuBLAS, all eigenvectors by cuSOLVER on one of
// them.
#include <algorithm>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/gpu_methods.hpp"
#include "distributed/svd/gpu_slab.hpp"
#include "distributed/svd/gram_end.hpp"
#include "kernels/cuda/factor_ops.hpp"

namespace lamina::svd {
namespace {

// This rank's rows of T/σ and of V, in float32.
Factored rounded(GpuSlab& slab, Buffer tall, const Buffer& vectors, std::vector<double> sigma) {
  const auto r = static_cast<int64_t>(sigma.size()), small = slab.small();
  const Range own = slab.own_short();
  Factored factored;
  factored.projected = slab.squares(tall.as<double>(), r);
  together(slab.comm(), [&] {
    factored.longer = Matrix<float>(slab.own_long().size(), r);
    factored.small = Matrix<float>(own.size(), r);
    std::vector<double> inverse(sigma);
    for (double& each : inverse) each = 1 / each;
    gpu::scale_columns(tall.as<double>(), slab.rows(), r, inverse);
    Buffer narrow = slab.device().allocate(4 * r * std::max(slab.rows(), small));
    gpu::narrow(tall.as<double>(), slab.rows() * r, 1, narrow.as<float>());
    slab.device().download(factored.longer.data.data(), narrow.data(), 4 * factored.longer.rows * r);
    gpu::narrow(vectors.as<double>(), r * small, 1, narrow.as<float>());
    Buffer turned = slab.device().allocate(4 * own.size() * r);
    gpu::transpose(narrow.as<float>() + own.begin, small, r, own.size(), turned.as<float>(), r);
    slab.device().download(factored.small.data.data(), turned.data(), turned.bytes());
  });
  factored.sigma = std::move(sigma);
  return factored;
}

// On the host: what is polished is little.
Factored polished_on_host(GpuSlab& slab, Buffer tall, const Buffer& vectors, int64_t r, int threads) {
  Matrix<double> own, all;
  together(slab.comm(), [&] {
    own = Matrix<double>(slab.own_long().size(), r);
    all = Matrix<double>(r, slab.small());
    slab.device().download(own.data.data(), tall.data(), 8 * own.rows * r);
    slab.device().download(all.data.data(), vectors.data(), vectors.bytes());
  });
  tall = {};
  return polished(std::move(own), all, slab.longer(), slab.comm(), threads);
}

}  // namespace

SvdResult gram_on_gpus(const Input& input, const SvdOptions& options, TimedCommunicator& comm) {
  SvdResult result;
  result.solved_by = "cusolver";
  std::unique_ptr<GpuSlab> slab;
  Buffer gram;
  {
    const Phase phase(result.phases.multiply_s, comm);
    slab = std::make_unique<GpuSlab>(input, options, comm);
    gram = slab->gram();
  }
  GpuSlab::Eigen pairs;
  {
    const Phase phase(result.phases.eigensolve_s, comm);
    pairs = slab->eigen(std::move(gram), slab->small(), [&](const std::vector<double>& values) {
      return choose_rank(values, input,
                         [&](double rho, int64_t r) { return gram_bound(rho, input.shape, r); });
    });
  }
  std::vector<double> sigma = roots(pairs.values, pairs.count);
  const bool polish = needs_polish(sigma);
  Factored factored;
  Buffer tall;
  {
    const Phase phase(result.phases.multiply_s, comm);
    together(comm, [&] { tall = slab->exact_forward(pairs.vectors.as<double>(), true, pairs.count); });
    if (!polish) factored = rounded(*slab, std::move(tall), pairs.vectors, std::move(sigma));
  }
  if (polish) {
    const Phase phase(result.phases.orthogonalize_s, comm);
    factored = polished_on_host(*slab, std::move(tall), pairs.vectors, pairs.count, options.threads);
  }
  conclude(input, slab->long_is_rows(), pairs.values, std::move(factored), result);
  return result;
}

int64_t gpu_host_bytes(Shape shape, int64_t rank, int ranks) {
  constexpr int64_t kLibraries = int64_t{32} << 20;  // cuBLAS's and cuSOLVER's
  const int64_t sides = shape.out_features + shape.in_features;
  return kLibraries + 4 * rank * (sides / ranks + 2 * kRowBlock) +
         8 * std::min(shape.out_features, shape.in_features);
}

int64_t gram_gpu_bytes(Shape shape, int64_t rank, int ranks, const SvdOptions&) {
  const int64_t small = std::min(shape.out_features, shape.in_features);
  const int64_t share =
      partition(std::max(shape.out_features, shape.in_features), ranks, kRowBlock)[0].size() +
      GpuSlab::kChunk;
  const int64_t vectors = 8 * rank * small;
  const int64_t factors = vectors + 12 * rank * (share + small) + 8 * GpuSlab::kChunk * small;
  return gpu_slab_bytes(shape, ranks) + std::max(gpu_gram_bytes(small) + vectors, factors);
}

}  // namespace lamina::svd
