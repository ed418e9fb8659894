#include "kernels/cuda/decode_formats.cuh"

namespace lamina {
namespace {

constexpr int kThreads = 512;  // each warp has a chunk
constexpr int kWarps = kThreads / 32;

// A pair of widened weights times their scale, by float32's own rounding, and rounded to bfloat16.
__device__ __forceinline__ uint32_t scaled(uint32_t pair, float scale) {
  return as_bits(__floats2bfloat162_rn(__fmul_rn(__uint_as_float(pair << 16), scale),
                                       __fmul_rn(__uint_as_float(pair & 0xffff0000u), scale)));
}

// Two kept weights and where of four columns they are, two bits each, as four weights.
__device__ __forceinline__ void spread(uint32_t pair, uint32_t places, uint32_t (&words)[2]) {
  const uint64_t four = static_cast<uint64_t>(pair & 0xffffu) << (places % 4 * 16) |
                        static_cast<uint64_t>(pair >> 16) << (places / 4 % 4 * 16);
  words[0] = static_cast<uint32_t>(four);
  words[1] = static_cast<uint32_t>(four >> 32);
}

// What pack_kernel did, backwards: a lane has the same 16 bytes of each part and tile as there.
template <class F>
__global__ void __launch_bounds__(kThreads)
    expand_kernel(DecodeLayout layout, const uint8_t* packed, uint16_t* to) {
  constexpr int kPartSteps = 4 / F::kStepWords;  // whose codes are in a lane's 16 bytes
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (index >= layout.strips * layout.chunks) return;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint8_t* const chunk = packed + index * kChunkBytes<F>;
  const int64_t first_row = index / layout.chunks * kStripRows,
                first_col = index % layout.chunks * F::kChunkCols;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const uint4 codes = reinterpret_cast<const uint4*>(chunk)[(tile * 2 + part) * 32 + lane];
      const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
      uint32_t a[kPartSteps][4];
#pragma unroll
      for (int i = 0; i < kPartSteps; ++i) {
        uint2 zeros = {0, 0};
        float2 scale = {1, 1};
        if constexpr (F::kGrouped) {
          const int group = (part * kPartSteps + i) * 16 / F::kGroup;
          zeros = zeros_of<F>(chunk, group, g, tile);
          scale = scales_of<F>(chunk, group, g, tile);
        }
        F::widen(words + i * F::kStepWords, a[i], zeros);
        if constexpr (F::kGrouped)
#pragma unroll
          for (int reg = 0; reg < 4; ++reg) a[i][reg] = scaled(a[i][reg], reg % 2 == 0 ? scale.x : scale.y);
      }
      const int64_t row = first_row + tile * 16 + g;
      if constexpr (F::kSparse) {
#pragma unroll
        for (int i = 0; i < kPartSteps; ++i) {
          const int step = part * kPartSteps + i;
          const auto* const kept =
              reinterpret_cast<const uint32_t*>(chunk + kMetaAt<F>) + step * 32 + g * 4 + tile * 2;
#pragma unroll
          for (int reg = 0; reg < 4; ++reg) {
            uint32_t four[2];
            spread(a[i][reg], kept[reg / 2] >> (reg % 2 * 16 + t * 4), four);
            write_neighbours<4>(layout, to, row + reg % 2 * 8, first_col + step * 32 + (t + reg / 2 * 4) * 4,
                                four);
          }
        }
      } else {
#pragma unroll
        for (int i = 0; i < kPartSteps; i += 2)
#pragma unroll
          for (int below = 0; below < 2; ++below) {
            const uint32_t eight[4] = {a[i][below], a[i][2 + below], a[i + 1][below], a[i + 1][2 + below]};
            write_neighbours<8>(layout, to, row + below * 8,
                                first_col + (part * kPartSteps + i) / 2 * 32 + t * 8, eight);
          }
      }
    }
}

}  // namespace

void decode_expand(DecodeFormat format, const DecodeLayout& layout, const void* packed, void* to,
                   cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((layout.strips * layout.chunks + kWarps - 1) / kWarps);
  with_format(format, [&]<class F>(F) {
    expand_kernel<F><<<blocks, kThreads, 0, stream>>>(layout, static_cast<const uint8_t*>(packed),
                                                      static_cast<uint16_t*>(to));
  });
}

}  // namespace lamina
