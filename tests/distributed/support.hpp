// What the distributed tests share.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "distributed/communicator.hpp"
#include "kernels/compress/scheme.hpp"
#include "kernels/matrix.hpp"
#include "kernels/registry.hpp"
#include "kernels/weights/source.hpp"

namespace lamina::test {

// All ranks of this launch.
Communicator& world();

// What this build registers.
inline const Registry& registry() {
  static const Registry all = [] {
    Registry made;
    register_kernels(made);
    return made;
  }();
  return all;
}

// Numbers that depend on their place alone, about uniform in ±1.
inline float number(uint64_t seed, int64_t i, int64_t j) {
  uint64_t z = seed * 0x9E3779B97F4A7C15ull + static_cast<uint64_t>(i) * 0xD1B54A32D192ED03ull +
               static_cast<uint64_t>(j) * 0x8CB92BA72F3D8DD7ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  z ^= z >> 31;
  return static_cast<float>(static_cast<int64_t>(z >> 40)) / 8388608.0f - 1.0f;
}

inline Matrix<float> random_matrix(int64_t rows, int64_t cols, uint64_t seed, int64_t row_begin = 0) {
  Matrix<float> matrix(rows, cols);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) matrix(i, j) = number(seed, row_begin + i, j);
  }
  return matrix;
}

// Weights given as a whole matrix.
class MatrixSource final : public WeightSource {
 public:
  explicit MatrixSource(Matrix<float> matrix) : matrix_(std::move(matrix)) {}
  Shape shape() const override { return {matrix_.rows, matrix_.cols}; }
  void read_rows(Range rows, float* out, int) const override {
    std::copy(matrix_.row(rows.begin), matrix_.row(rows.end), out);
  }
  std::string describe() const override { return "matrix"; }

 private:
  Matrix<float> matrix_;
};

// A registered scheme by its type and keys; null when it is not registered. Throws on a problem with the
// keys.
struct SchemeCase {
  std::string type;
  std::vector<std::pair<std::string, Value>> keys;
};
inline std::unique_ptr<Scheme> make_scheme(const SchemeCase& from, Shape shape, const Registry& registry) {
  const SchemeType* type = registry.find_scheme(from.type);
  if (!type) return nullptr;
  Problems problems;
  Params params("", &problems);
  params.set("type", from.type);
  for (const auto& [key, value] : from.keys) params.set(key, value);
  auto scheme = type->make(params, shape, registry);
  if (!problems.empty()) throw std::runtime_error(from.type + ": " + problems.items()[0].message);
  return scheme;
}

// One of each kind of leaf and chain.
inline std::vector<SchemeCase> scheme_cases() {
  static Problems problems;
  const auto nested = [](const char* type) {
    auto params = std::make_shared<Params>("/nested", &problems);
    params->set("type", std::string(type));
    return params;
  };
  const auto int4 = nested("int4");
  int4->set("group", int64_t{64});
  const auto base = nested("int4");  // groups for four ranks
  base->set("group", int64_t{32});
  const auto pruned = nested("pruned"), factors = nested("lowrank"), int8_factors = nested("lowrank");
  pruned->set("pattern", std::string("2:4"));
  factors->set("rank", int64_t{7});
  int8_factors->set("rank", int64_t{9});
  int8_factors->set("factors", nested("int8"));
  return {{"dense", {}},
          {"int8", {}},
          {"int4", {{"group", int64_t{64}}}},
          {"dense", {{"dtype", std::string("bf16")}}},
          {"fp8", {}},
          {"pruned", {{"pattern", std::string("2:4")}}},
          {"pruned", {{"pattern", std::string("unstructured")}, {"sparsity", 0.5}}},
          {"pruned", {{"pattern", std::string("2:4")}, {"values", nested("int8")}}},
          {"pruned", {{"pattern", std::string("2:4")}, {"values", int4}}},
          {"lowrank", {{"rank", int64_t{9}}}},
          {"lowrank", {{"rank", int64_t{9}}, {"factors", nested("int8")}}},
          {"sum", {{"base", base}, {"correction", factors}}},
          {"sum", {{"base", pruned}, {"correction", int8_factors}}}};
}

}  // namespace lamina::test
