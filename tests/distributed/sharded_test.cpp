// Layers cut over ranks: right for every scheme, shard and awkward size; the check sees each way to be wrong.
#include "distributed/sharded_layer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "distributed/quality.hpp"
#include "tests/distributed/sharded_rig.hpp"

namespace lamina {
namespace {

using test::registry;
using test::world;

using Rig = test::ShardedRig;
using test::kDense;

const Shard kShards[] = {Shard::none, Shard::column, Shard::row};

// Ranks that rounded their weights where others did not would make sums that no reference has.
TEST(Sharded, KernelsOfSeveralRanksAreToldToMultiplyWeightsAsTheyAre) {
  Registry watched = registry();
  Kernel kernel = *registry().choose("reference", "cpu", Leaf(), nullptr);
  kernel.name = "watched";
  std::vector<Ways> told;
  kernel.make = [&told, make = kernel.make](const Leaf& leaf, const LayerOptions& options) {
    told.push_back(options.ways);
    return make(leaf, options);
  };
  watched.add(kernel);
  const Rig rig({12, 16}, kDense, {});
  for (const Shard shard : kShards) {
    auto comm = shard == Shard::none ? make_self_communicator() : world().subset(world().size());
    const CompressedWeights weights = compress(*rig.scheme, rig.original, *comm, 5);
    ShardedLayer layer(weights, {.shard = shard, .kernel = "watched"}, watched, *comm);
    layer.replicate(2);
    EXPECT_EQ(told, std::vector<Ways>(2, comm->size() > 1 ? Ways::exact : Ways::any)) << to_string(shard);
    told.clear();
  }
}

TEST(Sharded, EverySchemeAndShardIsRight) {
  for (const test::SchemeCase& each : test::scheme_cases()) {
    if (!registry().find_scheme(each.type)) continue;
    for (const Shard shard : kShards) {
      // 192 columns are three groups of 64: fewer than the ranks, when there are four.
      for (const int64_t tokens : {1, 5, 21}) {
        Rig rig({131, 192}, each, {.shard = shard, .max_tokens = tokens});
        const CheckResult result = rig.check();
        EXPECT_TRUE(result.passed) << rig.scheme->name() << ", " << to_string(shard) << ", " << tokens
                                   << " tokens: " << result.error << " > " << result.tolerance << " at "
                                   << result.where;
        EXPECT_FALSE(result.where.empty());
        EXPECT_GT(result.tolerance, 0);
      }
    }
  }
}

TEST(Sharded, MoreRanksThanFeaturesIsRight) {
  for (const Shard shard : kShards) {
    for (const Shape shape : {Shape{2, 3}, Shape{1, 64}, Shape{64, 1}}) {
      Rig rig(shape, kDense, {.shard = shard, .max_tokens = 3});
      EXPECT_TRUE(rig.check().passed)
          << shape.out_features << "x" << shape.in_features << " " << to_string(shard);
    }
  }
}

TEST(Sharded, GatheredOutputIsNearTheOriginalProduct) {
  for (const Shard shard : kShards) {
    for (const int64_t halves : {1, 2}) {
      Rig rig({130, 96}, kDense, {.shard = shard, .max_tokens = 4, .halves = halves});
      const Range cols = rig.layer->local_cols();
      std::vector<float> local_x, y(static_cast<size_t>(4 * rig.layer->local_out()));
      for (int64_t t = 0; t < 4; ++t)
        local_x.insert(local_x.end(), rig.x.row(t) + cols.begin, rig.x.row(t) + cols.end);
      rig.layer->forward(0, local_x.data(), y.data(), 4, rig.stream);
      const Matrix<float> whole = gather_output(*rig.layer, y.data(), 4);
      const Matrix<double> truth = original_product(rig.original, rig.x, *rig.comm, 1);
      const Quality quality = compare_quality(whole, truth);
      EXPECT_LT(quality.nmse, 1e-10);
      EXPECT_NEAR(quality.cosine, 1, 1e-9);
      EXPECT_LT(quality.max_abs, 1e-3);
    }
  }
}

// Tokens that do not divide by the ranks, and fewer than them; both roles; chains whose sums are rank-wide.
TEST(Sharded, TokensAreCutOverRanks) {
  for (const test::SchemeCase& each : test::scheme_cases()) {
    if (!registry().find_scheme(each.type)) continue;
    for (const Shard shard : {Shard::column, Shard::row})
      for (const int64_t tokens : {1, 5}) {
        Rig rig({130, 192}, each, {.shard = shard, .max_tokens = tokens, .sequence = true});
        const std::string what = rig.scheme->name() + ", " + to_string(shard) + ", " + std::to_string(tokens);
        const CheckResult result = rig.check();
        EXPECT_TRUE(result.passed) << what << ": " << result.error << " > " << result.tolerance << " at "
                                   << result.where;
        // What the ranks have together is the product, token by token.
        const Matrix<float> local = local_input(*rig.layer, rig.x, {0, tokens});
        const bool cut = rig.comm->size() > 1;
        EXPECT_EQ(local.rows, shard == Shard::column && cut
                                  ? (tokens + rig.comm->size() - 1) / rig.comm->size()
                                  : tokens);
        std::vector<float> y(static_cast<size_t>(rig.layer->out_rows(tokens) * rig.layer->local_out()));
        rig.layer->forward(0, local.data.data(), y.data(), tokens, rig.stream);
        const Matrix<float> whole = gather_output(*rig.layer, y.data(), tokens);
        Rig plain({130, 192}, each, {.shard = shard, .max_tokens = tokens});
        const Matrix<float> inputs = local_input(*plain.layer, plain.x, {0, tokens});
        std::vector<float> expected(static_cast<size_t>(tokens * plain.layer->local_out()));
        plain.layer->forward(0, inputs.data.data(), expected.data(), tokens, plain.stream);
        const Matrix<float> reference = gather_output(*plain.layer, expected.data(), tokens);
        ASSERT_EQ(whole.data.size(), reference.data.size());
        float largest = 0, off = 0;
        for (size_t i = 0; i < whole.data.size(); ++i) {
          largest = std::max(largest, std::abs(reference.data[i]));
          off = std::max(off, std::abs(whole.data[i] - reference.data[i]));
        }
        EXPECT_LE(off, 1e-5f * largest) << what;
      }
  }
}

TEST(Sharded, EveryTransportSumsAlike) {
  for (const TransportType& type : transports()) {
    if (type.device != "cpu" || !type.absent.empty() || (type.name == "self" && world().size() > 1)) continue;
    const auto transport = make_transport(type.name, "cpu", world());
    Rig rig({131, 192}, kDense, {.shard = Shard::row, .max_tokens = 5, .transport = transport.get()});
    EXPECT_TRUE(rig.check().passed) << type.name;
    if (world().size() > 1) {
      ASSERT_NE(rig.layer->transport(), nullptr);
      EXPECT_EQ(rig.layer->transport()->name(), type.name);
    }
  }
}

TEST(Sharded, HalvesAreCutAlike) {
  const Cut cut = make_cut({20, 8}, Shard::column, 3, {1, 1}, 2);
  EXPECT_EQ(cut.rows[0], (std::vector<Range>{{0, 4}, {10, 14}}));
  EXPECT_EQ(cut.rows[2], (std::vector<Range>{{7, 10}, {17, 20}}));
  EXPECT_THROW(make_cut({21, 8}, Shard::column, 3, {1, 1}, 2), std::invalid_argument);
  EXPECT_THROW(make_cut({20, 8}, Shard::column, 3, {4, 1}, 2), std::invalid_argument);
  const Cut row = make_cut({20, 96}, Shard::row, 4, {1, 32});
  EXPECT_EQ(row.cols, (std::vector<Range>{{0, 32}, {32, 64}, {64, 96}, {96, 96}}));
  EXPECT_TRUE(row.reduce);
}

TEST(Sharded, GivenCutsAreTakenAndChecked) {
  const int ranks = world().size();
  std::vector<Range> cut;  // all of it on the last rank but one element each
  for (int r = 0; r < ranks; ++r) cut.push_back({r, r + 1 == ranks ? 64 : r + 1});
  Rig row({40, 64}, kDense, {.shard = Shard::row, .max_tokens = 2, .row_cut = cut});
  EXPECT_EQ(row.layer->local_cols(), cut[static_cast<size_t>(world().rank())]);
  EXPECT_TRUE(row.check().passed);
  Rig column({128, 40}, kDense, {.shard = Shard::column, .max_tokens = 2, .halves = 2, .column_cut = cut});
  EXPECT_EQ(column.layer->local_rows()[0], cut[static_cast<size_t>(world().rank())]);
  EXPECT_TRUE(column.check().passed);
  cut.back().end = 63;
  EXPECT_THROW(Rig({40, 64}, kDense, {.shard = Shard::row, .row_cut = cut}), AgreedError);
}

TEST(Sharded, CountsWhatItMoves) {
  const bool many = world().size() > 1;
  Rig column({131, 192}, kDense, {.shard = Shard::column, .max_tokens = 5});
  EXPECT_EQ(column.layer->comm_bytes(5), 0);
  EXPECT_EQ(column.layer->collectives(), 0);
  // A BLAS pads nothing.
  Rig row({131, 192}, kDense, {.shard = Shard::row, .kernel = "openblas", .max_tokens = 5});
  EXPECT_EQ(row.layer->comm_bytes(5), many ? 5 * 131 * 4 : 0);
  EXPECT_EQ(row.layer->collectives(), many ? 1 : 0);
  EXPECT_EQ(world().sum(static_cast<double>(row.layer->weight_bytes())), 131.0 * 192 * 4);
  EXPECT_EQ(world().sum(row.layer->cost(5).operations.total()), 2.0 * 5 * 131 * 192);
  if (registry().find_scheme("lowrank")) {
    Rig lowrank({131, 192}, {"lowrank", {{"rank", int64_t{9}}}}, {.shard = Shard::row, .max_tokens = 5});
    EXPECT_EQ(lowrank.layer->comm_bytes(5), many ? 5 * 9 * 4 : 0) << "the rank's vectors, not N's";
  }
  for (const test::SchemeCase& each : test::scheme_cases()) {
    if (each.type != "sum") continue;
    Rig sum({131, 192}, each, {.shard = Shard::row, .max_tokens = 5});
    EXPECT_EQ(sum.layer->comm_bytes(5), many ? 5 * 131 * 4 : 0) << "one all-reduce of both";
    EXPECT_EQ(sum.layer->collectives(), many ? 1 : 0);
  }
}

TEST(Sharded, PartsAreSeparate) {
  Rig rig({64, 64}, kDense, {.shard = Shard::row, .max_tokens = 1});
  const Range cols = rig.layer->local_cols();
  std::vector<float> y(64, -1.0f);
  rig.layer->forward(0, rig.x.row(0) + cols.begin, y.data(), 1, rig.stream, Part::compute);
  std::vector<float> all(64);
  rig.layer->forward(0, rig.x.row(0) + cols.begin, all.data(), 1, rig.stream);
  world().all_reduce(y.data(), y.data(), 64, DType::f32, ReduceOp::sum);
  for (size_t i = 0; i < 64; ++i) EXPECT_NEAR(y[i], all[i], 1e-4);
  EXPECT_THROW(rig.layer->forward(2, nullptr, nullptr, 1, rig.stream), std::invalid_argument);
  EXPECT_THROW(rig.layer->forward(0, nullptr, nullptr, 2, rig.stream), std::invalid_argument);
}

TEST(Sharded, CommunicatingAloneStaysFinite) {
  std::vector<test::SchemeCase> cases = {kDense};
  if (registry().find_scheme("lowrank")) cases.push_back({"lowrank", {{"rank", int64_t{9}}}});
  for (const test::SchemeCase& each : cases) {
    Rig rig({64, 64}, each, {.shard = Shard::row, .max_tokens = 2});
    std::vector<float> y(128, 1.0f), first;
    for (int call = 0; call < 2000; ++call) {
      rig.layer->forward(0, nullptr, y.data(), 2, rig.stream, Part::communicate);
      if (call == 0) first = y;
    }
    const Stage& reduced = rig.layer->stages().front();  // of a chain V, whose sums stay inside
    const float* sums = reduced.output.bytes() > 0 ? reduced.output.as<float>() : y.data();
    EXPECT_EQ(y, first);
    for (int64_t i = 0; i < 2 * reduced.local_out; ++i) EXPECT_TRUE(std::isfinite(sums[i])) << i;
    EXPECT_TRUE(world().size() == 1 || sums[0] != sums[1]) << "varied numbers travel";
  }
}

TEST(Sharded, ARefusedKernelIsSaidOnEveryRank) {
  try {
    Rig rig({64, 64}, kDense, {.shard = Shard::row, .kernel = "opnblas"});
    FAIL();
  } catch (const AgreedError& error) {
    EXPECT_NE(std::string(error.what()).find("opnblas"), std::string::npos) << error.what();
  }
}

// ---- Faults
// ----------------------------------------------------------------------------------------------------------

// Runs the real layer, then spoils its output.
class Spoiled final : public Layer {
 public:
  using Spoil = std::function<void(float* y, int64_t tokens)>;
  Spoiled(std::unique_ptr<Layer> inner, Spoil spoil) : inner_(std::move(inner)), spoil_(std::move(spoil)) {}
  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    inner_->forward(x, y, tokens, stream);
    spoil_(y, tokens);
  }
  Cost cost(int64_t tokens) const override { return inner_->cost(tokens); }
  int64_t weight_bytes() const override { return inner_->weight_bytes(); }

 private:
  std::unique_ptr<Layer> inner_;
  Spoil spoil_;
};

// A layer that leaves its output as it finds it.
class Stale final : public Layer {
 public:
  void forward(const float*, float*, int64_t, Stream&) override {}
  Cost cost(int64_t) const override { return {}; }
  int64_t weight_bytes() const override { return 0; }
};

std::vector<test::SchemeCase> fault_schemes() {
  std::vector<test::SchemeCase> cases = {kDense};
  for (const test::SchemeCase& each : test::scheme_cases()) {
    if ((each.type == "int8" || each.type == "lowrank" || each.type == "sum") &&
        registry().find_scheme(each.type))
      cases.push_back(each);
  }
  return cases;
}

// Injects a fault into one stage of the last rank's last copy and expects the check to see it, and to have
// passed before.
void expect_caught(const char* what, const std::function<void(Stage&, int64_t out)>& inject,
                   int64_t tokens = 21) {
  for (const test::SchemeCase& each : fault_schemes()) {
    for (const Shard shard : kShards) {
      const size_t stages = each.type == "lowrank" ? 2 : each.type == "sum" ? 3 : 1;
      for (size_t s = 0; s < stages; ++s) {
        Rig faulty({132, 192}, each, {.shard = shard, .max_tokens = tokens});
        ASSERT_EQ(faulty.layer->stages().size(), stages);
        ASSERT_TRUE(faulty.check().passed);
        Stage& stage = faulty.layer->mutable_stages()[s];
        if (faulty.comm->rank() == faulty.comm->size() - 1) inject(stage, stage.local_out);
        const CheckResult result = faulty.check();
        EXPECT_FALSE(result.passed) << what << " in " << faulty.scheme->name() << ", " << to_string(shard)
                                    << ", stage " << s;
        EXPECT_FALSE(result.where.empty());
      }
    }
  }
}

Spoiled::Spoil on_element(int64_t out, int64_t token, int64_t feature, float factor) {
  return [=](float* y, int64_t tokens) {
    const int64_t t = token < 0 ? tokens - 1 : token;
    y[t * out + (feature < 0 ? out - 1 : feature)] *= factor;
  };
}

void spoil(Stage& stage, size_t copy, Spoiled::Spoil with) {
  stage.copies[copy] = std::make_unique<Spoiled>(std::move(stage.copies[copy]), std::move(with));
}

TEST(Check, SeesAWrongScale) {
  expect_caught("a wrong scale", [](Stage& stage, int64_t out) {
    for (size_t copy = 0; copy < 2; ++copy) {
      spoil(stage, copy, [out](float* y, int64_t tokens) {
        for (int64_t i = 0; i < tokens * out; ++i) y[i] *= 1.001f;
      });
    }
  });
}

TEST(Check, SeesADroppedShard) {
  expect_caught("a dropped shard", [](Stage& stage, int64_t out) {
    for (size_t copy = 0; copy < 2; ++copy) {
      spoil(stage, copy, [out](float* y, int64_t tokens) { std::fill(y, y + tokens * out, 0.0f); });
    }
  });
}

TEST(Check, SeesAStaleOutputBuffer) {
  expect_caught("a stale buffer", [](Stage& stage, int64_t) { stage.copies[1] = std::make_unique<Stale>(); });
}

TEST(Check, SeesAWrongLastColumn) {
  expect_caught("a wrong last column", [](Stage& stage, int64_t out) {
    spoil(stage, 0, [out](float* y, int64_t tokens) {
      for (int64_t t = 0; t < tokens; ++t) y[t * out + out - 1] *= 1.01f;
    });
  });
}

TEST(Check, SeesAWrongLastToken) {
  expect_caught("a wrong last token",
                [](Stage& stage, int64_t out) { spoil(stage, 0, on_element(out, -1, 0, -1)); });
}

TEST(Check, SeesAWrongTokenAnywhere) {
  for (int64_t token = 0; token < 40; token += 13) {
    expect_caught(
        "a wrong token", [=](Stage& stage, int64_t out) { spoil(stage, 0, on_element(out, token, 1, 0)); },
        40);
  }
}

TEST(Check, SeesAnAddendLeftOut) {
  for (const test::SchemeCase& each : fault_schemes()) {
    if (each.type != "sum") continue;
    for (const Shard shard : kShards) {
      Rig rig({132, 192}, each, {.shard = shard, .max_tokens = 21});
      ASSERT_TRUE(rig.check().passed);
      Stage &last = rig.layer->mutable_stages().back(), &before = rig.layer->mutable_stages()[1];
      const float* addend = before.output.as<float>();
      const int64_t out = last.local_out;
      spoil(last, 0, [=](float* y, int64_t tokens) {
        for (int64_t i = 0; i < tokens * out; ++i) y[i] -= addend[i];
      });
      EXPECT_FALSE(rig.check().passed) << rig.scheme->name() << ", " << to_string(shard);
    }
  }
}

TEST(Check, SeesOneWrongCopy) {
  expect_caught(
      "a wrong copy", [](Stage& stage, int64_t out) { spoil(stage, 1, on_element(out, 0, 0, 1.01f)); }, 3);
}

TEST(Check, SeesNaN) {
  expect_caught("a NaN", [](Stage& stage, int64_t out) {
    spoil(stage, 0, on_element(out, -1, -1, std::numeric_limits<float>::quiet_NaN()));
  });
}

TEST(Check, SeesWritesOutsideTheOutput) {
  for (const Shard shard : kShards) {
    Rig rig({132, 192}, kDense, {.shard = shard, .max_tokens = 2});
    Stage& stage = rig.layer->mutable_stages()[0];
    const int64_t out = stage.local_out;
    spoil(stage, 0, [out](float* y, int64_t tokens) { y[tokens * out] = 0; });
    EXPECT_FALSE(rig.check().passed);
  }
}

TEST(Check, SeesASkippedAllReduce) {
  if (world().size() == 1) GTEST_SKIP() << "one rank reduces nothing";
  for (const test::SchemeCase& each : fault_schemes()) {
    Rig rig({132, 192}, each, {.shard = Shard::row, .max_tokens = 3});
    for (Stage& stage : rig.layer->mutable_stages()) stage.cut.reduce = false;
    EXPECT_FALSE(rig.check().passed) << rig.scheme->name();
  }
}

TEST(Check, SeesSwappedRanks) {
  const int ranks = world().size();
  if (ranks == 1) GTEST_SKIP() << "there is nobody to swap with";
  for (const test::SchemeCase& each : fault_schemes()) {
    for (const Shard shard : {Shard::column, Shard::row}) {
      // Shards of equal sizes, so that nothing but the numbers is wrong.
      Rig rig({132, 192}, each, {.shard = shard, .max_tokens = 3});
      Stage& stage =
          shard == Shard::column ? rig.layer->mutable_stages().back() : rig.layer->mutable_stages().front();
      const size_t other = static_cast<size_t>((world().rank() + 1) % ranks);
      const Leaf part = stage.truth_whole ? slice(*stage.truth, {0, stage.truth->rows}, stage.cut.cols[other])
                                          : redistribute(*stage.truth, stage.cut.rows[other],
                                                         stage.cut.cols[other], world());
      ASSERT_EQ(part.rows, stage.local_out);
      // Groups may fall to ranks unevenly.
      if (world().max(part.cols == stage.local_in ? 0 : 1) > 0) continue;
      stage.copies[0] = stage.kernel->make(part, {3, 1});
      EXPECT_FALSE(rig.check().passed) << rig.scheme->name() << ", " << to_string(shard);
    }
  }
}

TEST(Check, TheResultIsTheSameOnEveryRank) {
  Rig rig({132, 192}, kDense, {.shard = Shard::column, .max_tokens = 3});
  if (world().rank() == world().size() - 1) {
    Stage& stage = rig.layer->mutable_stages()[0];
    spoil(stage, 0, on_element(stage.local_out, 1, -1, 2));
  }
  const CheckResult result = rig.check();
  EXPECT_FALSE(result.passed);
  EXPECT_EQ(result.error, world().max(result.error));
  EXPECT_EQ(result.where, world().broadcast_text(result.where));
  EXPECT_NE(result.where.find("token 1, feature 131"), std::string::npos) << result.where;
}

}  // namespace
}  // namespace lamina
