// A peer: LIBXSMM's small products of dense float32, compiled for their sizes as the program runs. As in
// LIBXSMM's own fully connected layers, weights and activations are packed into blocks, and one call adds up
// the products of all the blocks along K.
#include <fmt/format.h>
#include <libxsmm.h>

#include <algorithm>
#include <array>
#include <memory>
#include <stdexcept>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

constexpr int64_t kBlock = 64;   // rows and columns of a block of weights
constexpr int64_t kTokens = 64;  // most of a block of activations
// Blocks of a call: it runs over all of them for every few tokens, from the second-level cache.
constexpr int64_t kReduce = 8;

using Product = libxsmm_smmfunction_reducebatch_strd;

// Column-major as LIBXSMM has it: C [rows × tokens], ldc, set or added to, is the sum over blocks of
// A [rows × cols], lda kBlock, times B [cols × tokens], ldb kBlock.
Product make_product(int64_t rows, int64_t tokens, int64_t cols, int64_t ldc, bool add) {
  const auto integer = [](int64_t value) { return static_cast<libxsmm_blasint>(value); };
  const libxsmm_blasint block = integer(kBlock), to = integer(ldc);
  const float one = 1, beta = add ? 1 : 0;
  const int flags = LIBXSMM_GEMM_FLAG_NONE, prefetch = LIBXSMM_GEMM_PREFETCH_NONE;
  const Product product = libxsmm_smmdispatch_reducebatch_strd(
      integer(rows), integer(tokens), integer(cols), integer(kBlock * kBlock * 4),
      integer(kBlock * tokens * 4), &block, &block, &to, &one, &beta, &flags, &prefetch);
  if (product == nullptr)
    throw std::runtime_error(
        fmt::format("LIBXSMM compiled no product of {} rows × {} tokens × {} columns for {}", rows, tokens,
                    cols, libxsmm_get_target_arch()));
  return product;
}

class LibxsmmLayer final : public CpuLayer {
 public:
  LibxsmmLayer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, kBlock),
        weights_(Buffer::untouched(round_up(rows_, kBlock) * padded_ * 4)),
        activations_(make_scratch(options, max_tokens_ * padded_ * 4, threads_)) {
    row_unit_ = kBlock;
    weight_bytes_ = weights_.bytes();
    pack_rows(rows_, kBlock, threads_, [&](Range rows) {
      for (int64_t first = rows.begin; first < rows.end; first += kBlock) {
        float* blocks = weights_.as<float>() + first * padded_;
        std::fill(blocks, blocks + kBlock * padded_, 0.0f);
        for (int64_t r = 0; r < std::min(kBlock, rows_ - first); ++r)
          for (int64_t i = 0; i < cols_; ++i)
            blocks[i * kBlock + r] = leaf.values[static_cast<size_t>((first + r) * cols_ + i)];
      }
    });
    // All token counts': none is compiled, and none can fail to be, while threads multiply.
    for (int64_t some = 1; some <= std::min(max_tokens_, kTokens); ++some) make_products(some);
  }

 protected:
  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    if (cols_ == 0) return;
    const int64_t tile = tile_tokens(tokens, kTokens);
    for (int64_t t = part; t < tokens; t += parts) {
      const int64_t first = t / tile * tile, some = std::min(tile, tokens - first);
      float* out = activations_->as<float>() + first * padded_ + (t - first) * kBlock;
      for (int64_t col = 0; col < cols_; col += kBlock, out += kBlock * some)
        std::copy_n(x + t * cols_ + col, std::min(kBlock, cols_ - col), out);
    }
  }

  void compute(const float*, float* y, int64_t tokens, Range rows, int) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    const int64_t tile = tile_tokens(tokens, kTokens), blocks = cols_ / kBlock, rest = cols_ % kBlock;
    for (int64_t row = rows.begin; row < rows.end; row += kBlock) {
      const float* a = weights_.as<float>() + row * padded_;
      const bool last = rows_ - row < kBlock;
      for (int64_t token = 0; token < tokens; token += tile) {
        const int64_t some = std::min(tile, tokens - token);
        const Products& products = products_[static_cast<size_t>(some)];
        const float* b = activations_->as<float>() + token * padded_;
        float* c = y + token * rows_ + row;
        const int64_t step = some == 1 ? blocks : kReduce;
        for (int64_t block = 0; block < blocks; block += step) {
          const auto count = static_cast<unsigned long long>(std::min(step, blocks - block));
          const auto& product = block == 0 ? products.first[last] : products.more[last];
          product(a + block * kBlock * kBlock, b + block * kBlock * some, c, &count);
        }
        const unsigned long long one = 1;
        if (rest > 0) products.rest[last](a + blocks * kBlock * kBlock, b + blocks * kBlock * some, c, &one);
      }
    }
  }

 private:
  struct Products {
    // Of the first blocks along K, of more of them, and of the columns past them; each of whole blocks of
    // rows, and of the rows past them.
    std::array<Product, 2> first{}, more{}, rest{};
  };

  // Of tiles of `some` tokens.
  void make_products(int64_t some) {
    Products& products = products_[static_cast<size_t>(some)];
    for (const int64_t rows : {kBlock, rows_ % kBlock}) {
      if (rows == 0 || rows > rows_) continue;
      const size_t last = rows < kBlock ? 1 : 0;
      if (cols_ >= kBlock) products.first[last] = make_product(rows, some, kBlock, rows_, false);
      if (cols_ >= 2 * kBlock) products.more[last] = make_product(rows, some, kBlock, rows_, true);
      if (cols_ % kBlock > 0)
        products.rest[last] = make_product(rows, some, cols_ % kBlock, rows_, cols_ >= kBlock);
    }
  }

  Buffer weights_;                              // [rows / kBlock][cols / kBlock][column][row]
  std::shared_ptr<Buffer> activations_;         // [tiles][cols / kBlock][token][column]
  std::array<Products, kTokens + 1> products_;  // [tokens of a tile]
};

}  // namespace

Kernel libxsmm_kernel() {
  Kernel kernel;
  kernel.name = "libxsmm";
  kernel.device = "cpu";
  kernel.help = "dense float32 by LIBXSMM's products of small blocks, weights pre-packed";
  kernel.isa = fmt::format("libxsmm-{}-{}", LIBXSMM_CONFIG_VERSION, libxsmm_cpuid_name(libxsmm_cpuid()));
  kernel.preference = 0;  // when named: what a run times by itself must not depend on what is installed
  if (libxsmm_cpuid() < LIBXSMM_X86_AVX) kernel.absent = "LIBXSMM compiles its products for AVX and later";
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) return why;
    if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
    return native_refusal(leaf);
  };
  kernel.packed_bytes = [](const Scheme::LeafBytes& leaf) {
    return round_up(leaf.shape.out_features, kBlock) * round_up(leaf.shape.in_features, kBlock) * 4;
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<LibxsmmLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina
