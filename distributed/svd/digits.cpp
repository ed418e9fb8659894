#include "distributed/svd/digits.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string_view>

#include "kernels/compress/rows.hpp"
#include "kernels/cpu/ops.hpp"
#include "kernels/wide.hpp"

namespace lamina::svd {
namespace {

constexpr int kDigits = 4;
// Products of a digit i places below the highest and one j places are 2^-8(i+j) of the highest's: those up to
// here count.
constexpr int kLevels = 5;
constexpr int64_t kTogether = 64;       // columns of lines that padding completes: a tile's width
constexpr int64_t kMostTokens = 32;     // a tile's height, twice
constexpr int64_t kChunk = 2048;        // of T's rows at a time: the lines' digits stay in cache
constexpr uint32_t kBias = 0x80808080;  // bytes of v + kBias are digits from −128 to 127, plus 128
static_assert(kChunk * kDigits * 128 * 128 <= int64_t{1} << 30);

// As fixed point: |x·factor| ≤ 2^30, to the nearest.
inline uint32_t fixed(double x, double factor) {
  return static_cast<uint32_t>(std::bit_cast<uint64_t>(x * factor + 0x1.8p52));
}

// A power of two at or above the magnitude.
double power_above(double most) {
  return most > 0 ? std::exp2(std::ilogb(most) + 1) : 0;
}

// Up to 64 numbers of a line as digits, each digit's bytes at to[digit][0..63]; adds the digits up.
// The factor is a product of two, either of which float32 has.
LAMINA_WIDE void cut(const float* line, int64_t count, float factor, float and_factor, int8_t* const* to,
                     int32_t* sums) {
  alignas(64) uint32_t words[kTogether];
  for (int64_t i = 0; i < count; ++i)
    words[i] = static_cast<uint32_t>(static_cast<int32_t>(std::rint(line[i] * factor * and_factor)));
  for (int64_t i = count; i < kTogether; ++i) words[i] = 0;
  for (int digit = 0; digit < kDigits; ++digit) {
    const int shift = 24 - 8 * digit;
    int32_t sum = 0;
    int8_t* codes = to[digit];
    for (int64_t i = 0; i < kTogether; ++i) {
      const int32_t code = static_cast<int32_t>((words[i] + kBias) >> shift & 255) - 128;
      codes[i] = static_cast<int8_t>(code);
      sum += code;
    }
    sums[digit] += sum;
  }
}

// Four rows of 16 columns as words of four bytes each, a digit after the other.
LAMINA_WIDE void cut_columns(const uint32_t* rows, int shift, uint32_t* to) {
  for (int i = 0; i < 16; ++i) {
    to[i] = (rows[i] >> shift & 255) | (rows[16 + i] >> shift & 255) << 8 |
            (rows[32 + i] >> shift & 255) << 16 | (rows[48 + i] >> shift & 255) << 24;
  }
}

// y[j] (+)= the levels' sums, each 256 times the next one's.
LAMINA_WIDE void fold(const int32_t* sums, int64_t level_stride, int64_t count, const double* power,
                      double scale, bool add, double* y) {
  for (int64_t j = 0; j < count; ++j) {
    double sum = sums[j];
    for (int level = 1; level < kLevels; ++level) sum = sum * 256 + sums[level * level_stride + j];
    const double value = sum * (scale * power[j]);
    y[j] = add ? y[j] + value : value;
  }
}

}  // namespace

bool digits_are_fast() {
  const CpuOps& ops = cpu_ops();
  return std::string_view(ops.name) == "amx" && ops.words_together == 16 && ops.i8_columns == 4 &&
         ops.i8_bias == 128 && ops.tokens_i8.most == kMostTokens && ops.panel_rows == 16;
}

DigitTall::DigitTall(const Matrix<double>& tall, int threads)
    : rows_(tall.rows),
      padded_((tall.rows + kTogether - 1) / kTogether * kTogether),
      cols_(tall.cols),
      power_(static_cast<size_t>(tall.cols), 0.0) {
  const int64_t panels = (cols_ + 15) / 16, digit_size = panels * padded_ * 16;
  bytes_ = Buffer::untouched(kDigits * digit_size);
  for (int64_t i = 0; i < rows_; ++i) {
    for (int64_t j = 0; j < cols_; ++j)
      power_[static_cast<size_t>(j)] = std::max(power_[static_cast<size_t>(j)], std::abs(tall(i, j)));
  }
  std::vector<double> factors;
  for (double& power : power_) {
    power = power_above(power);
    factors.push_back(power > 0 ? 0x1p30 / power : 0);
  }
  auto* to = bytes_.as<uint32_t>();
#pragma omp parallel for num_threads(threads)
  for (int64_t row = 0; row < padded_; row += 4) {
    for (int64_t panel = 0; panel < panels; ++panel) {
      uint32_t numbers[64];
      std::fill_n(numbers, 64, kBias);
      for (int64_t i = row; i < std::min(row + 4, rows_); ++i) {
        for (int64_t j = panel * 16; j < std::min(panel * 16 + 16, cols_); ++j)
          numbers[(i - row) * 16 + j % 16] = fixed(tall(i, j), factors[static_cast<size_t>(j)]) + kBias;
      }
      for (int digit = 0; digit < kDigits; ++digit)
        cut_columns(numbers, 24 - 8 * digit, to + (digit * digit_size + (panel * padded_ + row) * 16) / 4);
    }
  }
}

DigitScratch DigitTall::scratch() const {
  return {std::vector<int32_t>(static_cast<size_t>(kLevels * kMostTokens * cols_)),
          Buffer::untouched(kDigits * kMostTokens * kChunk)};
}

void DigitTall::multiply(DigitScratch& scratch, const float* lines, int64_t stride, int64_t tokens,
                         double* y) const {
  const CpuOps& ops = cpu_ops();
  const int64_t panel_bytes = padded_ * 16, digit_size = (cols_ + 15) / 16 * panel_bytes;
  const int64_t level_size = kMostTokens * cols_, plane_size = kMostTokens * kChunk;
  std::vector<int32_t>& sums = scratch.sums;
  const auto plane = [&](int digit) { return scratch.planes.as<int8_t>() + digit * plane_size; };
  for (int64_t first_token = 0; first_token < tokens; first_token += kMostTokens) {
    const int64_t some = std::min(kMostTokens, tokens - first_token);
    const float* from = lines + first_token * stride;
    double powers[kMostTokens];
    for (int64_t t = 0; t < some; ++t) powers[t] = power_above(largest_magnitude(from + t * stride, rows_));
    for (int64_t first = 0; first < rows_; first += kChunk) {
      const int64_t depth = std::min(kChunk, rows_ - first);
      const int64_t padded = (depth + kTogether - 1) / kTogether * kTogether;
      int32_t starts[kDigits][kMostTokens];
      for (int64_t t = 0; t < some; ++t) {
        int32_t digit_sums[kDigits] = {};
        const int exponent = powers[t] > 0 ? 30 - std::ilogb(powers[t]) : 0;
        const float factor = powers[t] > 0 ? std::ldexp(1.0f, exponent / 2) : 0;
        const float and_factor = std::ldexp(1.0f, exponent - exponent / 2);
        for (int64_t c = 0; c < depth; c += kTogether) {
          int8_t* to[kDigits];
          for (int digit = 0; digit < kDigits; ++digit) to[digit] = plane(digit) + c * some + t * kTogether;
          cut(from + t * stride + first + c, std::min(kTogether, depth - c), factor, and_factor, to,
              digit_sums);
        }
        for (int digit = 0; digit < kDigits; ++digit) starts[digit][t] = -128 * digit_sums[digit];
      }
      for (int level = 0; level < kLevels; ++level) {
        bool add = false;
        for (int digit = std::max(0, level - kDigits + 1); digit <= std::min(level, kDigits - 1); ++digit) {
          const auto* weights = bytes_.as<const uint8_t>() + (level - digit) * digit_size + first * 16;
          ops.panel_i8(weights, panel_bytes, cols_, reinterpret_cast<const int32_t*>(plane(digit)),
                       starts[digit], some, padded, sums.data() + level * level_size, cols_, add, {});
          add = true;
        }
      }
      for (int64_t t = 0; t < some; ++t)
        fold(sums.data() + t * cols_, level_size, cols_, power_.data(), 0x1p-44 * powers[t], first > 0,
             y + (first_token + t) * cols_);
    }
  }
  if (ops.end_panels != nullptr) ops.end_panels();
}

// With W's elements w ≤ a_t = power of its line and T's x ≤ b_j of its column: fixed point is off by 2^-31 of
// these, so ‖W·dT‖ ≤ ‖W‖·‖dT‖ and ‖dW·T‖ ≤ ‖dW‖·‖T‖₂; the digits from the i-th on are at most 2^(1-8i) of
// them, so of the products left out, (2, 3), (3, 2) and (3, 3), ‖W_i·T_j‖ ≤ ‖W_i‖·‖T_j‖.
double DigitTall::error(double norm, double most, int64_t count) const {
  double squares = 0;
  for (const double power : power_) squares += power * power;
  const double columns = std::sqrt(static_cast<double>(rows_) * squares);
  const double every = std::sqrt(static_cast<double>(rows_) * static_cast<double>(count)) * 2 * most;
  return 0x1p-31 * (norm * columns + 1.01 * every) + 2.01 * 0x1p-38 * every * columns;
}

int64_t digit_bytes(int64_t rows, int64_t cols, int threads) {
  const int64_t packed = kDigits * ((cols + 15) / 16 * 16) * ((rows + kTogether - 1) / kTogether * kTogether);
  return packed + threads * kMostTokens * (4 * kLevels * cols + kDigits * kChunk);
}

}  // namespace lamina::svd
