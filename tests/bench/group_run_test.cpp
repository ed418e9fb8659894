// What becomes of cases whose device fails, or is slowed, while they are timed: with a device that is made
// up.
#include "bench/group_run.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "distributed/agree.hpp"
#include "distributed/communicator.hpp"
#include "kernels/gpu_rules.hpp"

namespace lamina {
namespace {

using testing::HasSubstr;

// A made-up device's memory: so much is free, by what it says, and the allocation of this number fails all
// the same, as where others take of it or what is free is in pieces.
struct Memory {
  int64_t free = int64_t{4} << 30;
  int fails_at = 0;  // from 1 on
  int allocations = 0;
  int64_t allocate(int64_t bytes) {
    if (++allocations == fails_at) throw DeviceError("cuda: allocating device memory: out of memory");
    return bytes;
  }
};

// What a made-up case's device does.
struct Course {
  int64_t fails_after = std::numeric_limits<int64_t>::max();  // replays
  std::string failure = "cuda: waiting for timed work: an illegal memory access";
  bool fails_to_prepare = false;
  std::vector<std::string> throttled = {};
  double first_clock_above_mhz = 0;  // than all later ones
  Memory* memory = nullptr;
  int64_t needs = 0;  // of it
};

class MadeUpReplay final : public Replay {
 public:
  explicit MadeUpReplay(const Course& course) : course_(course) {}
  double run(int64_t times) override {
    if (++runs_ > course_.fails_after) throw DeviceError(course_.failure);
    return 30e-6 * static_cast<double>(times);
  }

 private:
  const Course& course_;
  int64_t runs_ = 0;
};

class MadeUpCase final : public PreparedCase {
 public:
  explicit MadeUpCase(const Course& course) : course_(course) {}
  void step(Part) override {}
  Captured capture(Part) override { return {std::make_unique<MadeUpReplay>(course_), 1}; }
  DeviceState device_state() override {
    return {++asked_ == 1 ? 1500.0 + course_.first_clock_above_mhz : 1500.0, course_.throttled};
  }
  CheckResult check() override { return {}; }
  std::string failure(const CheckResult&) const override { return ""; }
  void describe(Record& record) override {
    record.set("weight_bytes", int64_t{1000});
    record.set("gflops_executed", 1.0);
  }

 private:
  const Course& course_;
  int asked_ = 0;
};

struct MadeUpSpec final : CaseSpec {
  MadeUpSpec(const std::string& called, Course its) : course(std::move(its)) {
    name = called;
    identity = Record("layer");
    identity.set("case", called);
    identity.set("workload", std::string("layer"));
    identity.set("device", std::string("cpu"));  // whose limits are measured beside it
    identity.set("kernel", std::string("auto"));
    identity.set("cache", std::string("hot"));
    identity.set("scheme", std::string("dense-f32"));
    if (course.memory != nullptr) skip_reason = too_little_gpu_memory(course.needs, course.memory->free);
  }
  std::unique_ptr<PreparedCase> prepare(WeightStore&, const Registry&, Communicator& comm) const override {
    if (course.fails_to_prepare) throw DeviceError(course.failure);
    if (course.memory != nullptr) together(comm, [&] { course.memory->allocate(course.needs); });
    return std::make_unique<MadeUpCase>(course);
  }
  Course course;
};

// The rows of a group of such cases.
std::vector<Record> rows_of(const std::vector<Course>& courses) {
  static const Registry registry = [] {
    Registry made;
    register_kernels(made);
    return made;
  }();
  PlannedGroup group;
  for (const Course& course : courses)
    group.cases.push_back(
        {std::make_shared<MadeUpSpec>("case" + std::to_string(group.cases.size()), course), false});
  Machine machine;
  machine.launch.cache_bytes = 1 << 20;
  machine.places.emplace_back().cpus = {0};
  MeasureOptions measure;
  measure.min_samples = 30;
  measure.max_seconds = 0.05;
  WeightStore store(1);
  GroupContext context{registry, machine, measure, store, "run", "launch", 1, [](const std::string&, int) {}};
  const auto world = make_self_communicator();
  return run_group(group, context, *world).records;
}

TEST(GroupRun, ADeviceThatFailsInMidRunIsAnErrorRowBesideSoundOnes) {
  for (const int64_t replays : {0, 1, 20}) {
    const std::vector<Record> rows = rows_of({{}, {.fails_after = replays}, {}});
    ASSERT_EQ(rows.size(), 3u);
    EXPECT_EQ(rows[0].text("status"), "ok");
    EXPECT_EQ(rows[2].text("status"), "ok");
    EXPECT_EQ(rows[1].text("status"), "error");
    EXPECT_THAT(rows[1].text("reason"), HasSubstr("illegal memory access"));
    // No time, of whatever had been measured until then.
    for (const char* key : {"latency_us_p50", "samples_us", "tokens_per_s", "gflops", "gflops_executed"})
      EXPECT_TRUE(std::holds_alternative<std::nullptr_t>(rows[1].get(key))) << key << ", " << replays;
    EXPECT_NEAR(rows[0].number("latency_us_p50"), 30, 1e-6);
  }
}

// A context that is lost fails whatever comes next: each row says so, and the run goes on to its end.
TEST(GroupRun, ALostContextIsAnErrorOfEveryRowAfterIt) {
  const std::vector<Record> rows =
      rows_of({{.fails_after = 3}, {.fails_after = 3}, {.fails_to_prepare = true}});
  ASSERT_EQ(rows.size(), 3u);
  for (const Record& row : rows) {
    EXPECT_EQ(row.text("status"), "error");
    EXPECT_THAT(row.text("reason"), HasSubstr("illegal memory access"));
  }
}

// What was estimated to fit and does not: that row's error, and the rest goes on. What cannot fit is skipped
// before anything is allocated.
TEST(GroupRun, AnAllocationThatFailsAllTheSameIsOneErrorRow) {
  Memory memory{.fails_at = 2};
  const Course fits{.memory = &memory, .needs = int64_t{1} << 30};
  const std::vector<Record> rows =
      rows_of({fits, fits, fits, {.memory = &memory, .needs = int64_t{5} << 30}});
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].text("status"), "ok");
  EXPECT_EQ(rows[1].text("status"), "error");
  EXPECT_THAT(rows[1].text("reason"), HasSubstr("allocating device memory: out of memory"));
  EXPECT_TRUE(std::holds_alternative<std::nullptr_t>(rows[1].get("latency_us_p50")));
  EXPECT_EQ(rows[2].text("status"), "ok");
  EXPECT_EQ(rows[3].text("status"), "skipped");
  EXPECT_THAT(rows[3].text("reason"), HasSubstr("5.0 GiB of device memory, 4.0 GiB are free"));
  EXPECT_EQ(memory.allocations, 3);
}

TEST(GroupRun, ThrottlingIsInTheRowsWarningsOnce) {
  const std::vector<Record> rows =
      rows_of({{.throttled = {"hardware thermal slowdown"}, .first_clock_above_mhz = 400},
               {.throttled = {kPowerCap}}});
  ASSERT_EQ(rows.size(), 2u);
  const auto warnings = [&](int row) {
    return std::get<std::vector<std::string>>(rows[row].get("warnings"));
  };
  const std::string said = "the GPU ran slower than it can: hardware thermal slowdown";
  EXPECT_EQ(std::ranges::count(warnings(0), said), 1);
  EXPECT_EQ(std::ranges::count(warnings(1), said), 0);
  EXPECT_EQ(rows[0].text("status"), "ok");
  EXPECT_EQ(rows[0].number("device_clock_mhz"), 1500);
  EXPECT_EQ(rows[0].number("device_clock_min_mhz"), 1500);
  EXPECT_EQ(rows[0].number("device_clock_max_mhz"), 1900);
  const auto reasons = [&](int row) {
    return std::get<std::vector<std::string>>(rows[row].get("throttle_reasons"));
  };
  EXPECT_THAT(reasons(0), testing::ElementsAre("hardware thermal slowdown"));
  // At the power cap matrix products run all the time: kept, and no warning.
  EXPECT_THAT(reasons(1), testing::ElementsAre(kPowerCap));
  EXPECT_THAT(warnings(1), testing::Not(testing::Contains(HasSubstr("slower than it can"))));
}

}  // namespace
}  // namespace lamina
