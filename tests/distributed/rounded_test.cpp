// Layers that multiply quantized weights rounded to bfloat16 are checked against such weights.
#include <gtest/gtest.h>

#include "distributed/check.hpp"
#include "distributed/sharded_layer.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

// Multiplies int4 weights rounded to bfloat16, and says so or not.
class Rounding final : public Layer {
 public:
  Rounding(const Leaf& leaf, bool says) : leaf_(leaf), says_(says) {}
  void forward(const float* x, float* y, int64_t tokens, Stream&) override {
    std::vector<double> w(static_cast<size_t>(leaf_.cols));
    for (int64_t i = 0; i < leaf_.rows; ++i) {
      dequantize_row(leaf_, i, w.data(), true);
      for (int64_t t = 0; t < tokens; ++t) {
        double sum = 0;
        for (int64_t k = 0; k < leaf_.cols; ++k)
          sum += w[static_cast<size_t>(k)] * static_cast<double>(x[t * leaf_.cols + k]);
        y[t * leaf_.rows + i] = static_cast<float>(sum);
      }
    }
  }
  Cost cost(int64_t) const override { return {}; }
  int64_t weight_bytes() const override { return 1; }
  bool rounds_weights(int64_t tokens) const override { return says_ && tokens > 4; }

 private:
  const Leaf& leaf_;
  bool says_;
};

// Each copy is held to what it says that it multiplies, for the tokens at hand.
TEST(Check, HoldsRoundedWeightsToARoundedReference) {
  constexpr Shape kShape{40, 192};
  const auto comm = make_self_communicator();
  const OriginalWeights original = load_weights(
      test::MatrixSource(test::random_matrix(kShape.out_features, kShape.in_features, 3)), *comm, 1);
  const auto scheme = test::make_scheme({"int4", {{"group", int64_t{64}}}}, kShape, test::registry());
  const CompressedWeights weights = compress(*scheme, original, *comm, 5);
  for (const bool says : {true, false})
    for (const size_t copy : {size_t{0}, size_t{1}})
      for (const int64_t tokens : {4, 5, 21}) {
        ShardedLayer layer(weights, {.shard = Shard::none, .max_tokens = tokens}, test::registry(), *comm);
        layer.replicate(2);
        Stage& stage = layer.mutable_stages()[0];
        stage.copies[copy] = std::make_unique<Rounding>(*stage.truth, says);
        Stream stream;
        const Matrix<float> x = test::random_matrix(tokens, kShape.in_features, 9);
        EXPECT_EQ(check_layer(layer, x, stream, 17).passed, says && tokens > 4)
            << says << ", copy " << copy << ", " << tokens << " tokens";
      }
}

}  // namespace
}  // namespace lamina
