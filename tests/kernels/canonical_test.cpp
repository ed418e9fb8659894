#include "kernels/compress/canonical.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>

#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

using testing::HasSubstr;

Leaf leaf_of(const std::string& type, const Keys& keys, Shape shape) {
  Problems problems;
  const auto scheme = make_scheme(type, keys, shape, problems);
  return compress_whole(*scheme, random_matrix(shape.out_features, shape.in_features, 5)).leaves.front();
}

std::vector<Leaf> some_leaves() {
  std::vector<Leaf> leaves = {leaf_of("dense", {}, {13, 64}), leaf_of("int8", {}, {13, 64}),
                              leaf_of("int4", {{"group", int64_t{32}}}, {13, 64}),
                              leaf_of("pruned", {{"pattern", std::string("2:4")}}, {13, 64})};
  Leaf full = leaves[2];  // everything a leaf may have
  full.zero_points.assign(full.scales.size(), int8_t{1});
  full.input_scales.resize(64);
  for (size_t j = 0; j < 64; ++j) full.input_scales[j] = 1.0f + static_cast<float>(j);
  full.mask.assign(13 * 64, 1);
  full.mask[7] = 0;
  full.codes[7] = 0;
  leaves.push_back(full);
  return leaves;
}

std::vector<double> dequantized(const Leaf& leaf) {
  std::vector<double> all(static_cast<size_t>(leaf.rows * leaf.cols));
  for (int64_t i = 0; i < leaf.rows; ++i) dequantize_row(leaf, i, all.data() + i * leaf.cols);
  return all;
}

TEST(Dequantize, FollowsTheFormula) {
  Leaf leaf;
  leaf.rows = 1;
  leaf.cols = 4;
  leaf.bits = 4;
  leaf.group = 2;
  leaf.codes = {3, -8, 7, 0};
  leaf.scales = {0.5f, -2.0f};
  EXPECT_EQ(dequantized(leaf), (std::vector<double>{1.5, -4.0, -14.0, 0.0}));
  leaf.zero_points = {1, -1};
  EXPECT_EQ(dequantized(leaf), (std::vector<double>{1.0, -4.5, -16.0, -2.0}));
  leaf.input_scales = {1.0f, 0.5f, 2.0f, 4.0f};
  EXPECT_EQ(dequantized(leaf), (std::vector<double>{1.0, -9.0, -8.0, -0.5}));
  leaf.mask = {1, 1, 1, 0};
  EXPECT_EQ(dequantized(leaf), (std::vector<double>{1.0, -9.0, -8.0, 0.0}))
      << "a dropped weight is 0, zero point or not";
}

TEST(Dequantize, RoundsCodesTimesScalesToBfloat16) {
  Leaf leaf;
  leaf.rows = 1;
  leaf.cols = 4;
  leaf.bits = 4;
  leaf.group = 4;
  leaf.codes = {1, 3, -7, 0};
  leaf.scales = {0x1.02p0f};  // 7 bits behind the point; times 3 and 7 it has more than bfloat16 has room for
  leaf.input_scales = {1.0f, 1.0f, 1.0f, 1.0f};
  std::vector<double> rounded(4);
  dequantize_row(leaf, 0, rounded.data(), true);
  // 3.0234375 lies in the middle of its neighbours, of which 3.03125 is the even one.
  EXPECT_EQ(rounded, (std::vector<double>{0x1.02p0, 3.03125, -7.0625, 0.0}));
  leaf.input_scales = {2.0f, 1.0f, 1.0f, 1.0f};
  dequantize_row(leaf, 0, rounded.data(), true);
  EXPECT_EQ(rounded[0], 0x1.02p-1);
}

TEST(Slice, KeepsWeightsAndPlace) {
  for (const Leaf& leaf : some_leaves()) {
    const Leaf part = slice(leaf, {2, 11}, {32, 64});
    check_leaf(part);
    EXPECT_EQ(part.rows, 9);
    EXPECT_EQ(part.cols, 32);
    EXPECT_EQ(part.row_begin, 2);
    EXPECT_EQ(part.col_begin, 32);
    EXPECT_EQ(part.whole_rows, 13);
    const auto whole = dequantized(leaf), cut = dequantized(part);
    for (int64_t i = 0; i < 9; ++i)
      for (int64_t j = 0; j < 32; ++j)
        EXPECT_EQ(cut[static_cast<size_t>(i * 32 + j)], whole[static_cast<size_t>((i + 2) * 64 + j + 32)]);
  }
}

TEST(Slice, PerChannelScalesSurviveAnyCut) {
  const Leaf leaf = leaf_of("int8", {}, {4, 10});
  const Leaf part = slice(leaf, {0, 4}, {3, 8});
  EXPECT_EQ(part.group, 5);
  EXPECT_EQ(part.scales, leaf.scales);
}

TEST(Slice, EmptyPartsAreFine) {
  for (const Leaf& leaf : some_leaves()) {
    for (const auto& [rows, cols] :
         {std::pair<Range, Range>{{3, 3}, {0, 64}}, {{0, 13}, {32, 32}}, {{13, 13}, {64, 64}}}) {
      const Leaf part = slice(leaf, rows, cols);
      EXPECT_NO_THROW(check_leaf(part));
      EXPECT_NO_THROW(
          check_leaf(deserialize(serialize(part).data(), static_cast<int64_t>(serialize(part).size()))));
    }
  }
}

TEST(Slice, RefusesCutsThroughUnits) {
  const Leaf grouped = leaf_of("int4", {{"group", int64_t{32}}}, {4, 64});
  EXPECT_THROW(slice(grouped, {0, 4}, {0, 48}), std::invalid_argument);
  const Leaf pattern = leaf_of("pruned", {{"pattern", std::string("2:4")}}, {4, 64});
  EXPECT_THROW(slice(pattern, {0, 4}, {2, 64}), std::invalid_argument);
  EXPECT_NO_THROW(slice(pattern, {0, 4}, {4, 64}));
  const Leaf blocks = leaf_of("pruned", {{"pattern", std::string("block")}}, {40, 64});
  EXPECT_THROW(slice(blocks, {0, 24}, {0, 64}), std::invalid_argument);
  EXPECT_THROW(slice(blocks, {0, 16}, {0, 24}), std::invalid_argument);
  const Leaf last = slice(blocks, {16, 40}, {16, 64});  // the matrix's end may cut a block
  EXPECT_THROW(slice(last, {0, 8}, {0, 48}), std::invalid_argument);
  EXPECT_NO_THROW(slice(last, {16, 24}, {0, 48}));
  for (const Range bad : {Range{-1, 2}, Range{2, 5}, Range{3, 2}}) {
    EXPECT_THROW(slice(grouped, bad, {0, 64}), std::invalid_argument);
    EXPECT_THROW(slice(leaf_of("dense", {}, {4, 4}), {0, 4}, bad), std::invalid_argument);
  }
}

TEST(StackRows, UndoesSlices) {
  for (const Leaf& leaf : some_leaves()) {
    const Leaf again = stack_rows({slice(leaf, {0, 0}, {0, 64}), slice(leaf, {0, 5}, {0, 64}),
                                   slice(leaf, {5, 6}, {0, 64}), slice(leaf, {6, 13}, {0, 64})});
    EXPECT_EQ(serialize(again), serialize(leaf));
  }
}

TEST(StackRows, RefusesWhatDoesNotBelongTogether) {
  EXPECT_THROW(stack_rows({}), std::invalid_argument);
  const auto leaves = some_leaves();
  EXPECT_THROW(stack_rows({leaves[0], leaves[1]}), std::invalid_argument);
  EXPECT_THROW(stack_rows({slice(leaves[0], {0, 4}, {0, 32}), slice(leaves[0], {4, 8}, {32, 64})}),
               std::invalid_argument);
  Leaf unmasked = leaves[3];
  unmasked.mask.clear();
  EXPECT_THROW(stack_rows({leaves[3], unmasked}), std::invalid_argument);
}

TEST(Serialize, RoundTrips) {
  for (const Leaf& leaf : some_leaves()) {
    const auto bytes = serialize(leaf);
    const Leaf back = deserialize(bytes.data(), static_cast<int64_t>(bytes.size()));
    EXPECT_EQ(serialize(back), bytes);
    EXPECT_EQ(dequantized(back), dequantized(leaf));
    EXPECT_EQ(back.pattern, leaf.pattern);
    EXPECT_EQ(back.activation, leaf.activation);
    EXPECT_EQ(back.per_channel, leaf.per_channel);
    EXPECT_EQ(back.mask, leaf.mask);
  }
}

// Any cut or change of the image is an error or a valid leaf, never a crash.
TEST(Serialize, RefusesDamagedBytes) {
  const auto bytes = serialize(some_leaves().back());
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THROW(deserialize(bytes.data(), static_cast<int64_t>(size)), std::invalid_argument) << size;
  auto longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_THROW(deserialize(longer.data(), static_cast<int64_t>(longer.size())), std::invalid_argument);
  for (size_t at = 0; at < 140; ++at) {
    auto damaged = bytes;
    damaged[at] ^= std::byte{0x81};
    try {
      check_leaf(deserialize(damaged.data(), static_cast<int64_t>(damaged.size())));
    } catch (const std::invalid_argument&) {
    }
  }
  auto other = bytes;
  std::memcpy(other.data(), "notaleaf", 8);
  EXPECT_THROW(deserialize(other.data(), static_cast<int64_t>(other.size())), std::invalid_argument);
}

TEST(CheckLeaf, NamesTheField) {
  Leaf leaf = leaf_of("int4", {{"group", int64_t{32}}}, {3, 64});
  leaf.scales.pop_back();
  try {
    check_leaf(leaf);
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_THAT(error.what(), HasSubstr("expected 3 × 2 scales, found 5"));
  }
  leaf = leaf_of("dense", {}, {3, 4});
  leaf.bits = 5;
  EXPECT_THROW(check_leaf(leaf), std::invalid_argument);
  leaf.bits = 32;
  leaf.rows = INT64_MAX / 2;
  EXPECT_THROW(check_leaf(leaf), std::invalid_argument);
}

}  // namespace
}  // namespace lamina
