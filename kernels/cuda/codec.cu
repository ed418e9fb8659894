#include "kernels/cuda/codec.hpp"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/activations.hpp"

namespace lamina {
namespace {

constexpr int kWarps = 8;

__device__ float load_number(const void* from, OneshotType type, int64_t i) {
  if (type == OneshotType::f32) return static_cast<const float*>(from)[i];
  if (type == OneshotType::bf16) return __bfloat162float(static_cast<const __nv_bfloat16*>(from)[i]);
  return __half2float(static_cast<const __half*>(from)[i]);
}
__device__ void store_number(void* to, OneshotType type, int64_t i, float value) {
  if (type == OneshotType::f32)
    static_cast<float*>(to)[i] = value;
  else if (type == OneshotType::bf16)
    static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16_rn(value);
  else
    static_cast<__half*>(to)[i] = __float2half_rn(value);
}

// A byte of codes: of int4 two elements, half a block apart.
__device__ constexpr float most_of(PayloadCode code) {
  return code == PayloadCode::int8 ? 127.0f : code == PayloadCode::fp8 ? 448.0f : 7.0f;
}
template <PayloadCode kCode>
__device__ uint32_t code_of(float x) {
  if constexpr (kCode == PayloadCode::fp8) return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
  const float most = most_of(kCode);
  return static_cast<uint32_t>(__float2int_rn(fminf(fmaxf(x, -most), most))) &
         (kCode == PayloadCode::int4 ? 15u : 255u);
}
template <PayloadCode kCode>
__device__ float value_of(uint32_t code) {
  if constexpr (kCode == PayloadCode::fp8)
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(code), __NV_E4M3)));
  if constexpr (kCode == PayloadCode::int4) return static_cast<float>(static_cast<int32_t>(code << 28) >> 28);
  return static_cast<float>(static_cast<int8_t>(code));
}

// Where the parts of an image lie.
template <PayloadCode kCode>
struct Image {
  int block;
  int64_t blocks;
  static constexpr bool kNibbles = kCode == PayloadCode::int4;
  __device__ int code_bytes() const { return kNibbles ? block / 2 : block; }
  __device__ int64_t codes(int64_t index) const { return 4 * blocks + index * code_bytes(); }
  // Element i of block `index`, as stored in `image`.
  __device__ float get(const uint8_t* image, int64_t index, int i) const {
    const float scale = reinterpret_cast<const float*>(image)[index];
    const int half = block / 2;
    const uint32_t byte = image[codes(index) + (kNibbles && i >= half ? i - half : i)];
    return value_of<kCode>(kNibbles ? (i >= half ? byte >> 4 : byte & 15u) : byte) * scale;
  }
};

// A warp a block: get(i) are its numbers, with residuals added; what is lost goes there.
template <PayloadCode kCode, class Get>
__device__ void put_block(const Image<kCode>& layout, int64_t index, int64_t count, const Get& get,
                          float* residual, uint8_t* image) {
  const int lane = threadIdx.x % 32;
  const int64_t first = index * layout.block;
  const auto number = [&](int i) -> float {
    if (first + i >= count) return 0;
    return get(i) + (residual != nullptr ? residual[first + i] : 0.0f);
  };
  float amax = 0;
  for (int i = lane; i < layout.block; i += 32) amax = fmaxf(amax, fabsf(number(i)));
  for (int offset = 16; offset > 0; offset /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  const bool zero = amax < kSmallestActivation;
  const float scale = zero ? 0.0f : __fdiv_rn(amax, most_of(kCode)),
              inverse = zero ? 0.0f : __fdiv_rn(most_of(kCode), amax);
  if (lane == 0) reinterpret_cast<float*>(image)[index] = scale;
  const auto encode = [&](int i) {
    const float wanted = number(i);
    const uint32_t code = code_of<kCode>(wanted * inverse);
    if (residual != nullptr && first + i < count)
      residual[first + i] = wanted - value_of<kCode>(code) * scale;
    return code;
  };
  const int bytes = layout.code_bytes();
  for (int i = lane; i < bytes; i += 32)
    image[layout.codes(index) + i] =
        static_cast<uint8_t>(Image<kCode>::kNibbles ? encode(i) | encode(i + bytes) << 4 : encode(i));
}

template <PayloadCode kCode>
__global__ void encode_kernel(Image<kCode> layout, const void* in, OneshotType type, int64_t count,
                              float* residual, uint8_t* image) {
  const int64_t step = int64_t{gridDim.x} * kWarps;
  for (int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; index < layout.blocks; index += step)
    put_block(
        layout, index, count, [&](int i) { return load_number(in, type, index * layout.block + i); },
        residual, image);
}

template <PayloadCode kCode>
__global__ void sum_kernel(Image<kCode> layout, const uint8_t* images, int number, int64_t stride,
                           int64_t count, float* residual, uint8_t* image) {
  const int64_t step = int64_t{gridDim.x} * kWarps;
  for (int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; index < layout.blocks; index += step)
    put_block(
        layout, index, count,
        [&](int i) {
          float sum = layout.get(images, index, i);
          for (int r = 1; r < number; ++r) sum += layout.get(images + r * stride, index, i);
          return sum;
        },
        residual, image);
}

template <PayloadCode kCode>
__global__ void decode_kernel(Image<kCode> layout, const uint8_t* image, int64_t count, void* out,
                              OneshotType type) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x)
    store_number(out, type, i, layout.get(image, i / layout.block, static_cast<int>(i % layout.block)));
}

unsigned grid_for(int64_t items) {
  return static_cast<unsigned>(std::clamp<int64_t>(items, 1, 132 * 16));
}

// Calls work(layout) of the code.
template <class Work>
void with_layout(PayloadCode code, int block, int64_t count, Work&& work) {
  const int64_t blocks = (count + block - 1) / block;
  if (code == PayloadCode::int8) work(Image<PayloadCode::int8>{block, blocks});
  if (code == PayloadCode::fp8) work(Image<PayloadCode::fp8>{block, blocks});
  if (code == PayloadCode::int4) work(Image<PayloadCode::int4>{block, blocks});
}

}  // namespace

void encode_image(PayloadCode code, int block, const void* in, OneshotType type, int64_t count,
                  float* residual, uint8_t* image, cudaStream_t stream) {
  if (count <= 0) return;
  with_layout(code, block, count, [&](auto layout) {
    encode_kernel<<<grid_for((layout.blocks + kWarps - 1) / kWarps), kWarps * 32, 0, stream>>>(
        layout, in, type, count, residual, image);
  });
}

void sum_images(PayloadCode code, int block, const uint8_t* images, int number, int64_t stride, int64_t count,
                float* residual, uint8_t* image, cudaStream_t stream) {
  if (count <= 0) return;
  with_layout(code, block, count, [&](auto layout) {
    sum_kernel<<<grid_for((layout.blocks + kWarps - 1) / kWarps), kWarps * 32, 0, stream>>>(
        layout, images, number, stride, count, residual, image);
  });
}

void decode_image(PayloadCode code, int block, const uint8_t* image, int64_t count, void* out,
                  OneshotType type, cudaStream_t stream) {
  if (count <= 0) return;
  with_layout(code, block, count, [&](auto layout) {
    decode_kernel<<<grid_for((count + 255) / 256), 256, 0, stream>>>(layout, image, count, out, type);
  });
}

}  // namespace lamina
