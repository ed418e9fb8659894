// Random numbers as a function of a key and a counter, on any machine the same: integers by Philox, floats by
// arithmetic that IEEE 754 rounds in one way only.
//
// Include it only in files compiled with -ffp-contract=off: a fused multiply-add rounds once where this
// rounds twice.
#pragma once

#include <cstdint>
#include <string_view>

// Into functions of several instruction sets, so that each is vectorised for its own.
#define LAMINA_INLINE inline __attribute__((always_inline))

namespace lamina {

struct RandomKey {
  uint32_t low = 0;
  uint32_t high = 0;
};

// SplitMix64's finaliser (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
constexpr uint64_t mix64(uint64_t z) {
  z += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// FNV-1a, 64 bits, started from the mixed seed.
constexpr uint64_t hash_name(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325u ^ mix64(seed);
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return mix64(hash);
}

constexpr RandomKey random_key(uint64_t hash) {
  return {static_cast<uint32_t>(hash), static_cast<uint32_t>(hash >> 32)};
}

// Numbers come in blocks of 64 consecutive columns of one row: 16 Philox calls of 4 words. Column 16·w + l of
// block b is word w of the call with counter (16·b + l, row, stream).
inline constexpr int kLanes = 16;
inline constexpr int kBlock = 4 * kLanes;

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). `out`
// takes 64 words. Streams up to 2³²−1, rows within 64 bits, blocks up to 2²⁸−1.
LAMINA_INLINE void random_block(RandomKey key, uint32_t stream, int64_t row, int64_t block,
                                uint32_t* __restrict out) {
  const uint32_t first = static_cast<uint32_t>(block) * kLanes;
  const uint32_t row_low = static_cast<uint32_t>(row);
  const uint32_t row_high = static_cast<uint32_t>(static_cast<uint64_t>(row) >> 32);
  for (int lane = 0; lane < kLanes; ++lane) {
    uint32_t x0 = first + static_cast<uint32_t>(lane), x1 = row_low, x2 = row_high, x3 = stream;
    uint32_t k0 = key.low, k1 = key.high;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{x0} * 0xD2511F53u;
      const uint64_t p1 = uint64_t{x2} * 0xCD9E8D57u;
      x0 = static_cast<uint32_t>(p1 >> 32) ^ x1 ^ k0;
      x1 = static_cast<uint32_t>(p1);
      x2 = static_cast<uint32_t>(p0 >> 32) ^ x3 ^ k1;
      x3 = static_cast<uint32_t>(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    out[lane] = x0;
    out[kLanes + lane] = x1;
    out[2 * kLanes + lane] = x2;
    out[3 * kLanes + lane] = x3;
  }
}

// A distribution by its quantile function x(u) = u·(a + b·u² + c/(d − u²)), u uniform in (−1, 1): an odd
// rational fit by least squares, scaled to unit variance. Multiplications, additions and one division, each
// correctly rounded, instead of a logarithm that differs between mathematical libraries.
struct Quantile {
  float a, b, c, d;
};
// The normal distribution: kurtosis 2.98, cut at ±3.26 standard deviations.
inline constexpr Quantile kNormal{1.146732f, 0.508631f, 0.056738f, 1.035284f};
// Student's t with 5 degrees of freedom: kurtosis 6.47, cut at ±6.65 standard deviations.
inline constexpr Quantile kHeavyTailed{0.834279f, 0.851182f, 0.042689f, 1.008602f};

LAMINA_INLINE float draw(const Quantile& q, uint32_t word) {
  // 24 bits, symmetric about zero and never ±1; both steps are exact in float32.
  const float u = (static_cast<float>(static_cast<int32_t>(word) >> 8) + 0.5f) * (1.0f / 8388608.0f);
  const float square = u * u;
  return u * (q.a + q.b * square + q.c / (q.d - square));
}

}  // namespace lamina
