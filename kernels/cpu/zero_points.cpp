#include "kernels/cpu/zero_points.hpp"

#include <memory>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

// What is asked whether it is taken: all that the leaf says of itself, without its weights.
Leaf described_without_zero_points(const Leaf& leaf) {
  Leaf described;
  described.kind() = leaf.kind();
  described.rows = leaf.rows;
  described.cols = leaf.cols;
  described.whole_rows = leaf.whole_rows;
  described.whole_cols = leaf.whole_cols;
  described.input_scales = leaf.input_scales;
  return described;
}

Leaf without_zero_points(Leaf leaf) {
  leaf.zero_points.clear();
  return leaf;
}

// −s·z of each group, as dense weights [rows × groups].
Leaf offsets_of(const Leaf& leaf) {
  Leaf offsets;
  offsets.rows = offsets.whole_rows = leaf.rows;
  offsets.cols = offsets.whole_cols = leaf.groups();
  for (size_t i = 0; i < leaf.scales.size(); ++i)
    offsets.values.push_back(-leaf.scales[i] * static_cast<float>(leaf.zero_points[i]));
  return offsets;
}

class ZeroPointLayer final : public Layer {
 public:
  // The parts run one after the other, so their scratch may be the same.
  ZeroPointLayer(const Leaf& leaf, const LayerOptions& options, const Kernel& codes, const Kernel& dense)
      : codes_(codes.make(without_zero_points(leaf), options)),
        offsets_(dense.make(offsets_of(leaf), options)),
        rows_(leaf.rows),
        cols_(leaf.cols),
        group_(leaf.group),
        groups_(leaf.groups()),
        int8_(leaf.activation == ActivationRule::int8_per_token),
        input_scales_(leaf.input_scales),
        threads_(std::max(options.threads, 1)),
        sums_(make_scratch(options, std::max<int64_t>(options.max_tokens, 1) * groups_ * 4)),
        added_(make_scratch(options, std::max<int64_t>(options.max_tokens, 1) * rows_ * 4)),
        row_(make_scratch(options, threads_ * row_bytes(), threads_)) {}

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    codes_->forward(x, y, tokens, stream);
    const int threads = std::clamp(stream.threads, 1, threads_);
#pragma omp parallel for schedule(static) num_threads(threads) if (tokens > 1)
    for (int64_t t = 0; t < tokens; ++t) sum_groups(x + t * cols_, sums_->as<float>() + t * groups_);
    offsets_->forward(sums_->as<float>(), added_->as<float>(), tokens, stream);
    const float* added = added_->as<float>();
    const int64_t count = tokens * rows_;
#pragma omp parallel for simd schedule(static) num_threads(threads) if (count > 1 << 16)
    for (int64_t i = 0; i < count; ++i) y[i] += added[i];
  }

  Cost cost(int64_t tokens) const override {
    // The offsets read and write what the codes do already.
    Cost cost = codes_->cost(tokens);
    cost.operations += offsets_->cost(tokens).operations;
    cost.read_bytes += static_cast<double>(offsets_->weight_bytes());
    return cost;
  }
  int64_t weight_bytes() const override {
    return codes_->weight_bytes() + offsets_->weight_bytes();
  }

 private:
  // Of a thread: a token's activations over the input scales, and their codes, whole cache lines of each.
  int64_t row_bytes() const {
    return 4 * round_up(cols_, 64) + round_up(cols_, 64);
  }

  // Σ of the activations in each group, of one token.
  void sum_groups(const float* x, float* sums) {
    auto* divided = reinterpret_cast<float*>(row_->as<uint8_t>() + omp_get_thread_num() * row_bytes());
    if (!input_scales_.empty()) {
      for (int64_t k = 0; k < cols_; ++k) divided[k] = x[k] / input_scales_[static_cast<size_t>(k)];
      x = divided;
    }
    if (!int8_) {
      for (int64_t g = 0; g < groups_; ++g) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = g * group_; k < (g + 1) * group_; ++k) sum += x[k];
        sums[g] = sum;
      }
      return;
    }
    auto* codes = reinterpret_cast<int8_t*>(divided + round_up(cols_, 64));
    float scale = 0;
    cpu_ops().quantize(x, cols_, codes, &scale);
    for (int64_t g = 0; g < groups_; ++g) {
      int32_t sum = 0;
      for (int64_t k = g * group_; k < (g + 1) * group_; ++k) sum += codes[k];
      sums[g] = scale * static_cast<float>(sum);
    }
  }

  std::unique_ptr<Layer> codes_, offsets_;
  int64_t rows_, cols_, group_, groups_;
  bool int8_;
  std::vector<float> input_scales_;
  int threads_;
  std::shared_ptr<Buffer> sums_;   // [tokens × groups]
  std::shared_ptr<Buffer> added_;  // [tokens × rows]
  std::shared_ptr<Buffer> row_;
};

}  // namespace

Kernel take_zero_points(Kernel codes) {
  Kernel kernel = codes;
  const auto dense = std::make_shared<const Kernel>(native_dense_kernel());
  const auto inner = std::make_shared<const Kernel>(std::move(codes));
  kernel.refuses = [inner](const Leaf& leaf) {
    return inner->refuses(leaf.zero_points.empty() ? leaf : described_without_zero_points(leaf));
  };
  kernel.make = [inner, dense](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    if (leaf.zero_points.empty()) return inner->make(leaf, options);
    return std::make_unique<ZeroPointLayer>(leaf, options, *inner, *dense);
  };
  return kernel;
}

}  // namespace lamina
