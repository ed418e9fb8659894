#include "bench/machine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "bench/node.hpp"

namespace lamina {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kMiB = 1 << 20, kGiB = 1 << 30;

// A made-up machine's files.
class NodeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "lamina-node-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root = pattern;
    write("/proc/meminfo", "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n");  // 8 GiB
  }
  void TearDown() override { fs::remove_all(root); }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root + path).parent_path());
    std::ofstream(root + path) << text;
  }
  std::string root;
};

TEST_F(NodeTest, WithoutControlGroupsTheKernelsEstimateHolds) {
  EXPECT_EQ(available_memory(root), 8 * kGiB);
  EXPECT_TRUE(std::isinf(cpu_quota(root)));
  write("/proc/self/cgroup", "0::/\n");
  EXPECT_EQ(available_memory(root), 8 * kGiB);
}

TEST_F(NodeTest, TheTightestLimitOfAnyGroupAboveHolds) {
  const std::string base = "/sys/fs/cgroup/", job = base + "slurm/job_1", step = job + "/step_0";
  write("/proc/self/cgroup", "0::/slurm/job_1/step_0\n");
  write(step + "/memory.max", "max\n");
  write(step + "/memory.current", "1073741824\n");
  EXPECT_EQ(available_memory(root), 8 * kGiB);
  write(job + "/memory.max", "4294967296\n");
  write(job + "/memory.current", "1073741824\n");
  EXPECT_EQ(available_memory(root), 3 * kGiB);
  // Page cache makes room; memory of other kinds does not.
  write(job + "/memory.stat", "anon 4096\ninactive_file 104857600\nactive_file 209715200\n");
  EXPECT_EQ(available_memory(root), 3 * kGiB + 300 * kMiB);
  write(base + "slurm/memory.high", "2147483648\n");
  EXPECT_EQ(available_memory(root), 2 * kGiB);
  write(step + "/memory.max", "1000\n");  // over its limit already
  EXPECT_EQ(available_memory(root), 0);
}

TEST_F(NodeTest, VersionOneIsReadWhereItIsMounted) {
  const std::string memory = "/sys/fs/cgroup/memory", cpu = "/sys/fs/cgroup/cpu,cpuacct";
  write("/proc/self/cgroup", "4:memory:/docker/1a\n3:cpu,cpuacct:/docker/1a\n1:name=systemd:/x\n0::/\n");
  // A container sees its own group as the mount's root: /docker/1a is not there.
  write(memory + "/memory.limit_in_bytes", "2147483648\n");
  write(memory + "/memory.usage_in_bytes", "1073741824\n");
  write(memory + "/memory.stat", "inactive_file 1\ntotal_inactive_file 1048576\ntotal_active_file 2097152\n");
  EXPECT_EQ(available_memory(root), kGiB + 3 * kMiB);
  write(cpu + "/cpu.cfs_quota_us", "-1\n");
  write(cpu + "/cpu.cfs_period_us", "100000\n");
  EXPECT_TRUE(std::isinf(cpu_quota(root)));
  write(cpu + "/cpu.cfs_quota_us", "250000\n");
  EXPECT_DOUBLE_EQ(cpu_quota(root), 2.5);
  write(cpu + "/docker/1a/cpu.cfs_quota_us", "150000\n");
  write(cpu + "/docker/1a/cpu.cfs_period_us", "100000\n");
  EXPECT_DOUBLE_EQ(cpu_quota(root), 1.5);
}

TEST_F(NodeTest, TheTightestQuotaOfAnyGroupAboveHolds) {
  write("/proc/self/cgroup", "0::/a/b\n");
  write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_TRUE(std::isinf(cpu_quota(root)));
  write("/sys/fs/cgroup/a/cpu.max", "200000 100000\n");
  EXPECT_DOUBLE_EQ(cpu_quota(root), 2);
}

TEST_F(NodeTest, TheProcessesOwnLimits) {
  EXPECT_EQ(process_memory_left(root), std::numeric_limits<int64_t>::max());
  write("/proc/self/status", "VmSize:\t 1048576 kB\nVmData:\t  524288 kB\n");
  const std::string files = "Max open files            1024                 1048576              files\n";
  write("/proc/self/limits",
        files + "Max address space         unlimited            unlimited            bytes\n");
  EXPECT_EQ(process_memory_left(root), std::numeric_limits<int64_t>::max());
  write("/proc/self/limits",
        files + "Max address space         4294967296           unlimited            bytes\n");
  EXPECT_EQ(process_memory_left(root), 3 * kGiB);
  write("/proc/self/limits",
        "Max data size             1073741824           unlimited            bytes\n" + files +
            "Max address space         4294967296           unlimited            bytes\n");
  EXPECT_EQ(process_memory_left(root), 512 * kMiB);
}

TEST_F(NodeTest, BusyTimeCountsWhatOthersStole) {
  EXPECT_EQ(busy_seconds(root), 0);
  //                         user nice system idle wait irq softirq steal guest: ticks
  write("/proc/stat", "cpu  1000 200 300 90000 7000 10 20 500 900 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n");
  EXPECT_DOUBLE_EQ(busy_seconds(root), 2030.0 / static_cast<double>(sysconf(_SC_CLK_TCK)));
}

TEST_F(NodeTest, TheClock) {
  EXPECT_EQ(clock_governor(3, root), "");
  EXPECT_EQ(turbo(root), "");
  const std::string base = "/sys/devices/system/cpu/";
  write(base + "cpu3/cpufreq/scaling_governor", "powersave\n");
  write(base + "cpufreq/boost", "1\n");
  EXPECT_EQ(clock_governor(3, root), "powersave");
  EXPECT_EQ(turbo(root), "on");
  write(base + "intel_pstate/no_turbo", "1\n");
  EXPECT_EQ(turbo(root), "off");
}

TEST_F(NodeTest, HardwareThreadsOfOneCoreAreOneCore) {
  for (const auto& [cpu, siblings] : {std::pair{0, "0,4\n"}, {4, "0,4\n"}, {1, "1-2\n"}, {2, "1-2\n"}})
    write("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list", siblings);
  EXPECT_THAT(cores_of({0, 1, 2, 4}, root), ElementsAre(0, 1));
  EXPECT_THAT(cores_of({2, 4}, root), ElementsAre(0, 1));
  EXPECT_THAT(cores_of({7, 9}, root), ElementsAre(7, 9));  // without topology
}

RankPlace place(const std::string& host, std::vector<int> cpus, double quota = 0,
                int64_t node_bytes = 8 * kGiB, int64_t process_bytes = 1000 * kGiB) {
  return {host, cpus, cpus, quota, node_bytes, process_bytes, "", ""};
}

Machine machine_of(std::vector<RankPlace> places) {
  Machine machine;
  machine.places = std::move(places);
  return machine;
}

TEST(Machine, AGroupOfFewerRanksMayTakeTheirShareOfTheNode) {
  const Machine machine = machine_of({place("a", {0}), place("a", {1}), place("a", {2}), place("b", {0})});
  EXPECT_EQ(machine.available_bytes_for(1), 8 * kGiB);
  EXPECT_EQ(machine.available_bytes_for(2), 4 * kGiB);
  EXPECT_EQ(machine.available_bytes_for(4), 8 * kGiB / 3);
  EXPECT_EQ(machine.available_bytes_for(64), 8 * kGiB / 3);  // skipped later: more than the launch has
}

TEST(Machine, ThePoorestNodeAndProcessCount) {
  EXPECT_EQ(machine_of({place("a", {0}), place("b", {0}, 0, kGiB)}).available_bytes_for(2), kGiB);
  EXPECT_EQ(machine_of({place("a", {0}), place("a", {1}, 0, 8 * kGiB, kMiB)}).available_bytes_for(2), kMiB);
}

TEST(Machine, WarnsOfTheGroupsOwnRanksAndThreads) {
  const Machine bound = machine_of({place("a", {0}), place("a", {1}), place("a", {1}), place("b", {0})});
  EXPECT_THAT(bound.warnings_for(1, 1), IsEmpty());
  EXPECT_THAT(bound.warnings_for(2, 1), IsEmpty());
  EXPECT_THAT(bound.warnings_for(1, 2), ElementsAre("oversubscribed: 2 threads on 1 core"));
  EXPECT_THAT(bound.warnings_for(3, 1),
              ElementsAre("oversubscribed: 3 threads on 2 cores", "2 ranks share core 1"));
  EXPECT_EQ(bound.warnings_for(64, 1), bound.warnings_for(4, 1));
}

TEST(Machine, WarnsOfUnboundRanksOnlyWhereThereAreSeveral) {
  const Machine unbound = machine_of({place("a", {0, 1, 2, 3}), place("a", {0, 1, 2, 3})});
  EXPECT_THAT(unbound.warnings_for(1, 1), IsEmpty());
  EXPECT_THAT(unbound.warnings_for(2, 1), ElementsAre(HasSubstr("unbound ranks")));
}

TEST(Machine, WarnsOfUnboundRanksWhoseThreadsOpenMpBinds) {
  RankPlace free = place("a", {0, 1, 2, 3}), alone = place("a", {0, 1}), elsewhere = place("b", {0, 1, 2, 3});
  for (RankPlace* one : {&free, &alone, &elsewhere}) one->openmp_binds = true;
  EXPECT_THAT(machine_of({free, free}).warnings_for(2, 2), ElementsAre(HasSubstr("OMP_PROC_BIND=false")));
  EXPECT_THAT(machine_of({free, free}).warnings_for(1, 2), IsEmpty());
  EXPECT_THAT(machine_of({free, elsewhere}).warnings_for(2, 2),
              ElementsAre(HasSubstr("the system may move")));
  EXPECT_THAT(machine_of({alone, place("a", {2, 3})}).warnings_for(2, 2),
              IsEmpty());  // bound by the launcher too
}

TEST(Machine, WarnsOfThreadsAcrossNumaNodes) {
  RankPlace across = place("a", {0, 1});
  across.numa_nodes = {0, 1};
  across.spans_numa = true;
  const Machine machine = machine_of({place("a", {2, 3}), across});
  EXPECT_THAT(machine.warnings_for(1, 2), IsEmpty());  // the other rank is at rest
  EXPECT_THAT(machine.warnings_for(2, 2), ElementsAre(HasSubstr("NUMA nodes 0-1")));
  for (const std::string& one : machine.warnings_for(2, 1)) EXPECT_THAT(one, Not(HasSubstr("NUMA")));
}

TEST(Machine, WarnsOfMoreThreadsThanTheQuota) {
  const Machine machine = machine_of({place("a", {0, 1, 2, 3}, 2.5)});
  EXPECT_THAT(machine.warnings_for(1, 2), IsEmpty());
  EXPECT_THAT(machine.warnings_for(1, 4), ElementsAre("oversubscribed: 4 threads on a CPU quota of 2.5"));
}

TEST(FairThreads, AreBoundByAffinityQuotaAndWhatRanksShare) {
  const std::vector<int> four = {0, 1, 2, 3};
  EXPECT_EQ(fair_threads({place("a", four)}), 4);
  EXPECT_EQ(fair_threads({place("a", four, 2)}), 2);    // a container of 2 CPUs on a larger node
  EXPECT_EQ(fair_threads({place("a", four, 0.5)}), 1);  // never none
  EXPECT_EQ(fair_threads({place("a", four), place("a", four)}),
            2);  // four CPUs of a larger node for two ranks
  EXPECT_EQ(fair_threads({place("a", four, 3), place("a", four, 3)}), 1);
  EXPECT_EQ(fair_threads({place("a", {0, 1}), place("a", {2})}), 1);  // the same on all ranks
  EXPECT_EQ(fair_threads({place("a", four), place("b", four)}), 4);
}

TEST(BusyWarning, SaysWhatItFound) {
  EXPECT_EQ(busy_warning(0.2, 2), "");
  EXPECT_EQ(busy_warning(1.31, 2), "busy machine: other processes kept 1.3 of 2 cores busy before the run");
  EXPECT_EQ(busy_warning(2, 64), "");
}

TEST(InspectMachine, FindsThisMachine) {
  auto world = make_self_communicator();
  const Machine machine = inspect_machine(*world, 1, "cold");
  ASSERT_EQ(machine.places.size(), 1u);
  EXPECT_EQ(machine.places[0].cpus, affinity());
  EXPECT_GT(machine.available_bytes_for(1), kMiB);
  EXPECT_GE(machine.launch.default_threads, 1);
  // On a machine of several NUMA nodes an unbound process spans them.
  for (const std::string& one : machine.warnings_for(1, machine.launch.default_threads))
    EXPECT_THAT(one, HasSubstr("NUMA"));
  EXPECT_LE(busy_warnings(machine, *world).size(), 1u);
}

}  // namespace
}  // namespace lamina
