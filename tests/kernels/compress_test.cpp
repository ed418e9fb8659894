// What schemes make of weights, and what they say of bad keys.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/compress/rows.hpp"
#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

using testing::HasSubstr;

std::shared_ptr<Params> nested(const std::string& pointer, const Keys& keys, Problems* problems) {
  auto params = std::make_shared<Params>(pointer, problems);
  for (const auto& [key, value] : keys) params->set(key, value, pointer + "/" + key);
  return params;
}
std::shared_ptr<Params> factors(const Keys& keys, Problems* problems) {
  return nested("/scheme/factors", keys, problems);
}
std::shared_ptr<Params> values(const Keys& keys, Problems* problems) {
  return nested("/scheme/values", keys, problems);
}

std::shared_ptr<Params> correction(const Keys& keys, Problems* problems) {
  return nested("/scheme/correction", keys, problems);
}

struct NamedKeys {
  std::string type;
  Keys keys;
  std::string name;  // what the scheme calls itself
};

std::vector<NamedKeys> all_schemes(Problems* problems) {
  const Value block = std::string("block"), int8 = std::string("int8"), text_2_4 = std::string("2:4");
  const Value gradient = std::string("gradient"), tokens = int64_t{90};
  const Value fp8 = std::string("fp8"), pruned = std::string("pruned"), dense = std::string("dense");
  const Value bf16 = std::string("bf16"), mse = std::string("mse"), gptq = std::string("gptq");
  return {
      {"dense", {}, "dense-f32"},
      {"dense", {{"dtype", bf16}}, "dense-bf16"},
      {"dense", {{"dtype", bf16}, {"activations", bf16}}, "dense-bf16-a16"},
      {"int8", {}, "int8"},
      {"int4", {}, "int4-g128"},
      {"int4", {{"group", int64_t{32}}, {"activations", int8}}, "int4-g32-a8"},
      {"int4", {{"method", mse}}, "int4-g128-mse"},
      {"int4", {{"method", gptq}, {"calibration_tokens", int64_t{90}}}, "int4-g128-gptq-c90"},
      {"int4",
       {{"method", gptq}, {"act_order", true}, {"calibration_tokens", int64_t{90}}, {"damping", 0.05}},
       "int4-g128-gptq-ordered-c90-d0.05"},
      {"pruned",
       {{"importance", std::string("activation")}, {"calibration_tokens", int64_t{90}}},
       "pruned-50%-activation-c90"},
      {"pruned",
       {{"compensate", true}, {"pattern", text_2_4}, {"calibration_tokens", int64_t{90}}},
       "pruned-2:4-compensated-c90"},
      {"pruned", {}, "pruned-50%"},
      {"pruned", {{"sparsity", 0.625}}, "pruned-62.5%"},
      {"int4", {{"asymmetric", true}}, "int4-g128-asym"},
      {"int4", {{"group", int64_t{0}}, {"method", std::string("mse")}}, "int4-channel-mse"},
      {"int8", {{"group", int64_t{64}}, {"asymmetric", true}}, "int8-g64-asym"},
      {"int8", {{"method", std::string("mse")}, {"activations", std::string("f32")}}, "int8-mse-a32"},
      {"int8", {{"method", std::string("gptq")}, {"calibration_tokens", int64_t{40}}}, "int8-gptq-c40"},
      {"pruned", {{"importance", gradient}}, "pruned-50%-gradient"},
      {"pruned",
       {{"importance", gradient},
        {"pattern", std::string("5:8")},
        {"compensate", true},
        {"calibration_tokens", tokens}},
       "pruned-5:8-gradient-compensated-c90"},
      {"pruned",
       {{"importance", gradient}, {"pattern", block}, {"compensate", true}, {"calibration_tokens", tokens}},
       "pruned-block16-50%-gradient-compensated-c90"},
      {"pruned", {{"pattern", std::string("2:4")}}, "pruned-2:4"},
      {"pruned", {{"pattern", std::string("1:16")}}, "pruned-1:16"},
      {"pruned", {{"pattern", block}}, "pruned-block16-50%"},
      {"pruned", {{"pattern", block}, {"block", int64_t{8}}, {"sparsity", 0.75}}, "pruned-block8-75%"},
      {"pruned", {{"pattern", block}, {"block", std::string("4x16")}}, "pruned-block4x16-50%"},
      {"pruned", {{"pattern", text_2_4}, {"values", values({{"type", dense}}, problems)}}, "pruned-2:4"},
      {"pruned",
       {{"pattern", text_2_4},
        {"values", values({{"type", dense}, {"dtype", std::string("bf16")}}, problems)}},
       "pruned-2:4-bf16"},
      {"pruned", {{"pattern", text_2_4}, {"values", values({{"type", int8}}, problems)}}, "pruned-2:4-int8"},
      {"pruned",
       {{"pattern", std::string("4:8")},
        {"values", values({{"type", std::string("int4")}, {"group", int64_t{32}}}, problems)}},
       "pruned-4:8-int4-g32"},
      {"pruned", {{"values", values({{"type", fp8}}, problems)}}, "pruned-50%-fp8"},
      {"pruned",
       {{"pattern", block}, {"values", values({{"type", int8}}, problems)}},
       "pruned-block16-50%-int8"},
      {"lowrank",
       {{"rank", int64_t{32}},
        {"factors",
         factors({{"type", pruned}, {"pattern", text_2_4}, {"values", values({{"type", int8}}, problems)}},
                 problems)}},
       "lowrank-r32-pruned-2:4-int8"},
      {"lowrank", {{"rank", int64_t{32}}}, "lowrank-r32"},
      {"lowrank", {{"ratio", 0.25}}, "lowrank-p0.25"},
      {"lowrank", {{"error", 0.1}}, "lowrank-e0.1"},
      {"lowrank", {{"energy", 0.99}}, "lowrank-energy0.99"},
      {"lowrank", {{"rank", int64_t{9}}, {"method", std::string("randomized")}}, "lowrank-r9-randomized"},
      {"lowrank",
       {{"rank", int64_t{32}}, {"factors", factors({{"type", int8}}, problems)}},
       "lowrank-r32-int8"},
      {"lowrank",
       {{"rank", int64_t{64}},
        {"factors", factors({{"type", std::string("int4")}, {"group", int64_t{64}}}, problems)}},
       "lowrank-r64-int4-g64"},
      {"sum",
       {{"base", values({{"type", int8}}, problems)},
        {"correction", correction({{"type", std::string("lowrank")}, {"rank", int64_t{8}}}, problems)}},
       "sum-int8+lowrank-r8"},
      {"sum",
       {{"base",
         values({{"type", pruned}, {"pattern", text_2_4}, {"values", values({{"type", int8}}, problems)}},
                problems)},
        {"correction",
         correction({{"type", std::string("lowrank")},
                     {"rank", int64_t{8}},
                     {"factors", factors({{"type", dense}, {"dtype", std::string("bf16")}}, problems)}},
                    problems)}},
       "sum-pruned-2:4-int8+lowrank-r8-bf16"},
  };
}

// Rows are compressed alike in whatever slab they come: no rank count can change a code.
TEST(EveryScheme, DoesNotDependOnSlabs) {
  const Shape shape{389, 256};
  const Matrix<float> w = random_matrix(shape.out_features, shape.in_features, 3);
  Problems problems;
  for (const NamedKeys& keys : all_schemes(&problems)) {
    const auto scheme = make_scheme(keys.type, keys.keys, shape, problems);
    ASSERT_NE(scheme, nullptr) << keys.name;
    EXPECT_EQ(scheme->name(), keys.name);
    EXPECT_EQ(keys.name.rfind(keys.type, 0), 0u) << "the type comes first";
    const Canonical whole = compress_whole(*scheme, w);
    for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{0, 128, 389}, {0, 256, 384, 389}}) {
      std::vector<Leaf> parts;
      for (size_t c = 0; c + 1 < cuts.size(); ++c) {
        Matrix<float> rows(cuts[c + 1] - cuts[c], shape.in_features);
        std::copy(w.row(cuts[c]), w.row(cuts[c]) + rows.rows * rows.cols, rows.data.begin());
        FirstColumns factorizer;
        FewTokens calibrator(shape.in_features);
        CompressContext context{factorizer, 1, &calibrator};
        Canonical part = scheme->compress({rows, cuts[c], shape}, context);
        ASSERT_EQ(part.leaves.size(), whole.leaves.size());
        if (part.has_factors()) {
          EXPECT_EQ(serialize(part.leaves.back()), serialize(whole.leaves.back()));
        }
        parts.push_back(std::move(part.leaves[0]));
      }
      EXPECT_EQ(serialize(stack_rows(parts)), serialize(whole.leaves[0])) << keys.name;
    }
    int64_t bytes = 0;
    for (const Leaf& leaf : whole.leaves) bytes += static_cast<int64_t>(serialize(leaf).size());
    if (keys.keys.empty() || (keys.keys[0].first != "error" && keys.keys[0].first != "energy")) {
      EXPECT_NEAR(static_cast<double>(scheme->estimated_canonical_bytes(shape)), static_cast<double>(bytes),
                  0.02 * static_cast<double>(bytes) + 500)
          << keys.name;
    }
  }
}

// A mistake in the weights is named, and not compressed away.
TEST(EveryScheme, RefusesWeightsThatAreNotFinite) {
  Problems problems;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    for (const NamedKeys& keys : all_schemes(&problems)) {
      const auto scheme = make_scheme(keys.type, keys.keys, {389, 256}, problems);
      Matrix<float> rows = random_matrix(20, 256, 3);
      rows(11, 200) = bad;
      rows(12, 1) = bad;
      FirstColumns factorizer;
      FewTokens calibrator(256);
      CompressContext context{factorizer, 1, &calibrator};
      try {
        scheme->compress({rows, 128, {389, 256}}, context);
        FAIL() << keys.name;
      } catch (const std::invalid_argument& error) {
        EXPECT_THAT(error.what(), HasSubstr("at row 139, column 200")) << keys.name;
      }
    }
  }
}

TEST(EveryScheme, TakesZerosAndExtremes) {
  Problems problems;
  for (const NamedKeys& keys : all_schemes(&problems)) {
    const auto scheme = make_scheme(keys.type, keys.keys, {128, 256}, problems);
    for (const float value : {0.0f, -0.0f, 3e38f, 1e-45f}) {
      Matrix<float> w(128, 256);
      std::fill(w.data.begin(), w.data.end(), value);
      const Canonical weights = compress_whole(*scheme, w);
      for (const Leaf& leaf : weights.leaves) {
        check_leaf(leaf);
        std::vector<double> row(static_cast<size_t>(leaf.cols));
        dequantize_row(leaf, 0, row.data());
        for (double weight : row) EXPECT_TRUE(std::isfinite(weight)) << keys.name << " of " << value;
      }
    }
  }
}

TEST(EveryScheme, RefusesSlabsOutsideTheMatrix) {
  Problems problems;
  const auto scheme = make_scheme("dense", {}, {8, 4}, problems);
  FirstColumns factorizer;
  CompressContext context{factorizer, 1};
  const Matrix<float> rows(5, 4);
  EXPECT_THROW(scheme->compress({rows, 4, {8, 4}}, context), std::invalid_argument);
  EXPECT_THROW(scheme->compress({rows, 0, {8, 5}}, context), std::invalid_argument);
}

TEST(Int8, IsSymmetricPerChannel) {
  Matrix<float> w(3, 4);
  w.data = {127.0f, -1.0f, 0.5f, 1.5f, 0, 0, 0, 0, -2.54f, 1.0f, 0.02f, 2.54f};
  Problems problems;
  const Leaf leaf = compress_whole(*make_scheme("int8", {}, {3, 4}, problems), w).leaves[0];
  EXPECT_EQ(leaf.codes, (Codes{127, -1, 0, 2, 0, 0, 0, 0, -127, 50, 1, 127}));
  EXPECT_EQ(leaf.scales[0], 1.0f);
  EXPECT_EQ(leaf.scales[1], 0.0f);
  EXPECT_NEAR(leaf.scales[2], 0.02f, 1e-8);
  EXPECT_EQ(leaf.activation, ActivationRule::int8_per_token);
}

TEST(Int4, PutsTheExtremeOnMinusEight) {
  Matrix<float> w(1, 64);
  for (int64_t j = 0; j < 64; ++j) w(0, j) = static_cast<float>(j % 32 - 10) * (j < 32 ? 1.0f : -1.0f);
  Problems problems;
  const Leaf leaf =
      compress_whole(*make_scheme("int4", {{"group", int64_t{32}}}, {1, 64}, problems), w).leaves[0];
  ASSERT_EQ(leaf.scales.size(), 2u);
  EXPECT_EQ(leaf.scales[0], 21.0f / -8.0f);
  EXPECT_EQ(leaf.scales[1], 21.0f / 8.0f);
  EXPECT_EQ(leaf.codes[31], -8);
  EXPECT_EQ(leaf.codes[63], -8);
  std::vector<double> row(64);
  dequantize_row(leaf, 0, row.data());
  for (int64_t j = 0; j < 64; ++j)
    EXPECT_LE(std::fabs(row[static_cast<size_t>(j)] - w(0, j)), 21.0 / 16 + 1e-6) << "half a step";
}

TEST(LowRank, ChainsTwoLeaves) {
  Problems problems;
  const auto scheme = make_scheme("lowrank", {{"ratio", 0.25}}, {256, 128}, problems);
  const Canonical weights = compress_whole(*scheme, random_matrix(256, 128, 1));
  ASSERT_TRUE(weights.is_chain());
  EXPECT_EQ(weights.leaves[0].rows, 256);
  EXPECT_EQ(weights.leaves[0].cols, 21);  // ⌊0.25·256·128/384⌋
  EXPECT_EQ(weights.leaves[1].rows, 21);
  EXPECT_EQ(weights.leaves[1].cols, 128);
  EXPECT_EQ(scheme->estimated_weight_bytes({256, 128}), 4 * 21 * 384);
  EXPECT_EQ(scheme->estimated_macs({256, 128}), 21.0 * 384);
  const auto keys = scheme->describe();
  EXPECT_EQ(keys[0], (std::pair<std::string, Value>{"rank", int64_t{21}}));
}

struct BadKeys {
  std::string type;
  Keys keys;
  std::string pointer, message;
};

TEST(SchemeKeys, BadOnesAreNamed) {
  const Value block = std::string("block");
  Problems problems;
  const auto grouped = [&](int64_t group) {
    return factors({{"type", std::string("int4")}, {"group", group}}, &problems);
  };
  const auto low = [&](int64_t rank) {
    return correction({{"type", std::string("lowrank")}, {"rank", rank}}, &problems);
  };
  const std::vector<BadKeys> bad = {
      {"dense", {{"dtype", std::string("f16")}}, "/scheme/dtype", "f32"},
      {"dense", {{"activations", std::string("bf16")}}, "/scheme/activations", "with dtype \"f32\""},
      {"dense", {{"activations", std::string("int8")}}, "/scheme/activations", "found \"int8\""},
      {"int4", {{"group", int64_t{96}}}, "/scheme/group", "expected 0, 32, 64 or 128, found 96"},
      {"int4", {{"group", int64_t{256}}}, "/scheme/group", "found 256"},
      {"int4", {{"group", int64_t{-32}}}, "/scheme/group", "found -32"},
      {"int4", {{"group", std::string("128")}}, "/scheme/group", "found \"128\""},
      {"int4", {{"activations", std::string("fp8")}}, "/scheme/activations", "found \"fp8\""},
      {"pruned", {{"sparsity", 1.0}}, "/scheme/sparsity", "found 1"},
      {"pruned", {{"sparsity", -0.1}}, "/scheme/sparsity", "found -0.1"},
      {"pruned", {{"pattern", std::string("4:2")}}, "/scheme/pattern", "found \"4:2\""},
      {"pruned", {{"pattern", std::string("2:17")}}, "/scheme/pattern", "found \"2:17\""},
      {"pruned", {{"pattern", std::string("2:4 ")}}, "/scheme/pattern", "expected \"unstructured\""},
      {"pruned", {{"pattern", std::string("0:4")}}, "/scheme/pattern", "found \"0:4\""},
      {"pruned", {{"pattern", std::string("9223372036854775808:4")}}, "/scheme/pattern", "expected"},
      {"pruned", {{"pattern", std::string("1:7")}}, "/scheme/pattern", "divides in_features 192"},
      {"pruned", {{"pattern", std::string("2:4")}, {"sparsity", 0.5}}, "/scheme/sparsity", "has no meaning"},
      {"pruned", {{"block", int64_t{16}}}, "/scheme/block", "has no meaning with pattern \"unstructured\""},
      {"pruned", {{"pattern", block}, {"block", int64_t{48}}}, "/scheme/block", "divide 128, found 48"},
      {"pruned", {{"pattern", block}, {"block", int64_t{0}}}, "/scheme/block", "found 0"},
      {"pruned",
       {{"pattern", block}, {"block", std::string("4x7")}},
       "/scheme/block",
       "divide in_features 192"},
      {"pruned", {{"pattern", block}, {"block", std::string("4*4")}}, "/scheme/block", "found \"4*4\""},
      {"pruned", {{"pattern", block}, {"block", 1.5}}, "/scheme/block", "found 1.5"},
      {"pruned", {{"importance", std::string("wanda")}}, "/scheme/importance", "found \"wanda\""},
      {"pruned",
       {{"pattern", std::string("2:4")}, {"threshold", std::string("global")}},
       "/scheme/threshold",
       "has no meaning with pattern \"2:4\""},
      {"pruned", {{"threshold", std::string("layer")}}, "/scheme/threshold", "found \"layer\""},
      {"int8", {{"group", int64_t{48}}}, "/scheme/group", "found 48"},
      {"int8", {{"group", int64_t{128}}}, "/scheme/group", "divisor of in_features 192"},
      {"int8", {{"damping", 0.1}}, "/scheme/damping", "found rtn"},
      {"lowrank", {}, "/scheme", "exactly one of rank, ratio, error and energy, found none"},
      {"lowrank",
       {{"rank", int64_t{4}}, {"error", 0.1}},
       "/scheme",
       "exactly one of rank, ratio, error and energy, found 2"},
      {"lowrank", {{"rank", int64_t{129}}}, "/scheme/rank", "= 128, found 129"},
      {"lowrank", {{"rank", int64_t{0}}}, "/scheme/rank", "found 0"},
      {"lowrank", {{"ratio", 1e-4}}, "/scheme/ratio", "expected at least"},
      {"lowrank", {{"energy", 1.0}}, "/scheme/energy", "found 1"},
      {"lowrank",
       {{"rank", int64_t{4}}, {"method", std::string("jacobi")}},
       "/scheme/method",
       "found \"jacobi\""},
      {"lowrank",
       {{"rank", int64_t{4}}, {"factors", std::string("int8")}},
       "/scheme/factors",
       "found \"int8\""},
      {"pruned", {{"values", std::string("int8")}}, "/scheme/values", "found \"int8\""},
      {"pruned", {{"values", values({}, &problems)}}, "/scheme/values", "type"},
      {"pruned",
       {{"values", values({{"type", std::string("pruned")}}, &problems)}},
       "/scheme/values/type",
       "a scheme of one matrix (dense, int8, int4, fp8), found \"pruned\""},
      {"pruned",
       {{"values", values({{"type", std::string("lowrank")}}, &problems)}},
       "/scheme/values/type",
       "found \"lowrank\""},
      {"pruned",
       {{"values", values({{"type", std::string("int8")}, {"grup", int64_t{32}}}, &problems)}},
       "/scheme/values/grup",
       "unknown key"},
      {"pruned",
       {{"values", values({{"type", std::string("int4")}, {"group", int64_t{128}}}, &problems)}},
       "/scheme/values/group",
       "divisor of in_features 192"},
      {"pruned",
       {{"pattern", std::string("1:7")},
        {"values", values({{"type", std::string("int4")}, {"group", int64_t{96}}}, &problems)}},
       "/scheme/values/group",
       "found 96"},
      {"lowrank", {{"rank", int64_t{4}}, {"factors", factors({}, &problems)}}, "/scheme/factors", "type"},
      {"lowrank",
       {{"rank", int64_t{4}}, {"factors", factors({{"type", std::string("lowrank")}}, &problems)}},
       "/scheme/factors/type",
       "a scheme of one matrix"},
      {"lowrank",
       {{"rank", int64_t{4}}, {"factors", factors({{"type", std::string("int9")}}, &problems)}},
       "/scheme/factors/type",
       "found \"int9\""},
      {"lowrank",
       {{"rank", int64_t{4}},
        {"factors", factors({{"type", std::string("int8")}, {"grup", int64_t{32}}}, &problems)}},
       "/scheme/factors/grup",
       "unknown key"},
      {"lowrank", {{"rank", int64_t{48}}, {"factors", grouped(32)}}, "/scheme/factors", "factor U"},
      {"lowrank",
       {{"rank", int64_t{128}}, {"factors", grouped(128)}},
       "/scheme/factors/group",
       "divisor of in_features 192"},
      {"lowrank", {{"error", 0.1}, {"factors", grouped(64)}}, "/scheme/factors", "not known before"},
      {"sum", {{"base", values({{"type", std::string("int8")}}, &problems)}}, "/scheme", "correction"},
      {"sum", {{"correction", low(4)}}, "/scheme", "base"},
      {"sum",
       {{"base", values({{"type", std::string("dense")}}, &problems)}, {"correction", low(4)}},
       "/scheme/values/type",
       "a scheme of one matrix (int8, int4, fp8, pruned), found \"dense\""},
      {"sum",
       {{"base", values({{"type", std::string("int8")}}, &problems)},
        {"correction", correction({{"type", std::string("int8")}}, &problems)}},
       "/scheme/correction/type",
       "a scheme (lowrank), found \"int8\""},
      {"sum",
       {{"base", values({{"type", std::string("int8")}}, &problems)}, {"correction", low(129)}},
       "/scheme/correction/rank",
       "= 128, found 129"},
  };
  for (const BadKeys& keys : bad) {
    problems = Problems();
    EXPECT_EQ(make_scheme(keys.type, keys.keys, {128, 192}, problems), nullptr);
    ASSERT_FALSE(problems.empty()) << keys.type << ": " << keys.message;
    bool found = false;
    std::string all;
    for (const Problem& problem : problems.items()) {
      all += problem.pointer + ": " + problem.message + "\n";
      found = found ||
              (problem.pointer == keys.pointer && problem.message.find(keys.message) != std::string::npos);
    }
    EXPECT_TRUE(found) << "expected " << keys.pointer << ": …" << keys.message << "…, found\n" << all;
  }
}

// A good scheme leaves no key unread.
TEST(SchemeKeys, GoodOnesAreAllRead) {
  Problems problems;
  for (const NamedKeys& keys : all_schemes(&problems)) {
    const SchemeType* type = test_registry().find_scheme(keys.type);
    const auto params = make_params(keys.keys, problems);
    EXPECT_NE(type->make(*params, {389, 256}, test_registry()), nullptr) << keys.name;
    params->report_unread(type->keys);
    EXPECT_TRUE(problems.empty()) << keys.name << ": " << problems.items().front().message;
  }
}

}  // namespace
}  // namespace lamina
