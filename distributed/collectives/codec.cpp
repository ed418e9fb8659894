#include "distributed/collectives/codec.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "kernels/small_floats.hpp"

namespace lamina {
namespace {

constexpr int64_t kMostBlock = 1024;
constexpr int64_t kBlocksToShare = 64;  // fewer are not worth a team of threads

int64_t code_bytes(Payload payload, int64_t elements) {
  return payload == Payload::int4 ? elements / 2 : elements;
}

void load(const void* in, DType dtype, int64_t begin, int64_t count, float* out) {
  if (dtype == DType::f32) {
    std::copy_n(static_cast<const float*>(in) + begin, count, out);
  } else {
    const uint16_t* from = static_cast<const uint16_t*>(in) + begin;
    if (dtype == DType::bf16)
      for (int64_t i = 0; i < count; ++i) out[i] = float_of_bf16(from[i]);
    else
      for (int64_t i = 0; i < count; ++i) out[i] = float_of_f16(from[i]);
  }
}

void store(const float* in, int64_t count, void* out, DType dtype, int64_t begin) {
  if (dtype == DType::f32) {
    std::copy_n(in, count, static_cast<float*>(out) + begin);
  } else {
    uint16_t* to = static_cast<uint16_t*>(out) + begin;
    if (dtype == DType::bf16)
      for (int64_t i = 0; i < count; ++i) to[i] = bf16_of_float(in[i]);
    else
      for (int64_t i = 0; i < count; ++i) to[i] = f16_of_float(in[i]);
  }
}

float largest_magnitude(const float* x, int64_t count) {
  // As integers magnitudes compare alike, and compilers vectorise that.
  uint32_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return std::bit_cast<float>(most);
}

// To the nearest whole number, ties to even, for |x| < 2²²: beside 1.5·2²³ a float32 has no fraction, and its
// low bits are the number's.
uint32_t rounded(float x) {
  return std::bit_cast<uint32_t>(x + 12582912.0f);
}

template <Payload kind>
constexpr float kLargestCode = kind == Payload::int8  ? 127.0f
                               : kind == Payload::fp8 ? 448.0f
                                                      : 7.0f;

template <Payload kind>
void put_block(const float* x, int64_t block, float inverse, std::byte* codes) {
  auto* to = reinterpret_cast<uint8_t*>(codes);
  if constexpr (kind == Payload::int8) {
    for (int64_t i = 0; i < block; ++i) to[i] = static_cast<uint8_t>(rounded(x[i] * inverse));
  } else if constexpr (kind == Payload::fp8) {
    for (int64_t i = 0; i < block; ++i) to[i] = e4m3_of_float(x[i] * inverse);
  } else {
    // The first half of a block in the low nibbles, the second in the high ones.
    const int64_t half = block / 2;
    for (int64_t i = 0; i < half; ++i)
      to[i] =
          static_cast<uint8_t>((rounded(x[i] * inverse) & 15) | (rounded(x[i + half] * inverse) & 15) << 4);
  }
}

// y = codes·scale, added to what is there or in its place.
template <Payload kind, bool add>
void get_block(const std::byte* codes, int64_t block, float scale, float* y) {
  const auto* from = reinterpret_cast<const uint8_t*>(codes);
  const auto put = [&](int64_t i, float value) { y[i] = add ? y[i] + value * scale : value * scale; };
  if constexpr (kind == Payload::int8) {
    for (int64_t i = 0; i < block; ++i) put(i, static_cast<float>(static_cast<int8_t>(from[i])));
  } else if constexpr (kind == Payload::fp8) {
    for (int64_t i = 0; i < block; ++i) put(i, float_of_e4m3(from[i]));
  } else {
    const int64_t half = block / 2;
    for (int64_t i = 0; i < half; ++i)
      put(i, static_cast<float>(static_cast<int8_t>(static_cast<uint8_t>(from[i] << 4)) >> 4));
    for (int64_t i = 0; i < half; ++i) put(i + half, static_cast<float>(static_cast<int8_t>(from[i]) >> 4));
  }
}

template <Payload kind>
class CpuCodec final : public Codec {
 public:
  explicit CpuCodec(int64_t block) : block_(block) {}
  Payload payload() const override { return kind; }
  int64_t block() const override { return block_; }

  void encode(const void* in, DType dtype, int64_t count, float* residual, std::byte* image,
              Stream& stream) override {
    for_blocks(count, stream, [&](int64_t index, int64_t begin, int64_t length) {
      float x[kMostBlock];
      load(in, dtype, begin, length, x);
      put(x, index, length, count, residual == nullptr ? nullptr : residual + begin, image);
    });
  }

  void sum(const std::byte* images, int number, int64_t stride, int64_t count, float* residual,
           std::byte* image, Stream& stream) override {
    for_blocks(count, stream, [&](int64_t index, int64_t begin, int64_t length) {
      float x[kMostBlock];
      get_block<kind, false>(codes(images, count, index), block_, scale(images, index), x);
      for (int i = 1; i < number; ++i) {
        const std::byte* next = images + i * stride;
        get_block<kind, true>(codes(next, count, index), block_, scale(next, index), x);
      }
      put(x, index, length, count, residual == nullptr ? nullptr : residual + begin, image);
    });
  }

  void decode(const std::byte* image, int64_t count, void* out, DType dtype, Stream& stream) override {
    for_blocks(count, stream, [&](int64_t index, int64_t begin, int64_t length) {
      float x[kMostBlock];
      get_block<kind, false>(codes(image, count, index), block_, scale(image, index), x);
      store(x, length, out, dtype, begin);
    });
  }

 private:
  template <class Work>
  void for_blocks(int64_t count, const Stream& stream, Work&& work) const {
    const int64_t blocks = (count + block_ - 1) / block_;
    const auto one = [&](int64_t index) {
      work(index, index * block_, std::min(block_, count - index * block_));
    };
    if (stream.threads == 1 || blocks < kBlocksToShare) {
      for (int64_t index = 0; index < blocks; ++index) one(index);
      return;
    }
#pragma omp parallel for num_threads(stream.threads) schedule(static)
    for (int64_t index = 0; index < blocks; ++index) one(index);
  }

  void put(float* x, int64_t index, int64_t length, int64_t count, float* residual, std::byte* image) const {
    if (residual != nullptr)
      for (int64_t i = 0; i < length; ++i) x[i] += residual[i];
    std::fill(x + length, x + block_, 0.0f);
    const float most = largest_magnitude(x, block_);
    // A block of numbers so small that the inverse overflows is as good as zero.
    const bool zero = most < 1e-30f;
    const float step = zero ? 0.0f : most / kLargestCode<kind>,
                inverse = zero ? 0.0f : kLargestCode<kind> / most;
    std::memcpy(image + index * static_cast<int64_t>(sizeof step), &step, sizeof step);
    std::byte* to = const_cast<std::byte*>(codes(image, count, index));
    put_block<kind>(x, block_, inverse, to);
    if (residual == nullptr) return;
    float kept[kMostBlock];
    get_block<kind, false>(to, block_, step, kept);
    for (int64_t i = 0; i < length; ++i) residual[i] = x[i] - kept[i];
  }

  const std::byte* codes(const std::byte* image, int64_t count, int64_t index) const {
    const int64_t blocks = (count + block_ - 1) / block_;
    return image + blocks * static_cast<int64_t>(sizeof(float)) + index * code_bytes(kind, block_);
  }
  static float scale(const std::byte* image, int64_t index) {
    float value = 0;
    std::memcpy(&value, image + index * static_cast<int64_t>(sizeof value), sizeof value);
    return value;
  }

  int64_t block_;
};

}  // namespace

std::string to_string(Payload payload) {
  return payload == Payload::int8 ? "int8" : payload == Payload::fp8 ? "fp8" : "int4";
}

int64_t Codec::image_bytes(int64_t count) const {
  const int64_t blocks = (count + block() - 1) / block();
  return blocks * (static_cast<int64_t>(sizeof(float)) + code_bytes(payload(), block()));
}

std::unique_ptr<Codec> make_codec(Payload payload, int64_t block, const std::string& device) {
  if (block < 32 || block > kMostBlock || block % 32 != 0)
    throw std::invalid_argument(
        "make_codec: expected a block of 32 to 1024 elements, a multiple of 32, found " +
        std::to_string(block));
  if (device == "cuda") return make_cuda_codec(payload, block);
  if (device != "cpu") return nullptr;
  switch (payload) {
    case Payload::int8:
      return std::make_unique<CpuCodec<Payload::int8>>(block);
    case Payload::fp8:
      return std::make_unique<CpuCodec<Payload::fp8>>(block);
    case Payload::int4:
      return std::make_unique<CpuCodec<Payload::int4>>(block);
  }
  return nullptr;
}

}  // namespace lamina
