// A peer: oneDNN's matmul of dense float32, of bfloat16 by bfloat16, or of int8 weights by int8 activations,
// signed (s8s8) or made unsigned here (u8s8), weights pre-packed in the layout that the library picks. Its
// OpenMP threads are ours: both use one runtime, so there is no second pool.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"
#include "kernels/small_floats.hpp"

namespace lamina {
namespace {

using DataType = dnnl::memory::data_type;
using Tag = dnnl::memory::format_tag;

// What is multiplied by what.
enum class Form { f32, bf16, s8s8, u8s8 };

struct Types {
  DataType source, weights, sum;
  Arithmetic arithmetic;
};
Types types_of(Form form) {
  switch (form) {
    case Form::bf16:
      return {DataType::bf16, DataType::bf16, DataType::f32, Arithmetic::bf16};
    case Form::s8s8:
      return {DataType::s8, DataType::s8, DataType::s32, Arithmetic::int8};
    case Form::u8s8:
      return {DataType::u8, DataType::s8, DataType::s32, Arithmetic::int8};
    default:
      return {DataType::f32, DataType::f32, DataType::f32, Arithmetic::f32};
  }
}

uint16_t bf16_bits(float value) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}

// Activations' codes are 128 more on the unsigned side: here (u8s8), or in oneDNN where the processor wants
// them so (s8s8).
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
  OneDnnLayer(const Leaf& leaf, const LayerOptions& options, Form form)
      : ops_(cpu_ops()),
        rows_(leaf.rows),
        cols_(leaf.cols),
        threads_(std::max(options.threads, 1)),
        form_(form),
        types_(types_of(form)),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_) {
    check_leaf(leaf);
    if (rows_ == 0 || cols_ == 0) return;
    if (options.workspace != nullptr) options.workspace->rewind();
    const int64_t tokens = std::max<int64_t>(options.max_tokens, 1);
    const DefaultThreads guard(threads_);
    const auto wanted = product_desc(tokens, dnnl::memory::desc({cols_, rows_}, types_.weights, Tag::any));
    packed_ = wanted.weights_desc();
    weights_ = Buffer(static_cast<int64_t>(packed_.get_size()), threads_);
    products_.push_back(make_product(wanted, tokens, threads_, options));

    // The library only reads what it packs from.
    void* numbers = integer() ? static_cast<void*>(const_cast<int8_t*>(leaf.codes.data()))
                              : static_cast<void*>(const_cast<float*>(leaf.values.data()));
    std::vector<uint16_t> halves;
    if (form_ == Form::bf16) {
      halves.resize(leaf.values.size());
      std::transform(leaf.values.begin(), leaf.values.end(), halves.begin(), bf16_bits);
      numbers = halves.data();
    }
    dnnl::memory from(dnnl::memory::desc({cols_, rows_}, types_.weights, Tag::ba), engine_, numbers);
    dnnl::memory to(packed_, engine_, weights_.data());
    dnnl::reorder(from, to).execute(stream_, from, to);
    stream_.wait();
    if (form_ != Form::f32)
      source_ = make_scratch(options, tokens * cols_ * (form_ == Form::bf16 ? 2 : 1), threads_);
    if (!integer()) return;
    row_scales_ = Buffer(rows_ * 4, threads_);
    std::memcpy(row_scales_.data(), leaf.scales.data(), static_cast<size_t>(rows_) * 4);
    if (form_ == Form::u8s8) {
      row_excess_ = Buffer(rows_ * 4, threads_);
      for (int64_t i = 0; i < rows_; ++i) {
        const int8_t* row = leaf.codes.data() + i * cols_;
        row_excess_.as<int32_t>()[i] = 128 * std::accumulate(row, row + cols_, int32_t{0});
      }
    }
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
    if (form_ == Form::f32) {
      product.source.set_data_handle(const_cast<float*>(x));
    } else {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1 && tokens > 1)
      for (int64_t t = 0; t < tokens; ++t) convert(x + t * cols_, t);
      product.source.set_data_handle(source_->data());
    }
    product.destination.set_data_handle(y);
    // The C function: the C++ one makes a list of the arguments at each call.
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(product.primitive.get(), stream_.get(),
                               static_cast<int>(product.arguments.size()), product.arguments.data()),
        "oneDNN could not multiply");
    if (integer()) scale(y, tokens, threads);
  }

  Cost cost(int64_t tokens) const override {
    const auto rows = static_cast<double>(rows_), cols = static_cast<double>(cols_),
               m = static_cast<double>(tokens);
    return {.operations = {types_.arithmetic, 2 * m * rows * cols},
            .read_bytes = static_cast<double>(weight_bytes()) + 4 * m * cols,
            .write_bytes = 4 * m * rows};
  }

  int64_t weight_bytes() const override {
    return weights_.bytes() + row_scales_.bytes() + row_excess_.bytes();
  }

 private:
  bool integer() const {
    return types_.sum == DataType::s32;
  }

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
    return describe<dnnl::matmul>(engine_, {{tokens, cols_}, types_.source, Tag::ab}, weights,
                                  {{tokens, rows_}, types_.sum, Tag::ab}, attributes);
  }

  // A token's activations as the product wants them.
  void convert(const float* x, int64_t token) const {
    if (form_ == Form::bf16) {
      ops_.round_b16(x, cols_, source_->as<uint16_t>() + token * cols_);
      return;
    }
    auto* codes = source_->as<int8_t>() + token * cols_;
    ops_.quantize(x, cols_, codes, token_scales_->as<float>() + token);
    if (form_ == Form::u8s8)
      for (int64_t k = 0; k < cols_; ++k) codes[k] = static_cast<int8_t>(codes[k] ^ 0x80);
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
    const int32_t* excess = form_ == Form::u8s8 ? row_excess_.as<int32_t>() : nullptr;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
      const int64_t begin = rows_ * part / parts, end = rows_ * (part + 1) / parts;
      for (int64_t t = 0; t < tokens; ++t) {
        const float token_scale = token_scales_->as<float>()[t];
        for (int64_t r = begin; r < end; ++r) {
          int32_t sum;
          std::memcpy(&sum, y + t * rows_ + r, 4);
          if (excess != nullptr) sum -= excess[r];
          y[t * rows_ + r] = static_cast<float>(sum) * scales[r] * token_scale;
        }
      }
    }
  }

  const CpuOps& ops_;
  int64_t rows_, cols_;
  int threads_;
  Form form_;
  Types types_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::memory::desc packed_;
  Buffer weights_;     // as packed_ says
  Buffer row_scales_;  // [rows]
  Buffer row_excess_;  // [rows] int32: 128 · Σ codes, of u8s8
  std::vector<Product> products_;
  std::shared_ptr<Buffer> source_, token_scales_;  // [max_tokens × cols] of types_.source, [max_tokens]
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

// oneDNN multiplies bfloat16 by instructions, or by float32 ones of AVX-512; for others it has no primitive,
// or but its reference.
std::string bf16_refusal() {
  static const std::string why = [] {
    try {
      const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
      const auto desc = describe<dnnl::matmul>(engine, {{64, 64}, DataType::bf16, Tag::ab},
                                               {{64, 64}, DataType::bf16, Tag::any},
                                               {{64, 64}, DataType::f32, Tag::ab}, dnnl::primitive_attr());
      const std::string name = desc.impl_info_str();
      return name.starts_with("ref") ? "has but a reference for bfloat16 on this processor" : std::string();
    } catch (const dnnl::error& e) {
      return fmt::format("multiplies no bfloat16 on this processor, for want of AVX-512 ({})", e.what());
    }
  }();
  return why;
}

// Without VNNI oneDNN multiplies int8 by vpmaddubsw, signed activations made unsigned, and pairs of products
// saturate in int16. Seen with oneDNN 2.6.3 on AVX2, 1 to 512 tokens and 3 to 14336 columns, packed weights
// or not: of codes that are all 127, and of random ones from 77 columns on, hardly a sum comes out right,
// signed or unsigned.
std::string int8_refusal(const Leaf& leaf) {
  if (!leaf.input_scales.empty()) return "takes no input scales";
  if (std::string why = kind_refusal(leaf, 8, ActivationRule::int8_per_token); !why.empty()) return why;
  if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
  if (!leaf.per_channel) return "multiplies one scale per output channel, not groups";
  if (!has(dnnl::cpu_isa::avx512_core_vnni))
    return "its int8 products saturate on this processor; they are exact with AVX-512 VNNI";
  if (leaf.cols > kExactColumns)
    return fmt::format("takes at most {} columns of int8, whose sum is exact in int32", kExactColumns);
  return native_refusal(leaf);
}

Form form_of(const Leaf& leaf) {
  return leaf.quantized() ? Form::s8s8 : leaf.bits == 16 ? Form::bf16 : Form::f32;
}

std::string refusal(const Leaf& leaf) {
  if (leaf.bits == 8 && !leaf.fp8) return int8_refusal(leaf);
  if (!leaf.input_scales.empty()) return "takes no input scales";
  if (leaf.bits == 16) {
    if (leaf.activation != ActivationRule::bf16)
      return fmt::format("multiplies bfloat16 weights by bf16 activations, not {}", name_of(leaf.activation));
    if (std::string why = bf16_refusal(); !why.empty()) return why;
  } else if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) {
    return why;
  }
  if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
  return native_refusal(leaf);
}

Kernel peer() {
  Kernel kernel;
  kernel.device = "cpu";
  kernel.isa = onednn_isa();
  kernel.preference = 0;  // when named: what a run times by itself must not depend on what is installed
  if (dnnl_version()->cpu_runtime != DNNL_RUNTIME_OMP)
    kernel.absent = "this oneDNN has threads of its own beside OpenMP's; Debian's libdnnl-dev shares them";
  return kernel;
}

}  // namespace

Kernel onednn_kernel() {
  Kernel kernel = peer();
  kernel.name = "onednn";
  kernel.help =
      "dense float32, bfloat16 by bf16 activations, and W8A8 where the processor has VNNI, by oneDNN";
  kernel.refuses = refusal;
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<OneDnnLayer>(leaf, options, form_of(leaf));
  };
  return kernel;
}

Kernel onednn_u8s8_kernel() {
  Kernel kernel = peer();
  kernel.name = "onednn-u8s8";
  kernel.help = "W8A8 where the processor has VNNI, by oneDNN with activations made unsigned before it";
  kernel.refuses = int8_refusal;
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<OneDnnLayer>(leaf, options, Form::u8s8);
  };
  return kernel;
}

}  // namespace lamina
