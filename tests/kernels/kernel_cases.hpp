// What the tests of schemes and kernels share: seeded matrices, schemes from a few keys, and a factorizer
// that needs no other ranks.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/compress/scheme.hpp"
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
  Factors factorize(const RowSlab& slab, const RankRule& rule, uint64_t) override {
    int64_t rank = rule.rank;
    if (rule.ratio > 0)
      rank = static_cast<int64_t>(rule.ratio *
                                  static_cast<double>(slab.shape.out_features * slab.shape.in_features) /
                                  static_cast<double>(slab.shape.out_features + slab.shape.in_features));
    if (rule.error > 0) rank = 3;
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

inline Canonical compress_whole(const Scheme& scheme, const Matrix<float>& w) {
  FirstColumns factorizer;
  CompressContext context{factorizer, 1};
  return scheme.compress({w, 0, {w.rows, w.cols}}, context);
}

}  // namespace lamina
