// bfloat16 weights pruned in any other pattern than 2:4: as a bitmap and what is kept, or where blocks are of
// whole tiles of the tensor cores, as those that are kept. Few tokens by decode.cu; many by cuBLASLt on the
// weights expanded to a whole matrix.
#include <algorithm>
#include <stdexcept>
#include <vector>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/decode.hpp"
#include "kernels/cuda/decode_pruned.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/kernels.hpp"
#include "kernels/cuda/matmul.hpp"

namespace lamina {
namespace {

constexpr int64_t kTile = 16;  // rows, and columns, of what a warp multiplies at once

DecodeFormat format_of(const Leaf& leaf) {
  const Pattern& p = leaf.pattern;
  const bool whole = p.kind == PatternKind::block && p.block_rows % kTile == 0 && p.block_cols % kTile == 0 &&
                     leaf.cols / kTile < 65536;
  return whole ? DecodeFormat::blocks : DecodeFormat::bitmap;
}

double kept_share(const Leaf& leaf) {
  if (leaf.mask.empty()) return 1;
  int64_t kept = 0;
  const auto size = static_cast<int64_t>(leaf.mask.size());
#pragma omp parallel for schedule(static) reduction(+ : kept)
  for (int64_t i = 0; i < size; ++i) kept += leaf.mask[static_cast<size_t>(i)];
  return static_cast<double>(kept) / static_cast<double>(std::max<int64_t>(size, 1));
}

class PrunedLayer final : public CudaLayer {
 public:
  PrunedLayer(const Leaf& leaf, const LayerOptions& options)
      : CudaLayer(leaf, options, InputType::bf16, Arithmetic::bf16),
        format_(format_of(leaf)),
        layout_(pruned_layout(format_, leaf.rows, leaf.cols)),
        kept_(kept_share(leaf)) {
    {
      const Buffer weights = upload_bf16(leaf.values.data(), leaf.rows, leaf.cols);
      format_ == DecodeFormat::bitmap ? pack_bitmap(weights) : pack_blocks(leaf, weights);
    }
    Device& device = *cuda_device();
    most_few_ = decode_tokens(format_, layout_);
    const int64_t few = std::min(options.max_tokens, most_few_);
    partials_ = scratch(decode_partial_bytes(few));
    counters_ = device.allocate(decode_counters(layout_) * 4);
    device.fill(counters_.data(), 0, counters_.bytes());
    if (layout_.x_cols != leaf.cols) padded_x_ = scratch(few * layout_.x_cols * 2);
    if (options.max_tokens > most_few_) whole_ = scratch(leaf.rows * leaf.cols * 2);
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    const cudaStream_t on = cuda_stream(stream);
    if (tokens > most_few_) {
      format_ == DecodeFormat::bitmap
          ? bitmap_expand(layout_, weights_.data(), places_.as<uint32_t>(), whole_->data(), on)
          : blocks_expand(layout_, weights_.data(), places_.as<uint2>(), whole_->data(), on);
      check_launch("expanding pruned weights");
      matmul({}, rows(), tokens, cols(), whole_->data(), x, y, stream);
      return;
    }
    const void* in = x;
    if (padded_x_) {
      pad_rows(x, tokens, cols(), layout_.x_cols, 2, padded_x_->data(), on);
      check_launch("padding activations");
      in = padded_x_->data();
    }
    DecodeArguments arguments;
    arguments.weights = weights_.data();
    arguments.x = in;
    arguments.offsets = places_.as<uint32_t>();
    arguments.columns = places_.as<uint2>();
    arguments.y = y;
    arguments.partials = partials_->as<float>();
    arguments.counters = counters_.as<unsigned>();
    arguments.tokens = tokens;
    decode(format_, layout_, arguments, on);
    check_launch("multiplying pruned weights");
  }
  int64_t weight_bytes() const override { return weights_.bytes() + places_.bytes(); }
  std::string way(int64_t tokens) const override { return tokens > most_few_ ? "expand+cublaslt" : "decode"; }

 protected:
  double work_share() const override { return kept_; }

 private:
  void pack_bitmap(const Buffer& weights) {
    Device& device = *cuda_device();
    const cudaStream_t stream = cuda_stream(device.stream(1));
    const int64_t chunks = layout_.strips * layout_.chunks;
    Buffer units = device.allocate(chunks * 4);
    bitmap_units(layout_, weights.data(), units.as<uint32_t>(), stream);
    check_launch("counting kept weights");
    std::vector<uint32_t> sizes(static_cast<size_t>(chunks)), offsets(sizes.size() + 1);
    device.synchronize();
    device.download(sizes.data(), units.data(), units.bytes());
    int64_t sum = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      offsets[i] = static_cast<uint32_t>(sum);
      sum += sizes[i];
    }
    if (sum > int64_t{UINT32_MAX})
      throw std::invalid_argument("bitmap: expected less than 256 GiB of weights");
    offsets.back() = static_cast<uint32_t>(sum);
    layout_.chunk_bytes = 64 * int64_t{*std::max_element(sizes.begin(), sizes.end())};
    places_ = to_device(offsets.data(), static_cast<int64_t>(offsets.size()) * 4);
    weights_ = device.allocate(sum * 64);
    bitmap_pack(layout_, weights.data(), places_.as<uint32_t>(), weights_.data(), stream);
    check_launch("packing a bitmap");
    device.synchronize();
  }

  void pack_blocks(const Leaf& leaf, const Buffer& weights) {
    Device& device = *cuda_device();
    const int64_t tiles = layout_.strips * 2, across = leaf.cols / kTile;
    std::vector<std::vector<uint16_t>> kept(static_cast<size_t>(tiles));
    size_t most = 1;
    for (int64_t tile = 0; tile * kTile < leaf.rows; ++tile) {
      auto& own = kept[static_cast<size_t>(tile)];
      for (int64_t block = 0; block < across; ++block)
        if (leaf.mask.empty() ||
            leaf.mask[static_cast<size_t>(tile * kTile * leaf.cols + block * kTile)] != 0)
          own.push_back(static_cast<uint16_t>(block));
      most = std::max(most, own.size());
    }
    layout_.chunks = (static_cast<int64_t>(most) + 1) / 2;
    // [strips × chunks] of two tiles' two columns each.
    std::vector<uint16_t> columns(static_cast<size_t>(layout_.strips * layout_.chunks * 4), 0), counts;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const auto& own = kept[static_cast<size_t>(tile)];
      counts.push_back(static_cast<uint16_t>(own.size()));
      for (size_t i = 0; i < own.size(); ++i)
        columns[(static_cast<size_t>(tile / 2 * layout_.chunks) + i / 2) * 4 +
                static_cast<size_t>(tile % 2) * 2 + i % 2] = own[i];
    }
    places_ = to_device(columns.data(), static_cast<int64_t>(columns.size()) * 2);
    const Buffer on_device = to_device(counts.data(), static_cast<int64_t>(counts.size()) * 2);
    weights_ = device.allocate(layout_.bytes());
    blocks_pack(layout_, weights.data(), places_.as<uint2>(), on_device.as<uint16_t>(), weights_.data(),
                cuda_stream(device.stream(1)));
    check_launch("packing blocks");
    device.synchronize();
  }

  DecodeFormat format_;
  DecodeLayout layout_;
  double kept_;
  int64_t most_few_ = 0;  // tokens that decode() takes
  Buffer weights_, places_, counters_;
  std::shared_ptr<Buffer> partials_, padded_x_, whole_;
};

}  // namespace

Kernel cuda_pruned_kernel() {
  Kernel kernel = cuda_kernel("native", "mma", InputType::bf16, [](const Leaf& leaf) -> std::string {
    const Pattern& p = leaf.pattern;
    if (p.kind == PatternKind::dense) return "takes pruned weights";
    if (p.kind == PatternKind::n_of_m && p.n == 2 && p.m == 4) return "leaves 2:4 to another kernel";
    if (leaf.bits != 16 || leaf.fp16)
      return "takes pruned weights of bfloat16: \"values\": {\"type\": \"dense\", \"dtype\": \"bf16\"}";
    return "";
  });
  kernel.preference = 20;
  kernel.rounding = 4;  // cuBLASLt's, beyond 64 tokens
  kernel.help =
      "pruned bfloat16: bitmaps or blocks in tensor cores; beyond 64 tokens expanded, then by cuBLASLt";
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<PrunedLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina
