// Compression by calibration tokens: against NumPy in float64 (tests/data/calibrated.py), on any number of
// ranks, and with tokens that say little or nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "distributed/compress.hpp"
#include "distributed/partition.hpp"
#include "kernels/reference.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::registry;
using test::world;
using Json = nlohmann::json;
using Keys = std::vector<std::pair<std::string, Value>>;

constexpr int64_t kRows = 6, kCols = 160, kTokens = 200;

void tokens(int64_t first, Matrix<float>& out) {
  for (int64_t t = 0; t < out.rows; ++t)
    for (int64_t k = 0; k < out.cols; ++k)
      out(t, k) = (k % 50 == 3 ? 20.0f : 1.0f) *
                  (test::number(21, first + t, k) + test::number(22, first + t, k % 5));
}

void cotangents(int64_t first, Range features, Matrix<float>& out) {
  for (int64_t t = 0; t < out.rows; ++t)
    for (int64_t i = 0; i < out.cols; ++i) out(t, i) = test::number(23, first + t, features.begin + i);
}

struct Case {
  std::string name, type;
  Keys keys;
};
// Whether it takes calibration tokens.
bool looks(const Case& one) {
  return one.name != "rtn" && one.name != "rtn_asymmetric" && one.name != "int8_asymmetric" &&
         one.name != "magnitude_global";
}

std::vector<Case> cases() {
  const Value yes = true, two_of_four = std::string("2:4"), activation = std::string("activation");
  const Value int4 = std::string("int4"), gptq = std::string("gptq");
  const auto values = std::make_shared<Params>("/values", nullptr);
  for (const auto& [key, value] :
       Keys{{"type", int4}, {"group", int64_t{32}}, {"method", gptq}, {"calibration_tokens", kTokens}})
    values->set(key, value);
  const auto method = [](const char* name) { return std::pair{"method", Value(std::string(name))}; };
  std::vector<Case> all = {
      {"rtn", "int4", {method("rtn")}},
      {"mse", "int4", {method("mse")}},
      {"gptq", "int4", {method("gptq")}},
      {"gptq_ordered", "int4", {method("gptq"), {"act_order", yes}}},
      {"awq", "int4", {method("awq")}},
      {"smooth", "int8", {method("smooth")}},
      {"wanda", "pruned", {{"importance", activation}}},
      {"wanda_2_4", "pruned", {{"importance", activation}, {"pattern", two_of_four}}},
      {"sparsegpt", "pruned", {{"importance", activation}, {"compensate", yes}}},
      {"sparsegpt_2_4", "pruned", {{"compensate", yes}, {"pattern", two_of_four}}},
      {"2_4_gptq", "pruned", {{"compensate", yes}, {"pattern", two_of_four}, {"values", Value(values)}}}};
  const Value block = std::string("block"), size = std::string("4x8"), mse = std::string("mse");
  const Value gradient = std::string("gradient"), global = std::string("global"), n_m = std::string("5:16");
  const std::vector<Case> more = {
      {"rtn_asymmetric", "int4", {{"asymmetric", yes}}},
      {"mse_asymmetric", "int4", {{"method", mse}, {"asymmetric", yes}}},
      {"gptq_asymmetric", "int4", {{"method", gptq}, {"asymmetric", yes}}},
      {"int8_asymmetric", "int8", {{"asymmetric", yes}}},
      {"int8_gptq", "int8", {{"method", gptq}}},
      {"gradient", "pruned", {{"importance", gradient}}},
      {"gradient_global", "pruned", {{"importance", gradient}, {"threshold", global}}},
      {"magnitude_global", "pruned", {{"threshold", global}}},
      {"wanda_5_16", "pruned", {{"importance", activation}, {"pattern", n_m}}},
      {"sparsegpt_5_16", "pruned", {{"importance", activation}, {"pattern", n_m}, {"compensate", yes}}},
      {"sparsegpt_block",
       "pruned",
       {{"importance", activation}, {"pattern", block}, {"block", size}, {"compensate", yes}}},
      {"block_global",
       "pruned",
       {{"importance", activation}, {"pattern", block}, {"block", size}, {"threshold", global}}}};
  all.insert(all.end(), more.begin(), more.end());
  for (Case& one : all) {
    if (one.type == "int4") one.keys.emplace_back("group", int64_t{32});
    if (looks(one)) one.keys.emplace_back("calibration_tokens", kTokens);
  }
  return all;
}

// Low-rank factors, and corrections by them.
std::vector<Case> factor_cases() {
  static Problems problems;  // none, but schemes look
  const auto nested = [](const Keys& keys) {
    auto params = std::make_shared<Params>("", &problems);
    for (const auto& [key, value] : keys) params->set(key, value);
    return Value(params);
  };
  const auto text = [](const char* value) { return Value(std::string(value)); };
  const auto factors = [&](int64_t rank, const char* whiten) {
    Keys keys = {{"type", text("lowrank")}, {"rank", rank}, {"whiten", text(whiten)}};
    if (keys.back().second != text("none")) keys.emplace_back("calibration_tokens", kTokens);
    return keys;
  };
  const auto alone = [&](const char* whiten) {
    Keys keys = factors(3, whiten);
    keys.erase(keys.begin());
    return keys;
  };
  const Value rtn = nested({{"type", text("int4")}, {"group", int64_t{32}}});
  const Value gptq = nested({{"type", text("int4")},
                             {"group", int64_t{32}},
                             {"method", text("gptq")},
                             {"calibration_tokens", kTokens}});
  const Value correction = nested(factors(2, "cholesky"));
  return {{"lowrank", "lowrank", alone("none")},
          {"lowrank_scaled", "lowrank", alone("diagonal")},
          {"lowrank_whitened", "lowrank", alone("cholesky")},
          {"sum", "sum", {{"base", rtn}, {"correction", correction}}},
          {"sum_gptq", "sum", {{"base", gptq}, {"correction", correction}}}};
}

// U·V of a chain or a sum, whose signs and scales no one else would choose alike.
std::vector<float> product_of(const Canonical& canonical) {
  const Leaf &u = *(canonical.leaves.end() - 2), &v = canonical.leaves.back();
  std::vector<double> left(static_cast<size_t>(u.cols)), right(static_cast<size_t>(v.cols));
  std::vector<float> product;
  for (int64_t i = 0; i < u.rows; ++i) {
    std::vector<double> row(right.size());
    dequantize_row(u, i, left.data());
    for (int64_t r = 0; r < v.rows; ++r) {
      dequantize_row(v, r, right.data());
      for (size_t j = 0; j < row.size(); ++j) row[j] += left[static_cast<size_t>(r)] * right[j];
    }
    product.insert(product.end(), row.begin(), row.end());
  }
  return product;
}

CompressedWeights compressed(const Case& one, const Matrix<float>& whole, Communicator& comm, int threads,
                             const Calibration& calibration = tokens) {
  const auto scheme = test::make_scheme({one.type, one.keys}, {whole.rows, whole.cols}, registry());
  return compress(*scheme, load_weights(test::MatrixSource(whole), comm, 1), comm, 1, threads, nullptr,
                  calibration, cotangents);
}

TEST(Calibrated, AgreesWithNumPy) {
  std::ifstream file(LAMINA_TEST_DATA "/calibrated.json");
  const Json all = Json::parse(file);
  const Matrix<float> w = test::random_matrix(kRows, kCols, 3);
  const auto self = make_self_communicator();
  std::vector<Case> compared = cases();
  for (Case& one : factor_cases()) compared.push_back(std::move(one));
  for (const Case& one : compared) {
    if (!all.contains(one.name)) continue;
    SCOPED_TRACE(one.name);
    const Json& expected = all[one.name];
    const Canonical canonical = compressed(one, w, *self, 2).canonical;
    const Leaf& leaf = canonical.leaves.front();
    const auto near = [](std::span<const float> found, const Json& values) {
      ASSERT_EQ(found.size(), values.size());
      for (size_t i = 0; i < found.size(); ++i) {
        const double value = values[i].get<double>();
        EXPECT_NEAR(found[i], value, 2e-6 * std::abs(value) + 2e-7) << i;
      }
    };
    if (canonical.has_factors()) {
      const std::vector<float> found = product_of(canonical);
      const auto product = expected["product"].get<std::vector<float>>();
      ASSERT_EQ(found.size(), product.size());
      // Of factors that are found in float32.
      for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], product[i], 1e-5) << i;
    }
    if (one.type == "lowrank") continue;
    if (one.type != "pruned") {
      EXPECT_THAT(leaf.codes, testing::ElementsAreArray(expected["codes"].get<std::vector<int8_t>>()));
      near(leaf.scales, expected["scales"]);
      near(leaf.input_scales, expected["input_scales"]);
      EXPECT_EQ(leaf.zero_points, expected["zero_points"].get<std::vector<int8_t>>());
    } else {
      EXPECT_EQ(leaf.mask, expected["mask"].get<std::vector<uint8_t>>());
      near(leaf.values, expected["values"]);
    }
  }
}

TEST(Calibrated, IsTheSameOnAnyNumberOfRanks) {
  const Matrix<float> w = test::random_matrix(2 * kRowBlock + 70, 288, 4);
  const Range rows = slab_rows(w.rows, world());
  const auto self = make_self_communicator();
  for (const Case& one : cases()) {
    const CompressedWeights alone = compressed(one, w, *self, 2), spread = compressed(one, w, world(), 1);
    EXPECT_EQ(serialize(spread.canonical.leaves.front()),
              serialize(slice(alone.canonical.leaves.front(), rows, {0, w.cols})))
        << one.name;
    EXPECT_EQ(spread.warnings, alone.warnings);
  }
}

// Σ_t Σ_i (y − ŷ)² on tokens from `first` on.
// The activations as the leaf's rule leaves them.
double output_loss(const Canonical& weights, const Matrix<float>& w, int64_t first) {
  Matrix<float> x(300, w.cols);
  tokens(first, x);
  const Leaf& leaf = weights.leaves.front();
  const Matrix<double> seen = reference_activations(x, leaf, {0, w.cols});
  std::vector<double> kept(static_cast<size_t>(w.cols)), u, v(kept.size());
  double loss = 0;
  for (int64_t i = 0; i < w.rows; ++i) {
    dequantize_row(leaf, i, kept.data());
    if (weights.is_sum()) {
      u.resize(static_cast<size_t>(weights.leaves[1].cols));
      dequantize_row(weights.leaves[1], i, u.data());
      for (size_t r = 0; r < u.size(); ++r) {
        dequantize_row(weights.leaves[2], static_cast<int64_t>(r), v.data());
        for (size_t k = 0; k < v.size(); ++k) kept[k] += u[r] * v[k];
      }
    }
    for (int64_t t = 0; t < x.rows; ++t) {
      double error = 0;
      for (int64_t k = 0; k < w.cols; ++k)
        error += static_cast<double>(w(i, k)) * x(t, k) - kept[static_cast<size_t>(k)] * seen(t, k);
      loss += error * error;
    }
  }
  return loss;
}

// On tokens that were not used: 9 of 10 channels share half their variance, four are loud.
TEST(Calibrated, LosesLessOfTheOutputs) {
  const Matrix<float> w = test::random_matrix(40, 192, 4);
  const auto self = make_self_communicator();
  std::map<std::string, double> loss;
  Problems problems;
  std::vector<Case> all = cases();
  all.push_back({"magnitude", "pruned", {}});
  all.push_back({"w8a8", "int8", {}});
  for (const Case& one : cases()) {
    if (one.name != "sparsegpt_block") continue;
    Case without{"wanda_block", one.type, one.keys};
    std::erase_if(without.keys, [](const auto& key) { return key.first == "compensate"; });
    all.push_back(without);
  }
  all.push_back({"magnitude_2_4", "pruned", {{"pattern", std::string("2:4")}}});
  for (Case one : all) {
    if (one.keys.size() > 0 && one.keys.back().first == "calibration_tokens")
      one.keys.back().second = int64_t{2000};
    loss[one.name] = output_loss(compressed(one, w, *self, 2).canonical, w, 5000);
  }
  // Four channels that are 20 times as loud, and 5 common factors: 9 directions hold most of what is lost.
  const auto base = std::make_shared<Params>("/base", &problems),
             low = std::make_shared<Params>("/low", &problems),
             white = std::make_shared<Params>("/low", &problems);
  base->set("type", std::string("int4"));
  base->set("group", int64_t{32});
  for (const auto& each : {low, white}) {
    each->set("type", std::string("lowrank"));
    each->set("rank", int64_t{9});
  }
  white->set("whiten", std::string("cholesky"));
  white->set("calibration_tokens", int64_t{2000});
  for (const auto& [name, factors] : {std::pair{"sum", low}, {"sum_whitened", white}}) {
    const Case one{name, "sum", {{"base", Value(base)}, {"correction", Value(factors)}}};
    loss[one.name] = output_loss(compressed(one, w, *self, 2).canonical, w, 5000);
  }
  EXPECT_LT(loss["sum"], loss["rtn"]);
  EXPECT_LT(loss["sum_whitened"], 0.5 * loss["sum"]);
  EXPECT_LT(loss["mse"], loss["rtn"]);
  EXPECT_LT(loss["gptq"], 0.6 * loss["rtn"]);
  EXPECT_LT(loss["gptq_ordered"], 0.6 * loss["rtn"]);
  EXPECT_LT(loss["awq"], 0.6 * loss["rtn"]);
  EXPECT_LT(loss["smooth"], 0.5 * loss["w8a8"]);
  EXPECT_LT(loss["wanda"], 0.6 * loss["magnitude"]);
  EXPECT_LT(loss["wanda_2_4"], 0.6 * loss["magnitude_2_4"]);
  EXPECT_LT(loss["sparsegpt"], 0.8 * loss["wanda"]);
  EXPECT_LT(loss["sparsegpt_2_4"], 0.8 * loss["magnitude_2_4"]);
  EXPECT_LT(loss["sparsegpt_5_16"], 0.8 * loss["wanda_5_16"]);
  EXPECT_LT(loss["sparsegpt_block"], 0.9 * loss["wanda_block"]);
  EXPECT_LT(loss["mse_asymmetric"], loss["rtn_asymmetric"]);
  EXPECT_LT(loss["gptq_asymmetric"], 0.6 * loss["rtn_asymmetric"]);
}

// Dropped weights stay 0 and the others take over their part, through two schemes.
TEST(Calibrated, CodesOfDroppedWeightsAreZero) {
  const Matrix<float> w = test::random_matrix(kRows, kCols, 3);
  const auto self = make_self_communicator();
  for (const Case& one : cases()) {
    if (one.name != "2_4_gptq") continue;
    const Leaf leaf = compressed(one, w, *self, 1).canonical.leaves.front();
    check_leaf(leaf);
    ASSERT_EQ(leaf.mask.size(), leaf.codes.size());
    for (size_t i = 0; i < leaf.codes.size(); ++i) {
      EXPECT_TRUE(leaf.mask[i] != 0 || leaf.codes[i] == 0) << i;
    }
  }
}

TEST(Calibrated, TokensThatSayLittleAreWarnedOf) {
  const Matrix<float> w = test::random_matrix(kRows, kCols, 3);
  const auto finite = [](const Leaf& leaf) {
    std::vector<double> row(static_cast<size_t>(leaf.cols));
    for (int64_t i = 0; i < leaf.rows; ++i) {
      dequantize_row(leaf, i, row.data());
      for (const double each : row)
        if (!std::isfinite(each)) return false;
    }
    return true;
  };
  const Calibration zeros = [](int64_t, Matrix<float>& out) {
    std::fill(out.data.begin(), out.data.end(), 0.0f);
  };
  const Calibration silent = [](int64_t first, Matrix<float>& out) {
    tokens(first, out);
    for (int64_t t = 0; t < out.rows; ++t)
      for (int64_t k = 20; k < 90; ++k) out(t, k) = 0;
  };
  const Calibration tiny = [](int64_t first, Matrix<float>& out) {
    tokens(first, out);
    for (float& each : out.data) each *= 1e-36f;
  };
  for (Case one : cases()) {
    if (!looks(one)) continue;
    SCOPED_TRACE(one.name);
    one.keys.back().second = int64_t{5};
    const bool gram = one.name.find("gpt") != std::string::npos;
    const CompressedWeights few = compressed(one, w, world(), 1);
    EXPECT_TRUE(finite(few.canonical.leaves.front()));
    if (gram) {
      EXPECT_THAT(few.warnings, testing::Contains(testing::HasSubstr("5 calibration tokens for 160")));
    }
    const CompressedWeights none = compressed(one, w, world(), 1, zeros);
    EXPECT_TRUE(finite(none.canonical.leaves.front()));
    EXPECT_THAT(none.warnings, testing::Contains(testing::HasSubstr("160 of 160 input channels are 0")));
    const CompressedWeights some = compressed(one, w, world(), 1, silent);
    EXPECT_TRUE(finite(some.canonical.leaves.front()));
    EXPECT_THAT(some.warnings, testing::Contains(testing::HasSubstr("70 of 160 input channels are 0")));
    EXPECT_TRUE(finite(compressed(one, w, world(), 1, tiny).canonical.leaves.front()));
  }
}

TEST(Calibrated, TokensThatAreNotFiniteFailOnEveryRank) {
  const Matrix<float> w = test::random_matrix(kRows, kCols, 3);
  const Calibration bad = [](int64_t first, Matrix<float>& out) {
    tokens(first, out);
    if (first > 100) out(1, 7) = std::numeric_limits<float>::quiet_NaN();
  };
  for (const Case& one : cases()) {
    if (!looks(one)) continue;
    EXPECT_THROW(compressed(one, w, world(), 1, bad), AgreedError) << one.name;
    EXPECT_THROW(compressed(one, w, world(), 1, {}), AgreedError) << one.name;
  }
}

}  // namespace
}  // namespace lamina
