#include "kernels/weights/synthetic.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <set>
#include <span>

#include "kernels/weights/blocks.hpp"

namespace lamina {
namespace {

std::vector<float> weights(Shape shape, uint64_t seed, const std::string& name,
                           const SyntheticOptions& options = {}) {
  std::vector<float> out(static_cast<size_t>(shape.out_features * shape.in_features), -1.0f);
  make_synthetic_weights(shape, seed, name, options)->read_rows({0, shape.out_features}, out.data(), 1);
  return out;
}

Matrix<float> activations(int64_t tokens, int64_t channels, ActivationPurpose purpose, int64_t first = 0,
                          const SyntheticOptions& options = {}, uint64_t seed = 1) {
  Matrix<float> out(tokens, channels);
  fill_activations(out, first, purpose, seed, "layer", options);
  return out;
}

bool same_bits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0;
}
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), static_cast<int64_t>(a.size()));
}

uint64_t digest(std::span<const float> values) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (float v : values) {
    uint32_t bits;
    std::memcpy(&bits, &v, sizeof(bits));
    hash = (hash ^ bits) * 0x100000001B3u;
  }
  return hash;
}

double mean_square(const std::vector<float>& values) {
  double sum = 0;
  for (float v : values) sum += double{v} * v;
  return sum / static_cast<double>(values.size());
}

// The known answers of Random123's kat_vectors, philox4x32 with 10 rounds.
TEST(Philox, GivesItsAuthorsKnownAnswers) {
  struct Known {
    uint32_t counter[4], key[2], answer[4];
  };
  const Known known[] = {{{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
                         {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
                          {0xffffffff, 0xffffffff},
                          {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
                         {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                          {0xa4093822, 0x299f31d0},
                          {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
  for (const Known& k : known) {
    uint32_t words[kBlock];
    const auto row = static_cast<int64_t>(uint64_t{k.counter[2]} << 32 | k.counter[1]);
    random_block({k.key[0], k.key[1]}, k.counter[3], row, k.counter[0] / kLanes, words);
    for (uint32_t w = 0; w < 4; ++w) EXPECT_EQ(words[w * kLanes + k.counter[0] % kLanes], k.answer[w]);
  }
}

// What any compiler, optimisation level, sanitizer and machine must give. A changed digest means that
// published results no longer name the same weights: change it only with the generator's description.
TEST(SyntheticWeights, AreTheSameBitsEverywhere) {
  EXPECT_EQ(digest(weights({70, 200}, 1, "golden")), 0xe62507d0ff25b116u);
  EXPECT_EQ(digest(activations(9, 200, ActivationPurpose::evaluation, 5).data), 0xc022406635c2d5a4u);
}

TEST(SyntheticWeights, EveryInstructionSetGivesTheSameBits) {
  const int64_t rows = 5;
  std::vector<float> left(rows * kComponents), right(kComponents * kBlock), gains(kBlock);
  for (size_t i = 0; i < left.size(); ++i) left[i] = 0.01f * static_cast<float>(i % 17) - 0.07f;
  for (size_t i = 0; i < right.size(); ++i) right[i] = 0.03f * static_cast<float>(i % 101) - 1.3f;
  for (size_t i = 0; i < gains.size(); ++i) gains[i] = 1.0f + 0.7f * static_cast<float>(i % 3);
  for (int64_t columns : {1, 7, 63, 64}) {
    for (auto generate : {generate_weights, generate_activations}) {
      std::vector<float> out[2];
      for (int portable : {0, 1}) {
        out[portable].assign(rows * 70, -1.0f);
        generate({{1, 2},
                  3,
                  {10, 10 + rows},
                  4,
                  columns,
                  0.3f,
                  left.data(),
                  right.data(),
                  gains.data(),
                  out[portable].data(),
                  70},
                 portable);
      }
      EXPECT_TRUE(same_bits(out[0], out[1])) << columns;
      for (int64_t i = 0; i < rows; ++i)  // nothing beyond the columns asked for
        for (int64_t j = columns; j < 70; ++j) EXPECT_EQ(out[0][static_cast<size_t>(i * 70 + j)], -1.0f);
    }
  }
}

TEST(SyntheticWeights, DoNotDependOnSlabsOrThreads) {
  const Shape shape{203, 150};
  const auto source = make_synthetic_weights(shape, 7, "layer", {});
  const std::vector<float> whole = weights(shape, 7, "layer");
  for (int64_t slabs : {1, 2, 3, 4}) {
    for (int threads : {1, 2, 3}) {
      std::vector<float> pieces(whole.size());
      for (int64_t s = 0; s < slabs; ++s) {
        const Range rows{shape.out_features * s / slabs, shape.out_features * (s + 1) / slabs};
        source->read_rows(rows, pieces.data() + rows.begin * shape.in_features, threads);
      }
      EXPECT_TRUE(same_bits(pieces, whole)) << slabs << " slabs, " << threads << " threads";
    }
  }
}

TEST(SyntheticWeights, DependOnSeedNameShapeAndDecay) {
  std::set<uint64_t> digests;
  digests.insert(digest(weights({16, 64}, 1, "a")));
  digests.insert(digest(weights({16, 64}, 2, "a")));
  digests.insert(digest(weights({16, 64}, 1, "b")));
  digests.insert(digest(weights({64, 16}, 1, "a")));
  digests.insert(digest(weights({16, 64}, 1, "a", {.spectrum_decay = 0.6})));
  EXPECT_EQ(digests.size(), 5u);
}

TEST(SyntheticWeights, HaveAnLlmsScaleAndHeavyTails) {
  const std::vector<float> w = weights({512, 1024}, 3, "layer");
  const double square = mean_square(w);
  double fourth = 0, sum = 0;
  for (float v : w) {
    fourth += std::pow(double{v}, 4);
    sum += v;
  }
  const auto count = static_cast<double>(w.size());
  EXPECT_NEAR(std::sqrt(square), 0.02, 0.0006);
  EXPECT_NEAR(sum / count, 0, 0.0005);
  EXPECT_GT(fourth / count / (square * square), 4.0);  // 3 is the normal distribution's
  EXPECT_LT(fourth / count / (square * square), 7.0);
}

// The first `count` singular values, by power iteration on WᵀW with deflation.
std::vector<double> singular_values(const std::vector<float>& w, int64_t rows, int64_t cols, int count) {
  std::vector<std::vector<double>> found;
  std::vector<double> sigma;
  for (int s = 0; s < count; ++s) {
    std::vector<double> v(static_cast<size_t>(cols), 1.0), y(static_cast<size_t>(rows));
    for (size_t j = 0; j < v.size(); ++j) v[j] += 0.1 * static_cast<double>(j % 7);
    for (int step = 0; step < 60; ++step) {
      for (const auto& u : found) {
        const double dot = std::inner_product(u.begin(), u.end(), v.begin(), 0.0);
        for (size_t j = 0; j < v.size(); ++j) v[j] -= dot * u[j];
      }
      const double norm = std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
      for (double& x : v) x /= norm;
      if (step == 59) break;
      for (int64_t i = 0; i < rows; ++i)
        y[static_cast<size_t>(i)] = std::inner_product(v.begin(), v.end(), w.begin() + i * cols, 0.0);
      std::fill(v.begin(), v.end(), 0.0);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j)
          v[static_cast<size_t>(j)] += y[static_cast<size_t>(i)] * w[static_cast<size_t>(i * cols + j)];
    }
    sigma.push_back(std::sqrt(std::inner_product(y.begin(), y.end(), y.begin(), 0.0)));
    found.push_back(v);
  }
  return sigma;
}

TEST(SyntheticWeights, SpectrumDecaysAsAsked) {
  const Shape shape{256, 384};
  // The largest singular value of the bulk alone.
  const double bulk = 0.02 * std::sqrt(0.8) * (std::sqrt(256.0) + std::sqrt(384.0));
  const auto steep = singular_values(weights(shape, 5, "x", {.spectrum_decay = 1.0}), 256, 384, 4);
  const auto flat = singular_values(weights(shape, 5, "x", {.spectrum_decay = 0.0}), 256, 384, 4);
  EXPECT_GT(steep[0], 2.5 * bulk);
  EXPECT_GT(steep[0] / steep[1], 1.5);
  EXPECT_GT(steep[1] / steep[3], 1.3);
  EXPECT_LT(flat[0] / flat[3], 1.2);
  EXPECT_LT(flat[0], 1.6 * bulk);
}

TEST(SyntheticWeights, RefuseRowsOutsideTheMatrix) {
  const auto source = make_synthetic_weights({8, 8}, 1, "x", {});
  std::vector<float> out(128);
  EXPECT_THROW(source->read_rows({0, 9}, out.data(), 1), std::runtime_error);
  EXPECT_THROW(source->read_rows({-1, 2}, out.data(), 1), std::runtime_error);
  EXPECT_NO_THROW(source->read_rows({8, 8}, out.data(), 1));
  EXPECT_THROW(make_synthetic_weights({0, 8}, 1, "x", {}), std::invalid_argument);
  EXPECT_EQ(source->describe(), "synthetic");
  EXPECT_EQ(source->shape(), (Shape{8, 8}));
}

TEST(SyntheticActivations, AreAStreamOfTokens) {
  for (const auto purpose : {ActivationPurpose::calibration, ActivationPurpose::evaluation}) {
    const Matrix<float> whole = activations(20, 150, purpose);
    const Matrix<float> part = activations(6, 150, purpose, 11);
    EXPECT_TRUE(same_bits(whole.row(11), part.row(0), 6 * 150));
    EXPECT_FALSE(same_bits(whole.row(0), whole.row(1), 150));
  }
  EXPECT_TRUE(activations(0, 150, ActivationPurpose::evaluation).data.empty());
}

TEST(SyntheticActivations, PurposesShareNoToken) {
  // Without outliers, which would make any two tokens look alike.
  const SyntheticOptions options{.correlation = 0.5, .outlier_share = 0};
  const Matrix<float> a = activations(8, 512, ActivationPurpose::calibration, 0, options);
  const Matrix<float> b = activations(8, 512, ActivationPurpose::evaluation, 0, options);
  for (int64_t s = 0; s < 8; ++s)
    for (int64_t t = 0; t < 8; ++t) {
      double dot = 0;
      for (int64_t k = 0; k < 512; ++k) dot += double{a(s, k)} * b(t, k);
      EXPECT_LT(std::abs(dot) / 512, 0.6) << s << " " << t;
    }
}

std::vector<int64_t> outlier_channels(const Matrix<float>& x, double gain) {
  std::vector<int64_t> found;
  for (int64_t k = 0; k < x.cols; ++k) {
    double square = 0;
    for (int64_t t = 0; t < x.rows; ++t) square += double{x(t, k)} * x(t, k);
    const double deviation = std::sqrt(square / static_cast<double>(x.rows));
    if (deviation > gain / 2) {
      EXPECT_NEAR(deviation, gain, 0.2 * gain);
      found.push_back(k);
    } else {
      EXPECT_NEAR(deviation, 1, 0.2);
    }
  }
  return found;
}

TEST(SyntheticActivations, PurposesShareTheirOutlierChannels) {
  const SyntheticOptions options{.outlier_share = 0.02, .outlier_gain = 30};
  const auto calibration =
      outlier_channels(activations(400, 300, ActivationPurpose::calibration, 0, options), 30);
  const auto evaluation =
      outlier_channels(activations(400, 300, ActivationPurpose::evaluation, 0, options), 30);
  EXPECT_EQ(calibration.size(), 6u);  // 2 % of 300
  EXPECT_EQ(calibration, evaluation);
  const auto other =
      outlier_channels(activations(400, 300, ActivationPurpose::evaluation, 0, options, 2), 30);
  EXPECT_NE(other, evaluation);
}

TEST(SyntheticActivations, OutliersAreNeverRoundedAway) {
  auto count = [](int64_t channels, double share) {
    return outlier_channels(
               activations(300, channels, ActivationPurpose::evaluation, 0, {.outlier_share = share}), 20)
        .size();
  };
  EXPECT_EQ(count(64, 0.001), 1u);
  EXPECT_EQ(count(64, 0), 0u);
  EXPECT_EQ(count(16, 0.001), 0u);
  EXPECT_EQ(count(16, 0.5), 8u);
}

TEST(SyntheticActivations, ChannelsAreCorrelatedAsAsked) {
  constexpr int64_t kTokens = 1000, kChannels = 96;
  for (const double correlation : {0.0, 0.5, 1.0}) {
    const Matrix<float> x = activations(kTokens, kChannels, ActivationPurpose::calibration, 0,
                                        {.correlation = correlation, .outlier_share = 0});
    double sum = 0;
    for (int64_t a = 0; a < kChannels; ++a)
      for (int64_t b = 0; b < a; ++b) {
        double dot = 0;
        for (int64_t t = 0; t < kTokens; ++t) dot += double{x(t, a)} * x(t, b);
        sum += dot * dot / kTokens / kTokens;
      }
    // Unit loadings of random direction on F factors: the mean squared correlation is correlation²/F, and
    // 1/tokens of it is noise.
    const double mean = sum / (kChannels * (kChannels - 1) / 2);
    EXPECT_NEAR(mean, correlation * correlation / kFactors + 1.0 / kTokens, 0.15 * mean) << correlation;
  }
}

TEST(SyntheticKeys, ReadTheirDefaultsAndRanges) {
  Problems problems;
  Params empty("", &problems);
  const SyntheticOptions defaults, read = read_synthetic(empty);
  EXPECT_EQ(read.spectrum_decay, defaults.spectrum_decay);
  EXPECT_EQ(read.correlation, defaults.correlation);
  EXPECT_EQ(read.outlier_share, defaults.outlier_share);
  EXPECT_EQ(read.outlier_gain, defaults.outlier_gain);
  EXPECT_TRUE(problems.empty());

  Params wrong("", &problems);
  wrong.set("spectrum_decay", 2.5);
  wrong.set("correlation", -0.1);
  wrong.set("outlier_share", int64_t{1});
  wrong.set("outlier_gain", std::string("big"));
  read_synthetic(wrong);
  wrong.report_unread(synthetic_keys());
  ASSERT_EQ(problems.items().size(), 4u);
  EXPECT_EQ(problems.items()[0], (Problem{"/spectrum_decay", "expected a number from 0 to 2, found 2.5"}));
}

}  // namespace
}  // namespace lamina
