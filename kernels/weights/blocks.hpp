// The hot loop behind synthetic weights and activations: 64 columns of some rows at a time.
#pragma once

#include <cstdint>

#include "kernels/matrix.hpp"
#include "kernels/weights/random.hpp"

namespace lamina {

// The rank of the weights' structured part, and how many common factors the channels of activations share.
inline constexpr int kComponents = 64;
inline constexpr int kFactors = 16;

// out[i][c] = gain[c]·(own_scale·draw(i, c) + Σ_r left[i][r]·right[r][c]), r in order, each operation
// rounded.
struct BlockTask {
  RandomKey key;
  uint32_t stream = 0;
  Range rows;                // absolute: they are the random numbers' counter
  int64_t block = 0;         // columns [64·block, 64·block + columns)
  int64_t columns = kBlock;  // 1 to 64 of them are stored
  float own_scale = 0;
  const float* left = nullptr;   // [rows × terms]
  const float* right = nullptr;  // [terms × 64]
  const float* gains = nullptr;  // [64], or null for 1
  float* out = nullptr;          // [rows × stride]
  int64_t stride = 0;
};

// With kComponents terms and heavy-tailed draws, or kFactors terms and normal draws. The fastest instruction
// set of this machine, or with `portable` the oldest: the bits are the same, as a test shows.
void generate_weights(const BlockTask& task, bool portable = false);
void generate_activations(const BlockTask& task, bool portable = false);

}  // namespace lamina
