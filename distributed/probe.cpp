#include "distributed/probe.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/activations.hpp"

namespace lamina {
namespace {

constexpr int64_t kProbedTokens = 8;
// Of rounding to bfloat16, half of its last place, with a margin for sizes that are rounded themselves.
constexpr double kPartRounding = 0x1.02p-8;
constexpr double kSumDeviations = 3;  // λ

// A counter-based draw: the same on every rank (splitmix64's finaliser).
uint64_t draw(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + (counter + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

}  // namespace

Probe make_probe(int64_t tokens, uint64_t seed) {
  Probe probe;
  if (tokens <= kProbedTokens) {
    for (int64_t t = 0; t < tokens; ++t) probe.tokens.push_back(t);
    return probe;
  }
  probe.tokens = {0, tokens - 1};
  for (uint64_t counter = 0; static_cast<int64_t>(probe.tokens.size()) < kProbedTokens; ++counter) {
    const int64_t t = static_cast<int64_t>(draw(seed, counter) % static_cast<uint64_t>(tokens));
    if (std::find(probe.tokens.begin(), probe.tokens.end(), t) == probe.tokens.end())
      probe.tokens.push_back(t);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    probe.signs.push_back(draw(~seed, static_cast<uint64_t>(t)) & 1 ? 1.0 : -1.0);
  }
  return probe;
}

ProductInput nothing_probed(const Probe& probe, int64_t cols) {
  return {Matrix<double>(probe.rows(), cols), Matrix<double>(probe.rows(), cols),
          Matrix<double>(probe.rows(), cols)};
}

void add_token(ProductInput& input, const Probe& probe, int64_t token, int64_t tokens, const double* row) {
  const int64_t k = input.values.cols, last = probe.rows() - 1;
  for (size_t p = 0; p < probe.tokens.size(); ++p) {
    if (probe.tokens[p] != token) continue;
    const auto at = static_cast<int64_t>(p);
    std::copy_n(row, k, input.values.row(at));
    std::transform(row, row + k, input.magnitudes.row(at), [](double v) { return std::abs(v); });
    std::transform(row, row + k, input.squares.row(at), [](double v) { return v * v; });
  }
  if (probe.signs.empty()) return;
  const double sign = probe.signs[static_cast<size_t>(token)];
  for (int64_t j = 0; j < k; ++j) {
    input.values(last, j) += sign * row[j];
    input.magnitudes(last, j) += std::abs(row[j]);
    input.squares(last, j) += static_cast<double>(tokens) * row[j] * row[j];
  }
}

Matrix<double> rounding_of_sums(const std::vector<float>& part, const float* out, int64_t tokens,
                                int64_t features, const Probe& probe, Communicator& comm) {
  const auto size = [](float value) { return std::isfinite(value) ? std::abs(double{value}) : 0.0; };
  const double ranks = comm.size();
  const auto probed = static_cast<int64_t>(probe.tokens.size());
  Matrix<double> sizes(probe.rows(), features);
  for (int64_t p = 0; p < probed; ++p)
    for (int64_t i = 0; i < features; ++i)
      sizes(p, i) = size(part[static_cast<size_t>(probe.tokens[static_cast<size_t>(p)] * features + i)]);
  const auto add_squares = [&](const float* from, double times) {
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < features; ++i)
        sizes(probed, i) += times * size(from[t * features + i]) * size(from[t * features + i]);
  };
  if (!probe.signs.empty()) add_squares(part.data(), ranks);
  comm.all_reduce(sizes.data.data(), sizes.data.data(), static_cast<int64_t>(sizes.data.size()), DType::f64,
                  ReduceOp::sum);
  if (!probe.signs.empty()) add_squares(out, ranks - 1);
  for (int64_t row = 0; row < probe.rows(); ++row)
    for (int64_t i = 0; i < features; ++i)
      sizes(row, i) =
          kPartRounding * (row < probed ? ranks * sizes(row, i) : kSumDeviations * std::sqrt(sizes(row, i))) +
          ranks * static_cast<double>(row < probed ? 1 : tokens) * kSmallestActivation;
  return sizes;
}

}  // namespace lamina
