// Which weights stay, and how they are stored.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

std::shared_ptr<Params> values(const Keys& keys, Problems* problems) {
  return make_params(keys, *problems, "/scheme/values");
}

TEST(Pruned, KeepsTheLargestOfEachRow) {
  const Matrix<float> w = random_matrix(9, 100, 4);
  Problems problems;
  const Leaf leaf =
      compress_whole(*make_scheme("pruned", {{"sparsity", 0.7}}, {9, 100}, problems), w).leaves[0];
  for (int64_t i = 0; i < 9; ++i) {
    int64_t kept = 0;
    float smallest_kept = 1e9f, largest_dropped = 0;
    for (int64_t j = 0; j < 100; ++j) {
      const auto at = static_cast<size_t>(i * 100 + j);
      if (leaf.mask[at] != 0) {
        ++kept;
        smallest_kept = std::min(smallest_kept, std::fabs(w(i, j)));
        EXPECT_EQ(leaf.values[at], w(i, j));
      } else {
        largest_dropped = std::max(largest_dropped, std::fabs(w(i, j)));
        EXPECT_EQ(leaf.values[at], 0.0f);
      }
    }
    EXPECT_EQ(kept, 30);
    EXPECT_GE(smallest_kept, largest_dropped);
  }
}

TEST(Pruned, BreaksTiesByTheLowerColumn) {
  Matrix<float> w(1, 8);
  w.data = {1, -1, 1, 1, 1, -1, 1, 1};
  Problems problems;
  const auto mask = [&](const Keys& keys) {
    return compress_whole(*make_scheme("pruned", keys, {1, 8}, problems), w).leaves[0].mask;
  };
  EXPECT_EQ(mask({{"sparsity", 0.5}}), (std::vector<uint8_t>{1, 1, 1, 1, 0, 0, 0, 0}));
  EXPECT_EQ(mask({{"pattern", std::string("2:4")}}), (std::vector<uint8_t>{1, 1, 0, 0, 1, 1, 0, 0}));
  EXPECT_EQ(mask({{"pattern", std::string("block")}, {"block", int64_t{2}}}),
            (std::vector<uint8_t>{1, 1, 1, 1, 0, 0, 0, 0}));
}

TEST(Pruned, KeepsNOfEveryM) {
  Matrix<float> w(1, 8);
  w.data = {0.1f, -3, 2, 0.5f, 0, 0, -7, 0};
  Problems problems;
  const Leaf leaf =
      compress_whole(*make_scheme("pruned", {{"pattern", std::string("2:4")}}, {1, 8}, problems), w)
          .leaves[0];
  EXPECT_EQ(leaf.mask, (std::vector<uint8_t>{0, 1, 1, 0, 1, 0, 1, 0}));
  EXPECT_EQ(leaf.pattern, (Pattern{PatternKind::n_of_m, 2, 4, 0, 0}));
}

TEST(Pruned, KeepsBlocksByTheirNorm) {
  Matrix<float> w(3, 8);             // the second block row is short
  w.data = {1, 1, 0, 2, 9, 0, 1, 1,  //
            1, 1, 0, 0, 0, 0, 1, 1,  //
            5, 5, 6, 0, 1, 0, 0, 8};
  Problems problems;
  const Leaf leaf =
      compress_whole(*make_scheme("pruned", {{"pattern", std::string("block")}, {"block", int64_t{2}}},
                                  {3, 8}, problems),
                     w)
          .leaves[0];
  EXPECT_EQ(leaf.mask, (std::vector<uint8_t>{1, 1, 0, 0, 1, 1, 0, 0,  //
                                             1, 1, 0, 0, 1, 1, 0, 0,  //
                                             1, 1, 0, 0, 0, 0, 1, 1}));
}

// Values are compressed after pruning: what is dropped takes no part in scales, and is stored as 0.
TEST(Pruned, StoresValuesByTheirOwnScheme) {
  Matrix<float> w(1, 8);
  w.data = {127, -1, 3, 2, 0.5f, -50, 64, 1};
  Problems problems;
  const Value int8 = std::string("int8");
  const auto scheme = make_scheme(
      "pruned", {{"pattern", std::string("2:4")}, {"values", values({{"type", int8}}, &problems)}}, {1, 8},
      problems);
  ASSERT_NE(scheme, nullptr);
  const Leaf leaf = compress_whole(*scheme, w).leaves[0];
  EXPECT_EQ(leaf.codes, (Codes{127, 0, 3, 0, 0, -50, 64, 0}));
  EXPECT_EQ(leaf.mask, (std::vector<uint8_t>{1, 0, 1, 0, 0, 1, 1, 0}));
  EXPECT_EQ(leaf.activation, ActivationRule::int8_per_token);
  EXPECT_EQ(leaf.pattern.kind, PatternKind::n_of_m);
  const auto keys = scheme->describe();
  const auto has = [&](const std::string& key, const std::string& value) {
    return std::count(keys.begin(), keys.end(), std::pair<std::string, Value>{key, value}) == 1;
  };
  EXPECT_TRUE(has("pattern", "2:4"));
  EXPECT_TRUE(has("values", "int8"));
  EXPECT_TRUE(has("activations", "int8"));

  // Groups of the values and of the pattern are cut together.
  const auto grouped =
      make_scheme("pruned",
                  {{"pattern", std::string("3:12")},
                   {"values", values({{"type", std::string("int4")}, {"group", int64_t{32}}}, &problems)}},
                  {4, 192}, problems);
  ASSERT_NE(grouped, nullptr);
  EXPECT_EQ(grouped->units().cols, 96);
  const Leaf many = compress_whole(*grouped, random_matrix(4, 192, 5)).leaves[0];
  EXPECT_EQ(slice(many, {1, 3}, {96, 192}).groups(), 3);
  EXPECT_THROW(slice(many, {0, 4}, {0, 32}), std::invalid_argument);
  EXPECT_THROW(slice(many, {0, 4}, {0, 12}), std::invalid_argument);
}

}  // namespace
}  // namespace lamina
