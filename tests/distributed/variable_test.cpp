// Environment variables with numbers and words, that ranks must have alike.
#include "distributed/variable.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

#include "distributed/sharded_layer.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;

constexpr const char* kName = "LAMINA_OVERLAP_MULTIPROCESSORS";

// What a layer cut by rows in two chunks says on the CPU.
std::string message(const char* value) {
  setenv(kName, value, 1);
  const auto scheme = test::make_scheme({"dense", {}}, {64, 64}, test::registry());
  const OriginalWeights original =
      load_weights(test::MatrixSource(test::random_matrix(64, 64, 3)), world(), 1);
  const CompressedWeights weights = compress(*scheme, original, world(), 5);
  std::string text;
  try {
    const ShardedLayer layer(weights, {.shard = Shard::row, .overlap = 2}, test::registry(), world());
  } catch (const AgreedError& e) {
    text = e.what();
  }
  unsetenv(kName);
  return text;
}

TEST(Variable, IsAnIntegerInItsRange) {
  EXPECT_EQ(variable(kName, "a number", 1, 9, 5), 5);
  for (const char* good : {"1", "9"}) {
    setenv(kName, good, 1);
    EXPECT_EQ(variable(kName, "a number", 1, 9, 5), std::atoi(good));
  }
  for (const char* bad : {"", "x", "8x", "0", "10", "-1", "99999999999999999999"}) {
    setenv(kName, bad, 1);
    EXPECT_THROW(variable(kName, "a number", 1, 9, 5), std::invalid_argument) << bad;
  }
  unsetenv(kName);
}

TEST(Variable, OverlapIsTheSameOnAllRanks) {
  if (world().size() == 1) GTEST_SKIP() << "one rank sums nothing";
  EXPECT_NE(message("16").find("expected a GPU"), std::string::npos) << message("16");
  EXPECT_NE(message("65").find("0 to 64, found \"65\""), std::string::npos) << message("65");
  const std::string differ = message(world().rank() == 0 ? "8" : "16");
  EXPECT_NE(differ.find("the same on all ranks, found 8 and 16"), std::string::npos) << differ;
}

TEST(Variable, IsAWordOfThoseThatThereAre) {
  constexpr const char* kWord = "LAMINA_ALL_REDUCE";
  const auto said = [&](const char* value) -> std::string {
    if (value != nullptr) setenv(kWord, value, 1);
    std::string text;
    try {
      text = agreed_word(kWord, {"one-shot", "nccl"}, world());
    } catch (const AgreedError& e) {
      text = e.what();
    }
    unsetenv(kWord);
    return text;
  };
  EXPECT_EQ(said(nullptr), "");
  EXPECT_EQ(said("nccl"), "nccl");
  for (const char* bad : {"", "oneshot", "nccl "})
    EXPECT_NE(said(bad).find("expected one of one-shot, nccl, found \""), std::string::npos) << said(bad);
  if (world().size() == 1) return;
  const std::string differ = said(world().rank() == 0 ? "nccl" : "one-shot");
  EXPECT_NE(differ.find("the same on all ranks, found \"nccl\" and \"one-shot\""), std::string::npos)
      << differ;
}

}  // namespace
}  // namespace lamina
