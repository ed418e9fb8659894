// What the tests of schemes and kernels share: seeded matrices, schemes from a few keys, a factorizer that
// needs no other ranks, a list of schemes, and the comparison with the reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/compress/scheme.hpp"
#include "kernels/cpu/ops.hpp"
#include "kernels/reference.hpp"
#include "kernels/registry.hpp"

namespace lamina {

using Keys = std::vector<std::pair<std::string, Value>>;

inline const Registry& test_registry() {
  static const Registry registry = [] {
    Registry made;
    register_kernels(made);
    return made;
  }();
  return registry;
}

inline Matrix<float> random_matrix(int64_t rows, int64_t cols, uint64_t seed, float scale = 1.0f) {
  Matrix<float> m(rows, cols);
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  for (float& value : m.data) value = normal(generator);
  return m;
}

// U is the slab's first r columns and V the first r rows of the identity: exact for a matrix of which only
// those columns are not 0, and independent of the slab.
class FirstColumns final : public Factorizer {
 public:
  Factors factorize(const RowSlab& slab, const FactorRequest& request, uint64_t) override {
    const RankRule& rule = request.rule;
    int64_t rank = rule.rank;
    if (rule.ratio > 0)
      rank = static_cast<int64_t>(rule.ratio *
                                  static_cast<double>(slab.shape.out_features * slab.shape.in_features) /
                                  static_cast<double>(slab.shape.out_features + slab.shape.in_features));
    if (rule.error > 0 || rule.energy > 0) rank = 3;
    Factors factors;
    factors.u = Matrix<float>(slab.rows.rows, rank);
    factors.v = Matrix<float>(rank, slab.rows.cols);
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t i = 0; i < slab.rows.rows; ++i) factors.u(i, r) = slab.rows(i, r);
      factors.v(r, r) = 1;
    }
    return factors;
  }
};

inline std::shared_ptr<Params> make_params(const Keys& keys, Problems& problems,
                                           const std::string& pointer = "/scheme") {
  auto params = std::make_shared<Params>(pointer, &problems);
  for (const auto& [key, value] : keys) params->set(key, value, pointer + "/" + key);
  return params;
}

// Null after a problem.
inline std::unique_ptr<Scheme> make_scheme(const std::string& type, const Keys& keys, Shape shape,
                                           Problems& problems) {
  const SchemeType* scheme = test_registry().find_scheme(type);
  if (scheme == nullptr) return nullptr;
  auto made = scheme->make(*make_params(keys, problems), shape, test_registry());
  return problems.empty() ? std::move(made) : nullptr;
}

// Of seeded tokens whose channels are correlated, some of them loud; in plain loops.
class FewTokens final : public Calibrator {
 public:
  explicit FewTokens(int64_t channels) : channels_(channels) {}

  const Matrix<double>& tokens(int64_t count) {
    if (x_.rows == count) return x_;
    const Matrix<float> noise = random_matrix(count, channels_, 71), factors = random_matrix(count, 3, 72);
    x_ = Matrix<double>(count, channels_);
    for (int64_t t = 0; t < count; ++t)
      for (int64_t k = 0; k < channels_; ++k)
        x_(t, k) = (k % 37 == 5 ? 8.0 : 1.0) * (static_cast<double>(noise(t, k)) + factors(t, k % 3));
    return x_;
  }
  ChannelStatistics channels(int64_t count) override {
    const Matrix<double>& x = tokens(count);
    ChannelStatistics statistics;
    for (int64_t k = 0; k < channels_; ++k) {
      double square = 0, magnitude = 0, largest = 0;
      for (int64_t t = 0; t < count; ++t) {
        square += x(t, k) * x(t, k);
        magnitude += std::fabs(x(t, k));
        largest = std::max(largest, std::fabs(x(t, k)));
      }
      statistics.largest.push_back(largest);
      statistics.mean_square.push_back(square / static_cast<double>(count));
      statistics.mean_magnitude.push_back(magnitude / static_cast<double>(count));
    }
    return statistics;
  }
  std::unique_ptr<GramRoot> root(const std::vector<int64_t>& order, int64_t count, double damping) override {
    const Matrix<double>& x = tokens(count);
    Matrix<double> gram(channels_, channels_);
    double trace = 0;
    for (int64_t t = 0; t < count; ++t)
      for (int64_t i = 0; i < channels_; ++i)
        for (int64_t j = 0; j <= i; ++j)
          gram(i, j) += x(t, order[static_cast<size_t>(i)]) * x(t, order[static_cast<size_t>(j)]) /
                        static_cast<double>(count);
    for (int64_t i = 0; i < channels_; ++i) trace += gram(i, i);
    for (int64_t i = 0; i < channels_; ++i) gram(i, i) += damping * trace / static_cast<double>(channels_);
    return std::make_unique<Root>(std::move(gram));
  }
  Matrix<double> slopes(Range rows, int64_t count) override {
    const Matrix<double>& x = tokens(count);
    // A row and a token have to do with one another by (row + token) % 3 alone.
    Matrix<double> squares(3, channels_), slopes(rows.size(), channels_);
    for (int64_t t = 0; t < count; ++t)
      for (int64_t k = 0; k < channels_; ++k) squares(t % 3, k) += x(t, k) * x(t, k);
    for (int64_t i = 0; i < slopes.rows; ++i)
      for (int64_t k = 0; k < channels_; ++k)
        for (int64_t t = 0; t < 3; ++t)
          slopes(i, k) += squares(t, k) * static_cast<double>(1 + (rows.begin + i + t) % 3);
    return slopes;
  }
  std::vector<int64_t> total(std::vector<int64_t> counts) override { return counts; }
  std::vector<double> sum(const Matrix<double>& parts) override {
    std::vector<double> sums(static_cast<size_t>(parts.cols));
    for (size_t i = 0; i < parts.data.size(); ++i) sums[i % sums.size()] += parts.data[i];
    return sums;
  }
  std::vector<double> largest(std::vector<double> values) override { return values; }

 private:
  class Root final : public GramRoot {
   public:
    explicit Root(Matrix<double> gram) : lower_(std::move(gram)) {
      for (int64_t j = 0; j < lower_.rows; ++j) {
        for (int64_t k = 0; k < j; ++k)
          for (int64_t i = j; i < lower_.rows; ++i) lower_(i, j) -= lower_(i, k) * lower_(j, k);
        const double pivot = std::sqrt(lower_(j, j));
        for (int64_t i = j; i < lower_.rows; ++i) lower_(i, j) /= pivot;
      }
    }
    const Matrix<double>& rows(int64_t block) override {
      const int64_t begin = block * kBlock, end = std::min(lower_.rows, begin + kBlock);
      rows_ = Matrix<double>(end - begin, end);
      for (int64_t i = 0; i < rows_.rows; ++i)
        std::copy_n(lower_.row(begin + i), begin + i + 1, rows_.row(i));
      return rows_;
    }

   private:
    Matrix<double> lower_, rows_;
  };
  int64_t channels_;
  Matrix<double> x_;
};

inline Canonical compress_whole(const Scheme& scheme, const Matrix<float>& w) {
  FirstColumns factorizer;
  FewTokens calibrator(w.cols);
  CompressContext context{factorizer, 1, &calibrator};
  return scheme.compress({w, 0, {w.rows, w.cols}}, context);
}

inline constexpr float kGuard = 123456.0f;
inline constexpr int64_t kGuardFloats = 64;
inline constexpr int64_t kMaxTokens = 300;  // more than the kernels take at a time

struct SchemeCase {
  std::string name;
  std::string type;
  Keys keys;
  std::vector<Shape> shapes;
  int64_t max_tokens = kMaxTokens;
  bool fast = true;  // some kernel beside the slow reference takes it
};

// Every scheme, with shapes that each takes; tests of kernels run through them.
inline std::vector<SchemeCase> scheme_cases() {
  const Value text_2_4 = std::string("2:4"), block = std::string("block"), int8 = std::string("int8");
  const Value bf16 = std::string("bf16"), dense = std::string("dense"), int4 = std::string("int4");
  const Value awq = std::string("awq");
  // Problems of theirs, as with a shape that does not fit, leave no scheme.
  static Problems ignored;
  const auto nested = [](const Keys& keys) -> Value {
    auto params = std::make_shared<Params>("/scheme/nested", &ignored);
    for (const auto& [key, value] : keys) params->set(key, value);
    return params;
  };
  const Value int8_values = nested({{"type", int8}});
  const std::vector<Shape> any = {{131, 256}, {37, 77}, {9, 1153}, {1, 1}, {5, 31}};
  const std::vector<Shape> twos = {{131, 256}, {37, 76}, {9, 1156}, {1, 4}};
  const std::vector<Shape> groups = {{131, 256}, {33, 1152}, {7, 128}};
  // More rows than a group of them, which meets a block of columns before the next one; of wide ones the most
  // tokens that go at a time are over 1 MiB of float32.
  const auto and_tall = [](std::vector<Shape> shapes, Shape tall) {
    shapes.push_back(tall);
    return shapes;
  };
  const Shape tall = {1037, 77}, tall_twos = {1037, 96}, tall_wide = {1037, 1153}, tall_groups = {1037, 1152};
  return {
      {"dense", "dense", {}, and_tall(any, tall_wide)},
      {"dense_bf16", "dense", {{"dtype", bf16}}, and_tall(any, tall_wide)},
      {"dense_bf16_a16", "dense", {{"dtype", bf16}, {"activations", bf16}}, and_tall(any, tall_wide)},
      {"dense_fp16", "dense", {{"dtype", std::string("fp16")}}, any, 40, false},
      {"fp8", "fp8", {}, and_tall(any, tall_wide)},
      {"fp8_a8", "fp8", {{"activations", std::string("fp8")}}, any, 40, false},
      {"int8", "int8", {}, and_tall(any, tall)},
      // On the CPU the reference alone takes it.
      {"int8_a32", "int8", {{"activations", std::string("f32")}}, any, kMaxTokens, false},
      {"int8_smooth",
       "int8",
       {{"method", std::string("smooth")}, {"calibration_tokens", int64_t{40}}},
       {{131, 256}, {37, 77}, {1, 1}, {5, 31}}},
      // More columns than a block of many tokens has.
      {"int8_blocks", "int8", {}, {{9, 4611}}},
      {"int4_blocks_a8", "int4", {{"group", int64_t{32}}, {"activations", int8}}, {{9, 4640}}},
      {"dense_bf16_blocks", "dense", {{"dtype", bf16}}, {{9, 2083}}},
      {"dense_bf16_a16_blocks", "dense", {{"dtype", bf16}, {"activations", bf16}}, {{9, 2083}}},
      {"int8_long", "int8", {}, {{3, 66001}, {2, 131072}}, 5},
      {"int4_g32", "int4", {{"group", int64_t{32}}}, {{131, 96}, {9, 608}, {7, 32}}},
      {"int4_g64", "int4", {{"group", int64_t{64}}}, {{67, 192}, {5, 64}, {9, 1088}}},
      {"int4_g128", "int4", {{"group", int64_t{128}}}, and_tall(groups, tall_groups)},
      {"int4_g32_a8",
       "int4",
       {{"group", int64_t{32}}, {"activations", int8}},
       {{131, 96}, {9, 608}, {7, 32}, tall_twos}},
      {"int4_g64_a8",
       "int4",
       {{"group", int64_t{64}}, {"activations", int8}},
       {{67, 192}, {5, 64}, {9, 1088}}},
      {"int4_g128_a8", "int4", {{"group", int64_t{128}}, {"activations", int8}}, groups},
      // With input scales.
      {"int4_g32_awq",
       "int4",
       {{"group", int64_t{32}}, {"method", awq}, {"calibration_tokens", int64_t{40}}},
       {{131, 96}, {9, 608}, {7, 32}}},
      {"int4_g64_awq_a8",
       "int4",
       {{"group", int64_t{64}}, {"method", awq}, {"calibration_tokens", int64_t{40}}, {"activations", int8}},
       {{67, 192}, {5, 64}, {9, 1088}}},
      // With zero points.
      {"int4_g32_asym",
       "int4",
       {{"group", int64_t{32}}, {"asymmetric", true}},
       {{131, 96}, {9, 608}, {7, 32}}},
      {"int4_g64_asym_a8",
       "int4",
       {{"group", int64_t{64}}, {"asymmetric", true}, {"activations", int8}},
       {{67, 192}, {5, 64}, {9, 1088}}},
      {"int4_g32_asym_awq",
       "int4",
       {{"group", int64_t{32}}, {"asymmetric", true}, {"method", awq}, {"calibration_tokens", int64_t{40}}},
       {{131, 96}}},
      {"int8_asym", "int8", {{"asymmetric", true}}, {{131, 256}, {37, 77}, {1, 1}, {5, 31}}},
      // Per channel and in groups: the reference alone takes these.
      {"int4_channel", "int4", {{"group", int64_t{0}}}, {{37, 77}}, 8, false},
      {"int8_g32_asym", "int8", {{"group", int64_t{32}}, {"asymmetric", true}}, {{9, 96}}, 8, false},
      {"unstructured_global", "pruned", {{"threshold", std::string("global")}}, any},
      {"block_global",
       "pruned",
       {{"pattern", block}, {"threshold", std::string("global")}, {"sparsity", 0.75}},
       {{131, 256}, {40, 1040}}},
      {"unstructured", "pruned", {{"sparsity", 0.5}}, and_tall(any, tall)},
      {"unstructured_0", "pruned", {{"sparsity", 0.0}}, {{37, 77}}},
      {"unstructured_95", "pruned", {{"sparsity", 0.95}}, any},
      {"unstructured_long", "pruned", {{"sparsity", 0.9}}, {{3, 66001}}, 5},
      {"pruned_2_4", "pruned", {{"pattern", text_2_4}}, and_tall(twos, tall_twos)},
      {"pruned_2_4_bf16",
       "pruned",
       {{"pattern", text_2_4}, {"values", nested({{"type", dense}, {"dtype", bf16}})}},
       and_tall(twos, tall_twos)},
      {"pruned_2_4_int8",
       "pruned",
       {{"pattern", text_2_4}, {"values", int8_values}},
       and_tall(twos, tall_twos)},
      {"pruned_2_4_int4",
       "pruned",
       {{"pattern", text_2_4}, {"values", nested({{"type", int4}, {"group", int64_t{32}}})}},
       {{9, 96}},
       8,
       false},
      // Groups of columns of the whole.
      {"pruned_2_4_int4_g64",
       "pruned",
       {{"pattern", text_2_4}, {"values", nested({{"type", int4}, {"group", int64_t{64}}})}},
       {{131, 192}, {9, 1088}},
       40,
       false},
      {"pruned_2_4_int4_g128",
       "pruned",
       {{"pattern", text_2_4}, {"values", nested({{"type", int4}, {"group", int64_t{128}}})}},
       {{131, 384}},
       40,
       false},
      {"pruned_2_4_int8_a32",
       "pruned",
       {{"pattern", text_2_4}, {"values", nested({{"type", int8}, {"activations", std::string("f32")}})}},
       twos,
       40,
       false},
      {"unstructured_bf16",
       "pruned",
       {{"values", nested({{"type", dense}, {"dtype", bf16}})}},
       {{131, 256}, {37, 77}, {9, 1153}, {1, 1}},
       130,
       false},
      {"unstructured_90_bf16",
       "pruned",
       {{"sparsity", 0.9}, {"values", nested({{"type", dense}, {"dtype", bf16}})}},
       {{131, 1024}},
       130,
       false},
      {"block_16_bf16",
       "pruned",
       {{"pattern", block}, {"values", nested({{"type", dense}, {"dtype", bf16}})}},
       {{131, 256}, {40, 1040}, {3, 48}},
       130,
       false},
      {"block_32x64_bf16",
       "pruned",
       {{"pattern", block},
        {"block", std::string("32x64")},
        {"sparsity", 0.75},
        {"values", nested({{"type", dense}, {"dtype", bf16}})}},
       {{131, 256}, {9, 2304}},
       130,
       false},
      {"block_4x8_bf16",
       "pruned",
       {{"pattern", block},
        {"block", std::string("4x8")},
        {"values", nested({{"type", dense}, {"dtype", bf16}})}},
       {{37, 72}},
       40,
       false},
      {"unstructured_fp8",
       "pruned",
       {{"values", nested({{"type", std::string("fp8")}})}},
       {{9, 77}},
       8,
       false},
      {"block_int8", "pruned", {{"pattern", block}, {"values", int8_values}}, {{40, 80}}, 8, false},
      {"pruned_3_7", "pruned", {{"pattern", std::string("3:7")}}, {{37, 77}}},
      {"block_16", "pruned", {{"pattern", block}}, {{131, 256}, {40, 1040}, {3, 2320}}},
      {"block_32", "pruned", {{"pattern", block}, {"block", int64_t{32}}}, {{131, 256}, {9, 2304}}},
      {"block_4x8",
       "pruned",
       {{"pattern", block}, {"block", std::string("4x8")}, {"sparsity", 0.75}},
       {{37, 72}}},
      {"block_1x7", "pruned", {{"pattern", block}, {"block", std::string("1x7")}}, {{13, 77}}},
      {"block_128x1", "pruned", {{"pattern", block}, {"block", std::string("128x1")}}, {{131, 77}}},
      {"lowrank", "lowrank", {{"rank", int64_t{13}}}, {{131, 77}}},
      {"lowrank_int8", "lowrank", {{"rank", int64_t{13}}, {"factors", int8_values}}, {{131, 77}}},
      {"lowrank_int4",
       "lowrank",
       {{"rank", int64_t{32}}, {"factors", nested({{"type", std::string("int4")}, {"group", int64_t{32}}})}},
       {{131, 96}}},
      {"sum",
       "sum",
       {{"base", int8_values},
        {"correction", nested({{"type", std::string("lowrank")}, {"rank", int64_t{5}}})}},
       {{131, 77}}},
      {"lowrank_2_4_int8",
       "lowrank",
       {{"rank", int64_t{12}},
        {"factors",
         nested({{"type", std::string("pruned")}, {"pattern", text_2_4}, {"values", int8_values}})}},
       {{131, 76}}},
  };
}

// Whether its loops are those of CpuOps: a kernel that brings its own needs no round for each instruction
// set.
inline bool uses_table(const Kernel& kernel) {
  const std::vector<const CpuOps*> tables = cpu_ops_available();
  return std::any_of(tables.begin(), tables.end(),
                     [&](const CpuOps* ops) { return kernel.isa == ops->name; });
}

// y as a kernel must leave it: NaN before, and nothing but y written.
class GuardedOutput {
 public:
  explicit GuardedOutput(int64_t size)
      : size_(size), data_(static_cast<size_t>(size + 2 * kGuardFloats), kGuard) {
    std::fill(y(), y() + size_, std::numeric_limits<float>::quiet_NaN());
  }
  float* y() { return data_.data() + kGuardFloats; }
  bool intact() const {
    return std::all_of(data_.begin(), data_.begin() + kGuardFloats, [](float v) { return v == kGuard; }) &&
           std::all_of(data_.end() - kGuardFloats, data_.end(), [](float v) { return v == kGuard; });
  }

 private:
  int64_t size_;
  std::vector<float> data_;
};

// What a kernel should make of these activations, quantized as the leaf says, and its tolerance.
inline ReferenceProduct reference_of(const Leaf& leaf, const Matrix<float>& activations) {
  return reference_product(leaf, product_input(reference_activations(activations, leaf, {0, leaf.cols})), 1);
}

// The worst |y − reference| over its tolerance; infinite for what is not finite.
inline double worst_error(const float* y, int64_t tokens, const ReferenceProduct& reference) {
  double worst = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < reference.y.cols; ++i) {
      const double error = std::fabs(y[t * reference.y.cols + i] - reference.y(t, i));
      const double tolerance = reference.tolerance(t, i);
      if (!(error <= tolerance)) worst = std::max(worst, tolerance > 0 ? error / tolerance : 1e300);
      if (std::isnan(error)) return 1e300;
      if (tolerance > 0) worst = std::max(worst, error / tolerance);
    }
  }
  return worst;
}

}  // namespace lamina
