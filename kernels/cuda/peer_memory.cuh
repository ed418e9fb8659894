// How kernels of several GPUs meet in one another's memory: words that are their own flags, and counters.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace lamina {

// A word that no message holds stands where none has come yet: a float32's −0, or a −0 above a +0 of two
// 16-bit numbers. A sender writes zeros instead. So each word of 4 bytes says by itself that it is there, and
// no order between words, nor any fence, is needed.
inline constexpr uint32_t kWaiting = 0x80000000u;

struct Vector {
  uint32_t words[4];
};

// Relaxed at system scope: neither is kept in the first-level cache. A vector is four words to the memory
// model.
__device__ __forceinline__ void push(void* to, const Vector& v) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.words[0]),
               "r"(v.words[1]), "r"(v.words[2]), "r"(v.words[3])
               : "memory");
}
__device__ __forceinline__ Vector peek(const void* from) {
  Vector v;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.words[0]), "=r"(v.words[1]), "=r"(v.words[2]), "=r"(v.words[3])
               : "l"(from)
               : "memory");
  return v;
}

__device__ __forceinline__ void signal(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ void await(const uint32_t* flag, uint32_t value) {
  uint32_t seen;
  do {
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
  } while (static_cast<int32_t>(seen - value) < 0);
}

// Programmatic dependent launch, as in decode.cu: the next kernel's launch overlaps this one, its work does
// not.
__device__ __forceinline__ void begin_after_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Numbers of a vector as float32 and back.
struct Float32 {
  using Number = float;
  static constexpr int kNumbers = 4;  // of a vector
  __device__ static void widen(const Vector& v, float* out) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = __uint_as_float(v.words[i]);
  }
  __device__ static Vector narrow(const float* from) {
    Vector v;
#pragma unroll
    for (int i = 0; i < 4; ++i) v.words[i] = __float_as_uint(from[i]);
    return v;
  }
};

struct Bfloat16 {
  using Number = uint16_t;
  static constexpr int kNumbers = 8;
  __device__ static void widen(const Vector& v, float* out) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = __uint_as_float(v.words[i] << 16);
      out[2 * i + 1] = __uint_as_float(v.words[i] & 0xffff0000u);
    }
  }
  __device__ static Vector narrow(const float* from) {
    Vector v;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 two = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
      v.words[i] = *reinterpret_cast<const uint32_t*>(&two);
    }
    return v;
  }
};

struct Float16 {
  using Number = uint16_t;
  static constexpr int kNumbers = 8;
  __device__ static void widen(const Vector& v, float* out) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&v.words[i]));
      out[2 * i] = two.x;
      out[2 * i + 1] = two.y;
    }
  }
  __device__ static Vector narrow(const float* from) {
    Vector v;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half2 two = __floats2half2_rn(from[2 * i], from[2 * i + 1]);
      v.words[i] = *reinterpret_cast<const uint32_t*>(&two);
    }
    return v;
  }
};

// Vector `index` of [count] numbers; zeros beyond. `aligned`: the numbers begin at a multiple of 16 bytes.
template <class Type>
__device__ __forceinline__ Vector load_vector(const void* from, int64_t index, int64_t count, bool aligned) {
  if (aligned && (index + 1) * Type::kNumbers <= count) {
    const uint4 v = static_cast<const uint4*>(from)[index];
    return {{v.x, v.y, v.z, v.w}};
  }
  Vector v{};
  const auto* numbers = static_cast<const typename Type::Number*>(from);
#pragma unroll
  for (int i = 0; i < Type::kNumbers; ++i) {
    const int64_t at = index * Type::kNumbers + i;
    if (at >= count) continue;
    if constexpr (Type::kNumbers == 4)
      v.words[i] = __float_as_uint(numbers[at]);
    else
      v.words[i / 2] |= uint32_t{numbers[at]} << (i % 2 * 16);
  }
  return v;
}
template <class Type>
__device__ __forceinline__ void store_vector(void* to, int64_t index, int64_t count, bool aligned,
                                             const Vector& v) {
  if (aligned && (index + 1) * Type::kNumbers <= count) {
    static_cast<uint4*>(to)[index] = {v.words[0], v.words[1], v.words[2], v.words[3]};
    return;
  }
  auto* numbers = static_cast<typename Type::Number*>(to);
#pragma unroll
  for (int i = 0; i < Type::kNumbers; ++i) {
    const int64_t at = index * Type::kNumbers + i;
    if (at >= count) continue;
    if constexpr (Type::kNumbers == 4)
      numbers[at] = __uint_as_float(v.words[i]);
    else
      numbers[at] = static_cast<uint16_t>(v.words[i / 2] >> (i % 2 * 16));
  }
}

}  // namespace lamina
