// Codes for collectives, made by a GPU's kernels.
#include "distributed/collectives/codec.hpp"

#include "distributed/nccl/number_types.hpp"
#include "kernels/cuda/codec.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/error.hpp"

namespace lamina {
namespace {

class CudaCodec final : public Codec {
 public:
  CudaCodec(Payload payload, int64_t block) : payload_(payload), block_(block) {}
  Payload payload() const override { return payload_; }
  int64_t block() const override { return block_; }

  void encode(const void* in, DType dtype, int64_t count, float* residual, std::byte* image,
              Stream& stream) override {
    encode_image(payload_code(payload_), static_cast<int>(block_), in, *oneshot_type(dtype), count, residual,
                 bytes(image), cuda_stream(stream));
    check_launch("encoding a message");
  }
  void sum(const std::byte* images, int number, int64_t stride, int64_t count, float* residual,
           std::byte* image, Stream& stream) override {
    sum_images(payload_code(payload_), static_cast<int>(block_), bytes(images), number, stride, count,
               residual, bytes(image), cuda_stream(stream));
    check_launch("adding up codes");
  }
  void decode(const std::byte* image, int64_t count, void* out, DType dtype, Stream& stream) override {
    decode_image(payload_code(payload_), static_cast<int>(block_), bytes(image), count, out,
                 *oneshot_type(dtype), cuda_stream(stream));
    check_launch("decoding a message");
  }

 private:
  static uint8_t* bytes(std::byte* data) { return reinterpret_cast<uint8_t*>(data); }
  static const uint8_t* bytes(const std::byte* data) { return reinterpret_cast<const uint8_t*>(data); }
  Payload payload_;
  int64_t block_;
};

}  // namespace

std::optional<OneshotType> oneshot_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return OneshotType::f32;
    case DType::bf16:
      return OneshotType::bf16;
    case DType::f16:
      return OneshotType::f16;
    default:
      return std::nullopt;
  }
}

PayloadCode payload_code(Payload payload) {
  return payload == Payload::int8  ? PayloadCode::int8
         : payload == Payload::fp8 ? PayloadCode::fp8
                                   : PayloadCode::int4;
}

std::unique_ptr<Codec> make_cuda_codec(Payload payload, int64_t block) {
  return std::make_unique<CudaCodec>(payload, block);
}

}  // namespace lamina
