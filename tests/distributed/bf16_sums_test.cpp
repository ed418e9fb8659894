// Layers whose sums over ranks are in bfloat16: right for every scheme and transport within the rounding of
// parts and sums, and wrong sums are still seen.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "distributed/forwarding_transport.hpp"
#include "distributed/quality.hpp"
#include "kernels/small_floats.hpp"
#include "tests/distributed/sharded_rig.hpp"

namespace lamina {
namespace {

using test::registry;
using test::world;

using test::kDense;

struct Rig : test::ShardedRig {
  Rig(Shape shape, const test::SchemeCase& from, ShardedOptions options)
      : ShardedRig(shape, from, summing(options)) {}
  static ShardedOptions summing(ShardedOptions options) {
    options.shard = Shard::row;
    options.bf16_sums = true;
    return options;
  }
  // On every rank, as floats.
  Matrix<float> run() {
    const Matrix<float> local = local_input(*layer, x, {0, x.rows});
    Buffer y = layer->device().allocate(layer->out_rows(x.rows) * layer->local_out() *
                                        bytes_of(layer->output_type()));
    layer->forward(0, local.data.data(), y.as<float>(), x.rows, stream);
    const auto values = fetch_activations(layer->device(), y.data(),
                                          layer->out_rows(x.rows) * layer->local_out(), layer->output_type());
    return gather_output(*layer, values.data(), x.rows);
  }
};

TEST(Bf16Sums, EverySchemeIsRight) {
  for (const test::SchemeCase& each : test::scheme_cases()) {
    if (!registry().find_scheme(each.type)) continue;
    for (const bool sequence : {false, true})
      for (const int64_t tokens : {1, 5, 21}) {
        Rig rig({131, 192}, each, {.max_tokens = tokens, .sequence = sequence});
        const CheckResult result = rig.check();
        EXPECT_TRUE(result.passed) << rig.scheme->name() << ", " << tokens << " tokens, sequence " << sequence
                                   << ": " << result.error << " > " << result.tolerance << " at "
                                   << result.where;
      }
  }
}

TEST(Bf16Sums, EveryTransportIsRightAtOddSizes) {
  for (const TransportType& type : transports()) {
    if (type.device != "cpu" || !type.absent.empty() || (type.name == "self" && world().size() > 1)) continue;
    const auto transport = make_transport(type.name, "cpu", world());
    for (const Shape shape : {Shape{1, 64}, Shape{3, 5}, Shape{131, 192}, Shape{4099, 40}})
      for (const int64_t tokens : {1, 3, 17}) {
        Rig rig(shape, kDense, {.max_tokens = tokens, .transport = transport.get()});
        const CheckResult result = rig.check();
        EXPECT_TRUE(result.passed) << type.name << " " << shape.out_features << ": " << result.where;
      }
  }
}

TEST(Bf16Sums, OutputsAreNearTheExactOnes) {
  Rig rig({130, 960}, kDense, {.max_tokens = 7});
  const bool many = world().size() > 1;
  EXPECT_EQ(rig.layer->output_type(), many ? InputType::bf16 : InputType::f32);
  EXPECT_EQ(rig.layer->comm_bytes(7), many ? 7 * 130 * 2 : 0);
  const Matrix<float> y = rig.run();
  const Quality quality = compare_quality(y, original_product(rig.original, rig.x, world(), 1));
  EXPECT_LT(quality.nmse, many ? 3e-5 : 1e-10);
  if (many) {
    EXPECT_GT(quality.nmse, 1e-7);
  }
  for (const float value : y.data) EXPECT_TRUE(!many || value == to_bfloat16(value)) << value;
}

TEST(Bf16Sums, OfAColumnShardThereAreNone) {
  const OriginalWeights original =
      load_weights(test::MatrixSource(test::random_matrix(64, 64, 3)), world(), 1);
  const auto scheme = test::make_scheme(kDense, {64, 64}, registry());
  const CompressedWeights weights = compress(*scheme, original, world(), 5);
  const ShardedLayer layer(weights, {.shard = Shard::column, .bf16_sums = true}, registry(), world());
  EXPECT_EQ(layer.output_type(), InputType::f32);
  EXPECT_EQ(layer.comm_bytes(1), 0);
}

TEST(Bf16Sums, CommunicatingAloneStaysFinite) {
  for (const bool sequence : {false, true}) {
    Rig rig({64, 64}, kDense, {.max_tokens = 2, .sequence = sequence});
    Buffer y = rig.layer->device().allocate(4 * 2 * 64);
    std::vector<float> first;
    for (int call = 0; call < 1000; ++call) {
      rig.layer->forward(0, nullptr, y.as<float>(), 2, rig.stream, Part::communicate);
      const auto now = fetch_activations(rig.layer->device(), y.data(), rig.layer->out_rows(2) * 64,
                                         rig.layer->output_type());
      if (call == 0) first = now;
      ASSERT_TRUE(world().size() == 1 || now == first);
    }
    for (const float value : first) EXPECT_TRUE(world().size() == 1 || std::isfinite(value));
  }
}

// ---- Faults

// Sums that come out wrong.
class WrongSums final : public ForwardingTransport {
 public:
  using Spoil = std::function<void(uint16_t* sums, int64_t count)>;
  WrongSums(std::unique_ptr<Transport> inner, Spoil spoil)
      : ForwardingTransport(std::move(inner)), spoil_(std::move(spoil)) {}
  std::string name() const override { return inner().name(); }
  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                  Stream& stream) override {
    inner().all_reduce(in, out, count, dtype, op, stream);
    spoil_(static_cast<uint16_t*>(out), count);
  }
  void reduce_scatter(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                      Stream& stream) override {
    inner().reduce_scatter(in, out, count, dtype, op, stream);
    spoil_(static_cast<uint16_t*>(out), count);
  }

 private:
  Spoil spoil_;
};

void expect_seen(const char* what, const WrongSums::Spoil& spoil, int64_t tokens) {
  if (world().size() == 1) GTEST_SKIP() << "one rank sums nothing";
  for (const test::SchemeCase& each : test::scheme_cases()) {
    if (!registry().find_scheme(each.type)) continue;
    for (const bool sequence : {false, true}) {
      bool on = false;
      WrongSums transport(make_transport("auto", "cpu", world()), [&](uint16_t* sums, int64_t count) {
        if (on && count > 0) spoil(sums, count);
      });
      Rig rig({132, 192}, each, {.max_tokens = tokens, .sequence = sequence, .transport = &transport});
      ASSERT_TRUE(rig.check().passed) << rig.scheme->name();
      on = world().rank() == world().size() - 1;
      EXPECT_FALSE(rig.check().passed) << what << ": " << rig.scheme->name() << ", sequence " << sequence;
    }
  }
}

TEST(Bf16Sums, SumsOffByAFewPercentAreSeen) {
  expect_seen(
      "sums too large",
      [](uint16_t* sums, int64_t count) {
        for (int64_t i = 0; i < count; ++i) sums[i] = bf16_of_float(float_of_bf16(sums[i]) * 1.06f);
      },
      8);
}

TEST(Bf16Sums, SumsThatNeverCameAreSeen) {
  expect_seen(
      "no sums", [](uint16_t* sums, int64_t count) { std::fill_n(sums, count, uint16_t{0}); }, 21);
}

TEST(Bf16Sums, OneWrongSumOfManyTokensIsSeen) {
  expect_seen(
      "one wrong sum", [](uint16_t* sums, int64_t) { sums[1] = bf16_of_float(float_of_bf16(sums[1]) + 40); },
      21);
}

TEST(Bf16Sums, NaNIsSeen) {
  expect_seen(
      "a NaN", [](uint16_t* sums, int64_t) { sums[0] = 0x7fc0; }, 21);
}

// A rank's part that is wrong, infinite too, widens what is allowed by little.
TEST(Bf16Sums, WrongPartsAreSeen) {
  class Wrong final : public Layer {
   public:
    Wrong(std::unique_ptr<Layer> inner, int64_t out, float factor)
        : inner_(std::move(inner)), out_(out), factor_(factor) {}
    void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
      inner_->forward(x, y, tokens, stream);
      for (int64_t i = 0; i < tokens * out_; ++i) y[i] *= factor_;
    }
    Cost cost(int64_t tokens) const override { return inner_->cost(tokens); }
    int64_t weight_bytes() const override { return inner_->weight_bytes(); }

   private:
    std::unique_ptr<Layer> inner_;
    int64_t out_;
    float factor_;
  };
  for (const float factor : {0.0f, 1.1f, 100.0f, 3e38f}) {
    Rig rig({132, 192}, kDense, {.max_tokens = 21});
    ASSERT_TRUE(rig.check().passed);
    Stage& stage = rig.layer->mutable_stages()[0];
    if (world().rank() == 0)
      for (auto& copy : stage.copies)
        copy = std::make_unique<Wrong>(std::move(copy), stage.local_out, factor);
    EXPECT_FALSE(rig.check().passed) << factor;
  }
}

}  // namespace
}  // namespace lamina
