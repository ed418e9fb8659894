#include "distributed/collectives/combine.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "kernels/small_floats.hpp"
#include "kernels/wide.hpp"

namespace lamina {
namespace {

constexpr int64_t kBlock = 512;  // elements at a time: within the first-level cache beside the inputs

// How elements are stored, and what they are added as.
template <class T>
struct Plain {
  using Stored = T;
  using Wide = T;
  static Wide load(Stored value) { return value; }
  static Stored store(Wide value) { return value; }
};
struct Bf16 {
  using Stored = uint16_t;
  using Wide = float;
  static Wide load(Stored value) { return float_of_bf16(value); }
  static Stored store(Wide value) { return bf16_of_float(value); }
};
struct F16 {
  using Stored = uint16_t;
  using Wide = float;
  static Wide load(Stored value) { return float_of_f16(value); }
  static Stored store(Wide value) { return f16_of_float(value); }
};

template <class T>
struct Sum {
  static T of(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      using U = std::make_unsigned_t<T>;  // signed overflow is undefined
      return static_cast<T>(static_cast<U>(static_cast<U>(a) + static_cast<U>(b)));
    } else {
      return a + b;
    }
  }
};
template <class T>
struct Max {
  static T of(T a, T b) { return a < b ? b : a; }
};
template <class T>
struct Min {
  static T of(T a, T b) { return b < a ? b : a; }
};

// The compiler vectorises these loops. Two inputs need no block between: `out` may be either.
template <class Format, class Op>
[[gnu::always_inline]] inline void combine_as(const void* const* in, int inputs, void* out, int64_t count) {
  using Stored = typename Format::Stored;
  using Wide = typename Format::Wide;
  auto* to = static_cast<Stored*>(out);
  const auto* first = static_cast<const Stored*>(in[0]);
  if (inputs == 2) {
    const auto *a = first, *b = static_cast<const Stored*>(in[1]);
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) to[i] = Format::store(Op::of(Format::load(a[i]), Format::load(b[i])));
    return;
  }
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t length = std::min(kBlock, count - begin);
    Wide sum[kBlock];
    for (int64_t i = 0; i < length; ++i) sum[i] = Format::load(first[begin + i]);
    for (int r = 1; r < inputs; ++r) {
      const Stored* next = static_cast<const Stored*>(in[r]) + begin;
      for (int64_t i = 0; i < length; ++i) sum[i] = Op::of(sum[i], Format::load(next[i]));
    }
    for (int64_t i = 0; i < length; ++i) to[begin + i] = Format::store(sum[i]);
  }
}

template <class Format>
void combine_by(const void* const* in, int inputs, void* out, int64_t count, ReduceOp op) {
  using Wide = typename Format::Wide;
  switch (op) {
    case ReduceOp::sum:
      return combine_as<Format, Sum<Wide>>(in, inputs, out, count);
    case ReduceOp::max:
      return combine_as<Format, Max<Wide>>(in, inputs, out, count);
    case ReduceOp::min:
      return combine_as<Format, Min<Wide>>(in, inputs, out, count);
  }
}

// The sums that layers ask for, as wide as the machine's vectors are.
LAMINA_WIDE void sum_f32(const void* const* in, int inputs, void* out, int64_t count) {
  combine_as<Plain<float>, Sum<float>>(in, inputs, out, count);
}

// Two bfloat16 lie in a word, and all of it is arithmetic of words: vectors of 16-bit numbers, widened and
// narrowed again, take three times as long.
struct Pair {
  float low, high;
};
Pair load_pair(const void* from, int64_t word) {
  uint32_t bits = 0;
  std::memcpy(&bits, static_cast<const std::byte*>(from) + 4 * word, sizeof bits);
  return {std::bit_cast<float>(bits << 16), std::bit_cast<float>(bits & 0xffff0000u)};
}
// bf16_of_float(), in the upper half.
uint32_t rounded(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return (bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1);
}
void store_pair(Pair sum, void* to, int64_t word) {
  const uint32_t bits = rounded(sum.low) >> 16 | (rounded(sum.high) & 0xffff0000u);
  std::memcpy(static_cast<std::byte*>(to) + 4 * word, &bits, sizeof bits);
}

LAMINA_WIDE void sum_bf16(const void* const* in, int inputs, void* out, int64_t count) {
  const int64_t words = count / 2;
  const void *const first = in[0], *const second = in[1];
  if (inputs == 2) {
#pragma GCC ivdep
    for (int64_t i = 0; i < words; ++i) {
      const Pair a = load_pair(first, i), b = load_pair(second, i);
      store_pair({a.low + b.low, a.high + b.high}, out, i);
    }
  }
  for (int64_t begin = 0; begin < words && inputs > 2; begin += kBlock) {
    const int64_t length = std::min(kBlock, words - begin);
    float low[kBlock], high[kBlock];
    for (int64_t i = 0; i < length; ++i) {
      const Pair a = load_pair(first, begin + i);
      low[i] = a.low;
      high[i] = a.high;
    }
    for (int r = 1; r < inputs; ++r) {
      const void* const next = in[r];
      for (int64_t i = 0; i < length; ++i) {
        const Pair a = load_pair(next, begin + i);
        low[i] += a.low;
        high[i] += a.high;
      }
    }
    for (int64_t i = 0; i < length; ++i) store_pair({low[i], high[i]}, out, begin + i);
  }
  if (count % 2 == 0) return;
  float last = 0;
  for (int r = 0; r < inputs; ++r) {
    const float value = float_of_bf16(static_cast<const uint16_t*>(in[r])[count - 1]);
    last = r == 0 ? value : last + value;
  }
  static_cast<uint16_t*>(out)[count - 1] = bf16_of_float(last);
}
LAMINA_WIDE void sum_f16(const void* const* in, int inputs, void* out, int64_t count) {
  combine_as<F16, Sum<float>>(in, inputs, out, count);
}

}  // namespace

void combine(const void* const* in, int inputs, void* out, int64_t count, DType dtype, ReduceOp op) {
  if (count == 0) return;
  if (inputs == 1) {
    if (in[0] != out && count > 0) std::memcpy(out, in[0], static_cast<size_t>(count * dtype_bytes(dtype)));
    return;
  }
  if (op == ReduceOp::sum) {
    if (dtype == DType::f32) return sum_f32(in, inputs, out, count);
    if (dtype == DType::bf16) return sum_bf16(in, inputs, out, count);
    if (dtype == DType::f16) return sum_f16(in, inputs, out, count);
  }
  switch (dtype) {
    case DType::f32:
      return combine_by<Plain<float>>(in, inputs, out, count, op);
    case DType::f64:
      return combine_by<Plain<double>>(in, inputs, out, count, op);
    case DType::i32:
      return combine_by<Plain<int32_t>>(in, inputs, out, count, op);
    case DType::i64:
      return combine_by<Plain<int64_t>>(in, inputs, out, count, op);
    case DType::i8:
      return combine_by<Plain<int8_t>>(in, inputs, out, count, op);
    case DType::u8:
      return combine_by<Plain<uint8_t>>(in, inputs, out, count, op);
    case DType::f16:
      return combine_by<F16>(in, inputs, out, count, op);
    case DType::bf16:
      return combine_by<Bf16>(in, inputs, out, count, op);
  }
  throw std::logic_error("combine: unknown data type");
}

}  // namespace lamina
