#include "distributed/collectives/verify.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "kernels/small_floats.hpp"

namespace lamina {
namespace {

// splitmix64's finaliser over a counter.
uint64_t draw(int rank, int64_t index) {
  uint64_t z = static_cast<uint64_t>(index) * 0x9E3779B97F4A7C15ull +
               static_cast<uint64_t>(rank + 1) * 0xD1B54A32D192ED03ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

float uniform(int rank, int64_t index) {
  return static_cast<float>(static_cast<int64_t>(draw(rank, index) >> 40)) / 8388608.0f - 1.0f;
}

int8_t small(int rank, int ranks, int64_t index) {
  const int most = std::max(127 / ranks, 1);
  if (rank >= 127) return 0;
  return static_cast<int8_t>(static_cast<int>(draw(rank, index) % static_cast<uint64_t>(2 * most + 1)) -
                             most);
}

double read(const std::byte* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::f32:
      return reinterpret_cast<const float*>(data)[i];
    case DType::f16:
      return float_of_f16(reinterpret_cast<const uint16_t*>(data)[i]);
    case DType::bf16:
      return float_of_bf16(reinterpret_cast<const uint16_t*>(data)[i]);
    case DType::i8:
      return reinterpret_cast<const int8_t*>(data)[i];
    default:
      throw std::invalid_argument("collectives are verified in f32, f16, bf16 and i8");
  }
}

// Half a unit in the last place of numbers of 1: of f32's 24, f16's 11 and bf16's 8 digits.
double unit_of(DType dtype) {
  return dtype == DType::f32 ? 0x1p-24 : dtype == DType::f16 ? 0x1p-11 : dtype == DType::bf16 ? 0x1p-8 : 0;
}

// What an element may lose where its block's largest magnitude is `most`.
double step_of(Payload payload, double value, double most) {
  if (payload == Payload::fp8) return std::max(std::abs(value) * 0x1p-4, most / 448 * 0x1p-10);
  return most / (payload == Payload::int8 ? 127 : 7) / 2;
}

// The tolerance of each element of one block of a compressed sum, [length] at `begin` of the whole.
void compressed_tolerance(const Compression& compression, int ranks, int64_t begin, int64_t length,
                          DType dtype, const double* exact, double* tolerance) {
  std::vector<double> lost(static_cast<size_t>(length), 0.0), values(static_cast<size_t>(length));
  for (int r = 0; r < ranks; ++r) {
    double most = 0;
    for (int64_t i = 0; i < length; ++i) {
      values[static_cast<size_t>(i)] = collective_value(r, ranks, begin + i, dtype);
      most = std::max(most, std::abs(values[static_cast<size_t>(i)]));
    }
    for (size_t i = 0; i < lost.size(); ++i) lost[i] += step_of(compression.payload, values[i], most);
  }
  double most = 0, largest = 0;
  for (size_t i = 0; i < lost.size(); ++i) {
    most = std::max(most, std::abs(exact[i]) + lost[i]);
    largest = std::max(largest, lost[i]);
  }
  for (size_t i = 0; i < lost.size(); ++i) {
    const double value = std::abs(exact[i]) + lost[i];
    // Float32's own roundings on top; and with feedback what the call before lost, of numbers that were that
    // much larger.
    const double once = (lost[i] + step_of(compression.payload, value, most)) * 1.001 + 1e-6 * most;
    tolerance[i] =
        (compression.error_feedback ? 2.5 * (once + largest * 0.1) : once) + unit_of(dtype) * value;
  }
}

constexpr int64_t kChunk = 1 << 15;  // elements at a time: their exact sums stay in the caches

void merge(Verification& into, const Verification& part) {
  const double old = into.ratio(), now = part.ratio();
  if (now > old || (now == old && part.worst < into.worst)) {
    into.worst = part.worst;
    into.error = part.error;
    into.tolerance = part.tolerance;
  }
  into.wrong += part.wrong;
  into.error_squared += part.error_squared;
  into.norm_squared += part.norm_squared;
  into.out_squared += part.out_squared;
  into.product += part.product;
  into.max_abs = std::max(into.max_abs, part.max_abs);
}

Verification verify_chunk(const Collective& collective, const CollectiveSizes& sizes, int rank, int ranks,
                          DType dtype, const std::byte* out, const Compression* compression, int64_t begin,
                          int64_t length) {
  const auto count = static_cast<size_t>(length);
  std::vector<double> exact(count), tolerance(count, 0.0);
  for (size_t i = 0; i < count; ++i) {
    const CollectiveSource source = collective.data(sizes, rank, ranks, begin + static_cast<int64_t>(i));
    double sum = 0, magnitudes = 0;
    for (int r = source.rank < 0 ? 0 : source.rank; r < (source.rank < 0 ? ranks : source.rank + 1); ++r) {
      const double value = collective_value(r, ranks, source.index, dtype);
      sum += value;
      magnitudes += std::abs(value);
    }
    exact[i] = sum;
    // On top, half the smallest number of f16: sums may end below its normal ones.
    if (collective.reduces && ranks > 1 && dtype != DType::i8)
      tolerance[i] = ranks * unit_of(dtype) * magnitudes + (dtype == DType::f16 ? 0x1p-25 : 0);
  }
  if (compression != nullptr)
    for (int64_t at = 0; at < length; at += compression->block)
      compressed_tolerance(*compression, ranks, begin + at, std::min(compression->block, length - at), dtype,
                           exact.data() + at, tolerance.data() + at);

  Verification result;
  for (size_t i = 0; i < count; ++i) {
    const double value = read(out, dtype, begin + static_cast<int64_t>(i));
    Verification one;
    one.worst = begin + static_cast<int64_t>(i);
    one.error = std::abs(value - exact[i]);
    if (std::isnan(one.error)) one.error = std::numeric_limits<double>::infinity();
    one.tolerance = tolerance[i];
    one.wrong = one.error > one.tolerance ? 1 : 0;
    one.error_squared = one.error * one.error;
    one.norm_squared = exact[i] * exact[i];
    one.out_squared = value * value;
    one.product = value * exact[i];
    one.max_abs = one.error;
    merge(result, one);
  }
  return result;
}

}  // namespace

double collective_value(int rank, int ranks, int64_t index, DType dtype) {
  switch (dtype) {
    case DType::f32:
      return uniform(rank, index);
    case DType::f16:
      return float_of_f16(f16_of_float(uniform(rank, index)));
    case DType::bf16:
      return float_of_bf16(bf16_of_float(uniform(rank, index)));
    default:
      return small(rank, ranks, index);
  }
}

void fill_collective(int rank, int ranks, int64_t count, DType dtype, std::byte* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == DType::f32) reinterpret_cast<float*>(out)[i] = uniform(rank, i);
    if (dtype == DType::f16) reinterpret_cast<uint16_t*>(out)[i] = f16_of_float(uniform(rank, i));
    if (dtype == DType::bf16) reinterpret_cast<uint16_t*>(out)[i] = bf16_of_float(uniform(rank, i));
    if (dtype == DType::i8) reinterpret_cast<int8_t*>(out)[i] = small(rank, ranks, i);
  }
}

void add_collective(const std::byte* data, int64_t count, DType dtype, double weight, double* sums) {
  for (int64_t i = 0; i < count; ++i) sums[i] += weight * read(data, dtype, i);
}

Verification verify_collective(const Collective& collective, const CollectiveSizes& sizes, int rank,
                               int ranks, DType dtype, const std::byte* out, const Compression* compression,
                               int threads) {
  const int64_t unit = compression != nullptr ? compression->block : 1;
  const int64_t chunk = (kChunk + unit - 1) / unit * unit, chunks = (sizes.out + chunk - 1) / chunk;
  Verification result;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t begin = c * chunk, length = std::min(chunk, sizes.out - begin);
    const Verification part =
        verify_chunk(collective, sizes, rank, ranks, dtype, out, compression, begin, length);
#pragma omp critical
    merge(result, part);
  }
  return result;
}

}  // namespace lamina
