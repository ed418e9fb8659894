// Synthetic weights and activations with an LLM's statistics, a pure function of (seed, name, shape,
// element).
//
// Compiled with -ffp-contract=off, and every sum has one order, so that the bits depend on no machine, no
// slab and no thread count. No call into the mathematical library, whose last bits differ between versions;
// square roots are IEEE operations.
#include "kernels/weights/synthetic.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "kernels/weights/blocks.hpp"

namespace lamina {

namespace {

// Weights: standard deviation, and the structured part's share of the variance. At 4096², decay
// 0.5, the structured singular values go from about 7 times the bulk's largest down to about it.
constexpr double kDeviation = 0.02;
constexpr double kStructuredShare = 0.2;
// Fewer channels than this may have no outlier though some are asked for.
constexpr int64_t kSmallestWithOutlier = 64;
constexpr int64_t kMaxColumns = int64_t{1} << 32;

// Streams of one key's random numbers.
enum StreamId : uint32_t {
  kBulk,
  kLeft,
  kRight,
  kLoadings,
  kCalibration,
  kEvaluation,
  kCalibrationFactors,
  kEvaluationFactors,
  kCotangentSizes,
  kCotangents
};

// Natural logarithm of x ≥ 1: halvings, then the atanh series of (x−1)/(x+1) ≤ 1/3.
double own_log(double x) {
  int halvings = 0;
  for (; x > 2; x /= 2) ++halvings;
  auto series = [](double z) {
    double sum = 0, power = z;
    for (int k = 1; k < 40; k += 2, power *= z * z) sum += power / k;
    return 2 * sum;
  };
  return halvings * series(1.0 / 3) + series((x - 1) / (x + 1));
}

// e^−x for x ≥ 0: the Taylor series of x/2ⁿ, squared n times.
double own_exp_negative(double x) {
  int doublings = 0;
  for (; x > 0.5; x /= 2) ++doublings;
  double sum = 1, term = 1;
  for (int k = 1; k < 20; ++k) sum += term *= -x / k;
  for (; doublings > 0; --doublings) sum *= sum;
  return sum;
}

void fill_normal(RandomKey key, uint32_t stream, int64_t row, int64_t block, float* out) {
  uint32_t words[kBlock];
  random_block(key, stream, row, block, words);
  for (int c = 0; c < kBlock; ++c) out[c] = draw(kNormal, words[c]);
}

int64_t blocks_of(int64_t columns) {
  return (columns + kBlock - 1) / kBlock;
}

// acc[c] += Σ_r left[r]·right[r][c] over 64 columns, r in order; `right` has 64 columns a row. Strips of four
// vectors, because four accumulators and four products stay in registers; Vector is the widest one there is.
template <class Vector, int kTerms>
LAMINA_INLINE void add_products(const float* left, const float* right, float* acc) {
  constexpr int kWidth = sizeof(Vector) / sizeof(float);
  for (int strip = 0; strip < kBlock; strip += 4 * kWidth) {
    Vector s0, s1, s2, s3;
    std::memcpy(&s0, acc + strip, sizeof(Vector));
    std::memcpy(&s1, acc + strip + kWidth, sizeof(Vector));
    std::memcpy(&s2, acc + strip + 2 * kWidth, sizeof(Vector));
    std::memcpy(&s3, acc + strip + 3 * kWidth, sizeof(Vector));
    for (int r = 0; r < kTerms; ++r) {
      const float* columns = right + r * kBlock + strip;
      Vector t0, t1, t2, t3;
      std::memcpy(&t0, columns, sizeof(Vector));
      std::memcpy(&t1, columns + kWidth, sizeof(Vector));
      std::memcpy(&t2, columns + 2 * kWidth, sizeof(Vector));
      std::memcpy(&t3, columns + 3 * kWidth, sizeof(Vector));
      s0 = s0 + left[r] * t0;
      s1 = s1 + left[r] * t1;
      s2 = s2 + left[r] * t2;
      s3 = s3 + left[r] * t3;
    }
    std::memcpy(acc + strip, &s0, sizeof(Vector));
    std::memcpy(acc + strip + kWidth, &s1, sizeof(Vector));
    std::memcpy(acc + strip + 2 * kWidth, &s2, sizeof(Vector));
    std::memcpy(acc + strip + 3 * kWidth, &s3, sizeof(Vector));
  }
}

// Independent draws, then the products on top of them, then the channels' gains; row by row.
template <class Vector, int kTerms>
LAMINA_INLINE void generate(const BlockTask& task) {
  const Quantile& own = kTerms == kComponents ? kHeavyTailed : kNormal;
  for (int64_t i = 0; i < task.rows.size(); ++i) {
    alignas(64) uint32_t words[kBlock];
    alignas(64) float acc[kBlock];
    random_block(task.key, task.stream, task.rows.begin + i, task.block, words);
    for (int c = 0; c < kBlock; ++c) acc[c] = task.own_scale * draw(own, words[c]);
    add_products<Vector, kTerms>(task.left + i * kTerms, task.right, acc);
    if (task.gains)
      for (int c = 0; c < kBlock; ++c) acc[c] *= task.gains[c];
    std::memcpy(task.out + i * task.stride, acc, static_cast<size_t>(task.columns) * sizeof(float));
  }
}

typedef float Vector4 __attribute__((vector_size(16)));

#if defined(__x86_64__)
typedef float Vector8 __attribute__((vector_size(32)));
__attribute__((target("avx2"))) void weights_avx2(const BlockTask& task) {
  generate<Vector8, kComponents>(task);
}
__attribute__((target("avx2"))) void activations_avx2(const BlockTask& task) {
  generate<Vector8, kFactors>(task);
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2");
}
#else
void weights_avx2(const BlockTask&) {}
void activations_avx2(const BlockTask&) {}
bool has_avx2() {
  return false;
}
#endif

}  // namespace

void generate_weights(const BlockTask& task, bool portable) {
  if (!portable && has_avx2())
    weights_avx2(task);
  else
    generate<Vector4, kComponents>(task);
}

void generate_activations(const BlockTask& task, bool portable) {
  if (!portable && has_avx2())
    activations_avx2(task);
  else
    generate<Vector4, kFactors>(task);
}

namespace {

class SyntheticWeights : public WeightSource {
 public:
  SyntheticWeights(Shape shape, uint64_t seed, const std::string& name, const SyntheticOptions& options)
      : shape_(shape) {
    if (shape.out_features < 1 || shape.in_features < 1 || shape.in_features > kMaxColumns)
      throw std::invalid_argument(
          fmt::format("synthetic weights: expected positive sizes and at most 2^32 "
                      "in_features, found {} x {}",
                      shape.out_features, shape.in_features));
    uint64_t hash = hash_name(seed, name);
    hash = mix64(hash ^ static_cast<uint64_t>(shape.out_features));
    hash = mix64(hash ^ static_cast<uint64_t>(shape.in_features));
    key_ = random_key(hash);
    bulk_scale_ = static_cast<float>(kDeviation * std::sqrt(1 - kStructuredShare));
    double power[kComponents], sum = 0;
    for (int r = 0; r < kComponents; ++r) {
      power[r] = own_exp_negative(options.spectrum_decay * own_log(r + 1));
      sum += power[r] * power[r];
    }
    for (int r = 0; r < kComponents; ++r)
      sigma_[r] = static_cast<float>(kDeviation * std::sqrt(kStructuredShare / sum) * power[r]);
    // Blocks of 64 columns, each [components × 64]: 16 KiB that stay in the first cache for many rows.
    const int64_t blocks = blocks_of(shape.in_features);
    right_.resize(static_cast<size_t>(blocks * kComponents * kBlock));
    for (int64_t b = 0; b < blocks; ++b)
      for (int r = 0; r < kComponents; ++r)
        fill_normal(key_, kRight, r, b, right_.data() + (b * kComponents + r) * kBlock);
  }

  Shape shape() const override { return shape_; }
  std::string describe() const override { return "synthetic"; }

  void read_rows(Range rows, float* out, int threads) const override {
    if (rows.begin < 0 || rows.end < rows.begin || rows.end > shape_.out_features)
      throw std::runtime_error(fmt::format("synthetic weights: expected rows within 0 to {}, found {} to {}",
                                           shape_.out_features, rows.begin, rows.end));
    const int64_t columns = shape_.in_features;
    // Few enough rows that every thread has work, many enough that a block of `right_` is used often.
    constexpr int64_t kRows = 32;
    const int64_t tiles = (rows.size() + kRows - 1) / kRows;
#pragma omp parallel for num_threads(std::max(1, threads)) schedule(static)
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const Range part{rows.begin + tile * kRows, std::min(rows.end, rows.begin + (tile + 1) * kRows)};
      float left[kRows * kComponents];
      for (int64_t i = 0; i < part.size(); ++i) {
        float* row = left + i * kComponents;
        fill_normal(key_, kLeft, part.begin + i, 0, row);
        for (int r = 0; r < kComponents; ++r) row[r] *= sigma_[r];
      }
      float* const first = out + (part.begin - rows.begin) * columns;
      for (int64_t b = 0; b * kBlock < columns; ++b)
        generate_weights({.key = key_,
                          .stream = kBulk,
                          .rows = part,
                          .block = b,
                          .columns = std::min<int64_t>(kBlock, columns - b * kBlock),
                          .own_scale = bulk_scale_,
                          .left = left,
                          .right = right_.data() + b * kComponents * kBlock,
                          .gains = nullptr,
                          .out = first + b * kBlock,
                          .stride = columns});
    }
  }

 private:
  static_assert(kComponents == kBlock, "a row of the left factor is one block of random numbers");
  Shape shape_;
  RandomKey key_;
  float bulk_scale_ = 0;
  float sigma_[kComponents];
  std::vector<float> right_;
};

// 1 for ordinary channels, the gain for outliers: the round(share·K) channels whose hashes are smallest.
std::vector<float> channel_gains(int64_t channels, uint64_t hash, const SyntheticOptions& options) {
  std::vector<float> gains(static_cast<size_t>(blocks_of(channels) * kBlock), 1.0f);
  auto count = static_cast<int64_t>(options.outlier_share * static_cast<double>(channels) + 0.5);
  if (options.outlier_share > 0 && channels >= kSmallestWithOutlier) count = std::max<int64_t>(count, 1);
  count = std::clamp<int64_t>(count, 0, channels);
  std::vector<std::pair<uint64_t, int64_t>> order(static_cast<size_t>(channels));
  for (int64_t k = 0; k < channels; ++k)
    order[static_cast<size_t>(k)] = {mix64(hash ^ static_cast<uint64_t>(k)), k};
  std::nth_element(order.begin(), order.begin() + count, order.end());
  for (int64_t i = 0; i < count; ++i)
    gains[static_cast<size_t>(order[static_cast<size_t>(i)].second)] =
        static_cast<float>(options.outlier_gain);
  return gains;
}

}  // namespace

std::unique_ptr<WeightSource> make_synthetic_weights(Shape shape, uint64_t seed, const std::string& name,
                                                     const SyntheticOptions& options) {
  return std::make_unique<SyntheticWeights>(shape, seed, name, options);
}

void fill_activations(Matrix<float>& out, int64_t first_token, ActivationPurpose purpose, uint64_t seed,
                      const std::string& name, const SyntheticOptions& options) {
  if (out.cols < 1 || out.cols > kMaxColumns || first_token < 0)
    throw std::invalid_argument(fmt::format(
        "synthetic activations: expected 1 to 2^32 channels and a first token of at least 0, found {} "
        "channels and token {}",
        out.cols, first_token));
  if (out.rows == 0) return;
  // Not the weights' hash: equal names must not make weights and activations depend on each other.
  const uint64_t hash =
      mix64(hash_name(seed, name) ^ 0x61637469766174u ^ (static_cast<uint64_t>(out.cols) << 20));
  const RandomKey key = random_key(hash);
  const bool evaluation = purpose == ActivationPurpose::evaluation;
  const std::vector<float> gains = channel_gains(out.cols, hash, options);

  std::vector<float> factors(static_cast<size_t>(out.rows) * kFactors);
  for (int64_t t = 0; t < out.rows; ++t) {
    float block[kBlock];
    fill_normal(key, evaluation ? kEvaluationFactors : kCalibrationFactors, first_token + t, 0, block);
    std::copy_n(block, kFactors, factors.data() + t * kFactors);
  }
  const auto own_scale = static_cast<float>(std::sqrt(1 - options.correlation));
  const int64_t blocks = blocks_of(out.cols);
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < blocks; ++b) {
    float loadings[kFactors * kBlock];
    for (int f = 0; f < kFactors; ++f) fill_normal(key, kLoadings, f, b, loadings + f * kBlock);
    for (int c = 0; c < kBlock; ++c) {
      double square = 0;
      for (int f = 0; f < kFactors; ++f)
        square += double{loadings[f * kBlock + c]} * loadings[f * kBlock + c];
      const auto scale = static_cast<float>(std::sqrt(options.correlation / square));
      for (int f = 0; f < kFactors; ++f) loadings[f * kBlock + c] *= scale;
    }
    generate_activations({.key = key,
                          .stream = evaluation ? kEvaluation : kCalibration,
                          .rows = {first_token, first_token + out.rows},
                          .block = b,
                          .columns = std::min<int64_t>(kBlock, out.cols - b * kBlock),
                          .own_scale = own_scale,
                          .left = factors.data(),
                          .right = loadings,
                          .gains = gains.data() + b * kBlock,
                          .out = out.data.data() + b * kBlock,
                          .stride = out.cols});
  }
}

void fill_cotangents(Matrix<float>& out, int64_t first_token, Range features, uint64_t seed,
                     const std::string& name) {
  const RandomKey key = random_key(mix64(hash_name(seed, name) ^ 0x636f74616e67656eu));
  for (int64_t b = features.begin / kBlock; b * kBlock < features.end; ++b) {
    const Range some{std::max(b * kBlock, features.begin), std::min((b + 1) * kBlock, features.end)};
    float sizes[kBlock], draws[kBlock];
    fill_normal(key, kCotangentSizes, 0, b, sizes);
    for (int64_t t = 0; t < out.rows; ++t) {
      fill_normal(key, kCotangents, first_token + t, b, draws);
      for (int64_t i = some.begin; i < some.end; ++i) {
        const float size = sizes[i - b * kBlock];
        out(t, i - features.begin) = (0.5f + size * size) * draws[i - b * kBlock];
      }
    }
  }
}

namespace {

const SyntheticOptions kDefaults;
const KeySpec kSpectrumDecay{"spectrum_decay",
                             "synthetic weights: singular values of the structured part fall as r^-decay",
                             kDefaults.spectrum_decay,
                             0,
                             2,
                             {},
                             false};
const KeySpec kCorrelation{"correlation",
                           "synthetic activations: share of the variance in a few common factors",
                           kDefaults.correlation,
                           0,
                           1,
                           {},
                           false};
const KeySpec kOutlierShare{"outlier_share",
                            "synthetic activations: share of channels that are outliers",
                            kDefaults.outlier_share,
                            0,
                            0.5,
                            {},
                            false};
const KeySpec kOutlierGain{"outlier_gain",
                           "synthetic activations: how many times larger outlier channels are",
                           kDefaults.outlier_gain,
                           1,
                           1000,
                           {},
                           false};

}  // namespace

const std::vector<KeySpec>& synthetic_keys() {
  static const std::vector<KeySpec> keys{kSpectrumDecay, kCorrelation, kOutlierShare, kOutlierGain};
  return keys;
}

SyntheticOptions read_synthetic(const Params& params) {
  SyntheticOptions options;
  options.spectrum_decay = params.number(kSpectrumDecay);
  options.correlation = params.number(kCorrelation);
  options.outlier_share = params.number(kOutlierShare);
  options.outlier_gain = params.number(kOutlierGain);
  return options;
}

}  // namespace lamina
