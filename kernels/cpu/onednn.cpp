// A peer: oneDNN's matmul, of dense float32 or of int8 weights and activations, weights pre-packed in the
// layout that the library picks. Its OpenMP threads are ours: both use one runtime, so there is no second
// pool.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

using DataType = dnnl::memory::data_type;
using Tag = dnnl::memory::format_tag;

// oneDNN adds 128 to int8 activations where the processor wants them unsigned, and takes it back from the
// sum.
constexpr int64_t kExactColumns = std::numeric_limits<int32_t>::max() / (255 * 127);

// oneDNN takes the threads of the OpenMP runtime's default.
class DefaultThreads {
 public:
  explicit DefaultThreads(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~DefaultThreads() { omp_set_num_threads(before_); }
  DefaultThreads(const DefaultThreads&) = delete;
  DefaultThreads& operator=(const DefaultThreads&) = delete;

 private:
  int before_;
};

// oneDNN 2 describes an operation before it describes the primitive, oneDNN 3 does both at once.
template <class Primitive>
typename Primitive::primitive_desc describe(const dnnl::engine& engine, const dnnl::memory::desc& source,
                                            const dnnl::memory::desc& weights,
                                            const dnnl::memory::desc& destination,
                                            const dnnl::primitive_attr& attributes) {
  if constexpr (requires { typename Primitive::desc; }) {
    return {typename Primitive::desc(source, weights, destination), attributes, engine};
  } else {
    return {engine, source, weights, destination, attributes};
  }
}

class OneDnnLayer final : public Layer {
 public:
  OneDnnLayer(const Leaf& leaf, const LayerOptions& options)
      : ops_(cpu_ops()),
        rows_(leaf.rows),
        cols_(leaf.cols),
        threads_(std::max(options.threads, 1)),
        integer_(leaf.quantized()),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_) {
    check_leaf(leaf);
    if (rows_ == 0 || cols_ == 0) return;
    if (options.workspace != nullptr) options.workspace->rewind();
    const int64_t tokens = std::max<int64_t>(options.max_tokens, 1);
    const DataType type = integer_ ? DataType::s8 : DataType::f32;
    const DefaultThreads guard(threads_);
    const auto wanted = product_desc(tokens, dnnl::memory::desc({cols_, rows_}, type, Tag::any));
    packed_ = wanted.weights_desc();
    weights_ = Buffer(static_cast<int64_t>(packed_.get_size()), threads_);
    products_.push_back(make_product(wanted, tokens, threads_, options));

    // The library only reads what it packs from.
    void* codes = integer_ ? static_cast<void*>(const_cast<int8_t*>(leaf.codes.data()))
                           : static_cast<void*>(const_cast<float*>(leaf.values.data()));
    dnnl::memory from(dnnl::memory::desc({cols_, rows_}, type, Tag::ba), engine_, codes);
    dnnl::memory to(packed_, engine_, weights_.data());
    dnnl::reorder(from, to).execute(stream_, from, to);
    stream_.wait();
    if (!integer_) return;
    row_scales_ = Buffer(rows_ * 4, threads_);
    std::memcpy(row_scales_.data(), leaf.scales.data(), static_cast<size_t>(rows_) * 4);
    codes_ = make_scratch(options, tokens * cols_, threads_);
    token_scales_ = make_scratch(options, tokens * 4);
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    if (rows_ == 0 || cols_ == 0 || tokens == 0) {
      std::fill(y, y + tokens * rows_, 0.0f);
      return;
    }
    const int threads = std::clamp(stream.threads, 1, threads_);
    const DefaultThreads guard(threads);
    Product& product = product_for(tokens, threads);
    if (integer_) {
      auto* codes = codes_->as<int8_t>();
      auto* scales = token_scales_->as<float>();
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1 && tokens > 1)
      for (int64_t t = 0; t < tokens; ++t) ops_.quantize(x + t * cols_, cols_, codes + t * cols_, scales + t);
      product.source.set_data_handle(codes);
    } else {
      product.source.set_data_handle(const_cast<float*>(x));
    }
    product.destination.set_data_handle(y);
    // The C function: the C++ one makes a list of the arguments at each call.
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(product.primitive.get(), stream_.get(),
                               static_cast<int>(product.arguments.size()), product.arguments.data()),
        "oneDNN could not multiply");
    if (integer_) scale(y, tokens, threads);
  }

  Cost cost(int64_t tokens) const override {
    const auto rows = static_cast<double>(rows_), cols = static_cast<double>(cols_),
               m = static_cast<double>(tokens);
    return {.operations = {integer_ ? Arithmetic::int8 : Arithmetic::f32, 2 * m * rows * cols},
            .read_bytes = static_cast<double>(weight_bytes()) + 4 * m * cols,
            .write_bytes = 4 * m * rows};
  }

  int64_t weight_bytes() const override {
    return weights_.bytes() + row_scales_.bytes();
  }

 private:
  // A primitive is made for one token count and number of threads.
  struct Product {
    int64_t tokens = 0;
    int threads = 0;
    dnnl::matmul primitive;
    dnnl::memory source, weights, destination, scratch;
    std::shared_ptr<Buffer> scratch_data;
    std::array<dnnl_exec_arg_t, 4> arguments{};
  };

  dnnl::matmul::primitive_desc product_desc(int64_t tokens, const dnnl::memory::desc& weights) const {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    // Sums of codes stay int32 until both scales meet them: with a scale a token, matmul falls back to its
    // reference.
    return describe<dnnl::matmul>(
        engine_, {{tokens, cols_}, integer_ ? DataType::s8 : DataType::f32, Tag::ab}, weights,
        {{tokens, rows_}, integer_ ? DataType::s32 : DataType::f32, Tag::ab}, attributes);
  }

  Product make_product(const dnnl::matmul::primitive_desc& desc, int64_t tokens, int threads,
                       const LayerOptions& options) {
    Product product;
    product.tokens = tokens;
    product.threads = threads;
    product.primitive = dnnl::matmul(desc);
    product.source = dnnl::memory(desc.src_desc(), engine_, DNNL_MEMORY_NONE);
    product.weights = dnnl::memory(packed_, engine_, weights_.data());
    product.destination = dnnl::memory(desc.dst_desc(), engine_, DNNL_MEMORY_NONE);
    product.scratch_data =
        make_scratch(options, static_cast<int64_t>(desc.scratchpad_desc().get_size()), threads);
    product.scratch = dnnl::memory(desc.scratchpad_desc(), engine_, product.scratch_data->data());
    product.arguments = {{{DNNL_ARG_SRC, product.source.get()},
                          {DNNL_ARG_WEIGHTS, product.weights.get()},
                          {DNNL_ARG_DST, product.destination.get()},
                          {DNNL_ARG_SCRATCHPAD, product.scratch.get()}}};
    return product;
  }

  // Other token counts than max_tokens get their primitive at their first forward, which is a check's and not
  // timed; they read the same packed weights.
  Product& product_for(int64_t tokens, int threads) {
    for (Product& product : products_)
      if (product.tokens == tokens && product.threads == threads) return product;
    products_.push_back(make_product(product_desc(tokens, packed_), tokens, threads, {}));
    return products_.back();
  }

  void scale(float* y, int64_t tokens, int threads) const {
    const float* scales = row_scales_.as<float>();
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
      const int64_t begin = rows_ * part / parts, end = rows_ * (part + 1) / parts;
      for (int64_t t = 0; t < tokens; ++t) {
        const float token_scale = token_scales_->as<float>()[t];
        for (int64_t r = begin; r < end; ++r) {
          int32_t sum;
          std::memcpy(&sum, y + t * rows_ + r, 4);
          y[t * rows_ + r] = static_cast<float>(sum) * scales[r] * token_scale;
        }
      }
    }
  }

  const CpuOps& ops_;
  int64_t rows_, cols_;
  int threads_;
  bool integer_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::memory::desc packed_;
  Buffer weights_;     // as packed_ says
  Buffer row_scales_;  // [rows]
  std::vector<Product> products_;
  std::shared_ptr<Buffer> codes_, token_scales_;  // [max_tokens × cols], [max_tokens]
};

bool has(dnnl::cpu_isa isa) {
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & static_cast<unsigned>(isa)) ==
         static_cast<unsigned>(isa);
}

std::string onednn_isa() {
  using dnnl::cpu_isa;
  const std::pair<cpu_isa, const char*> names[] = {
      {cpu_isa::avx512_core_amx, "amx"},          {cpu_isa::avx512_core_bf16, "avx512_bf16"},
      {cpu_isa::avx512_core_vnni, "avx512_vnni"}, {cpu_isa::avx512_core, "avx512"},
      {cpu_isa::avx2_vnni, "avx2_vnni"},          {cpu_isa::avx2, "avx2"}};
  const auto* found =
      std::find_if(std::begin(names), std::end(names), [](const auto& one) { return has(one.first); });
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("onednn-{}.{}.{}-{}", version->major, version->minor, version->patch,
                     found != std::end(names) ? found->second : "baseline");
}

std::string refusal(const Leaf& leaf) {
  const bool codes = leaf.bits == 8;
  const auto rule = codes ? ActivationRule::int8_per_token : ActivationRule::f32;
  if (std::string why = kind_refusal(leaf, codes ? 8 : 32, rule); !why.empty()) return why;
  if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
  if (!codes) return native_refusal(leaf);
  if (!leaf.per_channel) return "multiplies one scale per output channel, not groups";
  // Whether activations are signed or not: pairs of products meet in int16 there.
  if (!has(dnnl::cpu_isa::avx512_core_vnni))
    return "its int8 products saturate on this processor; they are exact with AVX-512 VNNI";
  if (leaf.cols > kExactColumns)
    return fmt::format("takes at most {} columns of int8, whose sum is exact in int32", kExactColumns);
  return native_refusal(leaf);
}

}  // namespace

Kernel onednn_kernel() {
  Kernel kernel;
  kernel.name = "onednn";
  kernel.device = "cpu";
  kernel.help = "dense float32, and W8A8 where the processor has VNNI, by oneDNN with weights pre-packed";
  kernel.isa = onednn_isa();
  kernel.preference = 0;  // when named: what a run times by itself must not depend on what is installed
  if (dnnl_version()->cpu_runtime != DNNL_RUNTIME_OMP)
    kernel.absent = "this oneDNN has threads of its own beside OpenMP's; Debian's libdnnl-dev shares them";
  kernel.refuses = refusal;
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<OneDnnLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina
