#include "bench/plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "bench/weight_store.hpp"
#include "distributed/communicator.hpp"

namespace lamina {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

const Registry& registry() {
  static const Registry made = [] {
    Registry all;
    register_kernels(all);
    return all;
  }();
  return made;
}

Machine machine(int64_t available_bytes = int64_t{1} << 40) {
  Machine made;
  made.launch.cache_bytes = 1 << 20;
  RankPlace& place = made.places.emplace_back();
  place.host = "test";
  place.cpus = place.cores = {0};
  place.node_bytes = place.process_bytes = available_bytes;
  return made;
}

// A plan for one experiment on 256 × 256 weights.
Plan plan_of(const std::string& keys, Problems& problems, const Machine& on, const std::string& filter = "") {
  const Config config = read_config(
      R"({"name": "t", "experiments": [{"workload": "layer", "in_features": 256, "out_features": 256, )" +
          keys + "}]}",
      {}, false, problems);
  return make_plan(config, on, registry(), filter, problems);
}

std::vector<std::string> dense_kernels(const PlannedGroup& group) {
  std::vector<std::string> kernels;
  for (const PlannedCase& one : group.cases)
    if (one.spec->dense) kernels.push_back(one.spec->identity.text("kernel"));
  return kernels;
}

TEST(Plan, EveryGroupHasEveryDenseKernelAsABaseline) {
  Problems problems;
  // The preferred kernel stands first, as "auto"; the other dense one by its name.
  const std::string second = registry().kernels("cpu").front()->name == "openblas" ? "native" : "openblas";
  Plan plan = plan_of(R"("tokens": [1, 2], "scheme": {"type": "int8"})", problems, machine());
  ASSERT_TRUE(problems.empty());
  ASSERT_EQ(plan.groups.size(), 2u);
  EXPECT_EQ(plan.cases, 6);
  for (const PlannedGroup& group : plan.groups)
    EXPECT_THAT(dense_kernels(group), ElementsAre("auto", second));

  plan = plan_of(R"("tokens": 1, "scheme": [{"type": "dense"}, {"type": "int8"}])", problems, machine());
  EXPECT_THAT(dense_kernels(plan.groups.at(0)), ElementsAre("auto", second));

  plan = plan_of(R"("tokens": 1, "kernel": ["native", "openblas"], "scheme": {"type": "dense"})", problems,
                 machine());
  EXPECT_THAT(dense_kernels(plan.groups.at(0)), ElementsAre("native", "openblas"));
  ASSERT_TRUE(problems.empty());
}

TEST(Plan, AFilteredBaselineKeepsItsName) {
  Problems problems;
  const std::string keys = R"("tokens": 1, "scheme": [{"type": "dense"}, {"type": "int8"}])";
  const Plan whole = plan_of(keys, problems, machine()),
             filtered = plan_of(keys, problems, machine(), "int8");
  ASSERT_TRUE(problems.empty());
  std::set<std::string> before, after;
  for (const PlannedCase& one : whole.groups.at(0).cases) before.insert(one.spec->name);
  for (const PlannedCase& one : filtered.groups.at(0).cases) after.insert(one.spec->name);
  EXPECT_EQ(before, after);
}

TEST(Plan, PartsOfASplitGroupEachHaveTheBaselinesAndRecordThemOnce) {
  Problems problems;
  const std::string keys =
      R"("tokens": [1, 4], "cache": "hot", "scheme": [{"type": "int8"}, {"type": "int4", "group": 32},
          {"type": "pruned", "pattern": "2:4"}, {"type": "lowrank", "rank": 64}])";
  const Plan roomy = plan_of(keys, problems, machine());
  ASSERT_EQ(roomy.groups.size(), 2u);
  EXPECT_EQ(roomy.groups[0].packed_group, roomy.groups[1].packed_group);
  EXPECT_FALSE(roomy.groups[0].packed_group.empty());
  EXPECT_EQ(roomy.cases, 12);
  for (const PlannedGroup& group : roomy.groups)
    for (const PlannedCase& one : group.cases) EXPECT_EQ(one.spec->max_tokens, 4);

  // A little less memory than all of it wants.
  const auto budget = static_cast<double>(roomy.groups[0].memory_bytes - 200'000);
  const Plan tight = plan_of(keys, problems, machine(static_cast<int64_t>(budget / 0.8)));
  ASSERT_THAT(problems.items(), IsEmpty());
  ASSERT_GT(tight.groups.size(), 2u);
  EXPECT_EQ(tight.cases, 12);
  std::multiset<std::string> recorded;
  for (const PlannedGroup& part : tight.groups) {
    EXPECT_EQ(dense_kernels(part).size(), 2u);
    EXPECT_GT(part.cases.size(), 2u);
    EXPECT_TRUE(part.packed_group.empty());
    EXPECT_LE(part.memory_bytes, static_cast<int64_t>(budget));
    for (const PlannedCase& one : part.cases) {
      if (!one.repeated) recorded.insert(one.spec->name);
      EXPECT_EQ(one.spec->max_tokens, one.spec->tokens) << "sized for a group it shares nothing with";
    }
  }
  EXPECT_EQ(recorded.size(), 12u);
  EXPECT_EQ(std::set<std::string>(recorded.begin(), recorded.end()).size(), 12u);

  (void)plan_of(keys, problems, machine(1'000'000));
  ASSERT_FALSE(problems.empty());
  EXPECT_THAT(problems.items().front().message, testing::HasSubstr("with its dense baselines"));
}

TEST(WeightStore, SchemesShareFactorsAndTokensSharePackedWeights) {
  auto comm = make_self_communicator();
  WeightStore store(1);
  LayerRef ref;
  ref.label = "t";
  ref.shape = {384, 320};
  Problems problems;
  const auto scheme_of = [&](const std::string& factors) {
    auto params = std::make_shared<Params>("/scheme", &problems);
    params->set("rank", int64_t{40});
    if (!factors.empty()) {
      auto nested = std::make_shared<Params>("/scheme/factors", &problems);
      nested->set("type", factors);
      params->set("factors", nested);
    }
    return registry().find_scheme("lowrank")->make(*params, ref.shape, registry());
  };
  const auto plain = scheme_of(""), quantized = scheme_of("int8");
  ASSERT_TRUE(problems.empty());
  const auto original = store.original(ref, *comm);
  FactorMemory memory;
  (void)compress(*plain, *original, *comm, ref.seed, 1, &memory);
  ASSERT_EQ(memory.known.size(), 1u);
  memory.known[0].seconds = 1000;
  // The second does not factorise, and says what it would have taken.
  const CompressedWeights second = compress(*quantized, *original, *comm, ref.seed, 1, &memory);
  EXPECT_EQ(memory.known.size(), 1u);
  EXPECT_GT(second.seconds, 1000);
  EXPECT_LT(second.seconds, 1001);
  WeightStore fresh(1);
  const auto alone = fresh.compressed(ref, *quantized, *comm);
  for (size_t leaf = 0; leaf < 2; ++leaf)
    EXPECT_EQ(second.canonical.leaves[leaf].codes, alone->canonical.leaves[leaf].codes);

  ShardedOptions options;
  options.max_tokens = 8;
  const auto packed = store.packed(ref, *plain, options, registry(), *comm);
  EXPECT_EQ(packed, store.packed(ref, *plain, options, registry(), *comm));
  EXPECT_NE(packed, store.packed(ref, *quantized, options, registry(), *comm));
  options.kernel = "reference";
  EXPECT_NE(packed, store.packed(ref, *plain, options, registry(), *comm));
  options.kernel = "auto";
  store.clear_packed();
  EXPECT_NE(packed, store.packed(ref, *plain, options, registry(), *comm));
}

// A plan for factorisations of a 256 × 512 matrix.
Plan svd_plan(const std::string& keys, Problems& problems, const Machine& on) {
  const Config config = read_config(
      R"({"name": "t", "experiments": [{"workload": "svd", "in_features": 512, "out_features": 256, )" +
          keys + "}]}",
      {}, false, problems);
  return make_plan(config, on, registry(), "", problems);
}

TEST(Plan, FactorisationsHaveNoBaselinesAndPeersRunAlone) {
  Problems problems;
  Machine two = machine();
  two.places.push_back(two.places.front());
  two.launch.ranks = two.launch.local_ranks = 2;
  const Plan plan =
      svd_plan(R"("rank": [4, 8], "ranks": [1, 2], "method": ["gram", "lapack"])", problems, two);
  ASSERT_THAT(problems.items(), IsEmpty());
  // lapack runs on one rank whatever was asked, with the threads of both.
  EXPECT_EQ(plan.cases, 2 * 2 + 2);
  ASSERT_EQ(plan.groups.size(), 3u);
  for (const PlannedGroup& group : plan.groups) {
    EXPECT_EQ(group.cases.size(), 2u);
    for (const PlannedCase& one : group.cases) {
      EXPECT_FALSE(one.spec->forward);
      EXPECT_FALSE(one.spec->dense);
      EXPECT_EQ(one.spec->skip_reason, "");
      const bool alone = one.spec->identity.text("svd_method") == "lapack";
      EXPECT_EQ(one.spec->threads, alone ? 2 : 1);
      if (alone) {
        EXPECT_EQ(one.spec->ranks, 1);
      }
      // Its part of the matrix, and more.
      EXPECT_EQ(one.spec->shared_bytes, 4 * 256 * 512 / one.spec->ranks);
      EXPECT_GT(one.spec->stated_bytes, one.spec->shared_bytes);
      EXPECT_LE(one.spec->stated_bytes, group.memory_bytes);
    }
  }
}

TEST(Plan, AFactorisationThatCannotBeHeldIsAProblem) {
  Problems problems;
  (void)svd_plan(R"("rank": 8)", problems, machine(100'000));
  ASSERT_FALSE(problems.empty());
  EXPECT_THAT(problems.items().front().message,
              testing::AllOf(testing::HasSubstr("GiB a rank"), testing::Not(testing::HasSubstr("dense"))));
}

TEST(Plan, AGridThatDoesNotFitIsSkippedNotRefused) {
  Problems problems;
  const Plan plan =
      svd_plan(R"("rank": 8, "layout": "block-cyclic", "grid_rows": 2, "grid_cols": 3)", problems, machine());
  ASSERT_THAT(problems.items(), IsEmpty());
  EXPECT_NE(plan.groups.at(0).cases.at(0).spec->skip_reason, "");
}

TEST(Plan, ALongStepIsEstimatedAsOftenAsItIsTimed) {
  MeasureOptions measure;
  measure.max_seconds = 5;
  Problems problems;
  const Plan plan = svd_plan(R"("rank": 8)", problems, machine());
  CaseSpec& spec = *plan.groups.at(0).cases.at(0).spec;
  spec.estimated_step_s = 100;
  EXPECT_DOUBLE_EQ(estimated_sampling_s(spec, measure), 100);
  spec.estimated_step_s = 6;
  EXPECT_DOUBLE_EQ(estimated_sampling_s(spec, measure), 18);
}

}  // namespace
}  // namespace lamina
