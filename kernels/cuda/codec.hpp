// Numbers as codes with block scales, in images: the scales of all blocks, then their codes. The steps of an
// all-reduce that sends codes by any transport; compressed.hpp does all of them in one.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/compressed.hpp"

namespace lamina {

// `block`: a multiple of 32. Int4 codes of a block: its first half in the low nibbles, its second in the high
// ones. Each puts one launch on the stream; check_launch() follows. Residuals as CompressedCall has them.
void encode_image(PayloadCode code, int block, const void* in, OneshotType type, int64_t count,
                  float* residual, uint8_t* image, cudaStream_t stream);
// The sum of `number` images, `stride` bytes apart, encoded anew.
void sum_images(PayloadCode code, int block, const uint8_t* images, int number, int64_t stride, int64_t count,
                float* residual, uint8_t* image, cudaStream_t stream);
void decode_image(PayloadCode code, int block, const uint8_t* image, int64_t count, void* out,
                  OneshotType type, cudaStream_t stream);

}  // namespace lamina
