// What becomes of cases whose device fails, or is slowed, while they are timed: with a device that is made
// up.
#include "bench/group_run.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "distributed/communicator.hpp"

namespace lamina {
namespace {

using testing::HasSubstr;

// What a made-up case's device does.
struct Course {
  int64_t fails_after = std::numeric_limits<int64_t>::max();  // replays
  std::string failure = "cuda: waiting for timed work: an illegal memory access";
  bool fails_to_prepare = false;
  std::vector<std::string> throttled = {};
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
  DeviceState device_state() override { return {1500, course_.throttled}; }
  CheckResult check() override { return {}; }
  std::string failure(const CheckResult&) const override { return ""; }
  void describe(Record& record) override {
    record.set("weight_bytes", int64_t{1000});
    record.set("gflops_executed", 1.0);
  }

 private:
  const Course& course_;
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
  }
  std::unique_ptr<PreparedCase> prepare(WeightStore&, const Registry&, Communicator&) const override {
    if (course.fails_to_prepare) throw DeviceError(course.failure);
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

TEST(GroupRun, ThrottlingIsInTheRowsWarningsOnce) {
  const std::vector<Record> rows = rows_of({{.throttled = {"hardware thermal slowdown"}}, {}});
  ASSERT_EQ(rows.size(), 2u);
  const auto warnings = [&](int row) {
    return std::get<std::vector<std::string>>(rows[row].get("warnings"));
  };
  const std::string said = "the GPU ran slower than it can: hardware thermal slowdown";
  EXPECT_EQ(std::ranges::count(warnings(0), said), 1);
  EXPECT_EQ(std::ranges::count(warnings(1), said), 0);
  EXPECT_EQ(rows[0].text("status"), "ok");
  EXPECT_EQ(rows[0].number("device_clock_mhz"), 1500);
}

}  // namespace
}  // namespace lamina
