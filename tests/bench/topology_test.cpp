// Which CPUs belong together: of a made-up machine, by hwloc where it is built, and by hand.
#include "bench/topology.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "bench/environment.hpp"
#include "bench/node.hpp"

namespace lamina {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(Topology, ReadsAMadeUpMachine) {
  const Topology made = read_topology("pack:2 [numa(memory=1GB)] l3:2(size=32MB) core:2 pu:1");
  if (!made.absent.empty()) GTEST_SKIP() << made.absent;
  EXPECT_THAT(made.source, testing::StartsWith("hwloc "));
  ASSERT_EQ(made.sockets.size(), 2u);
  ASSERT_EQ(made.numa_nodes.size(), 2u);
  ASSERT_EQ(made.l3_caches.size(), 4u);
  EXPECT_THAT(made.sockets[1].cpus, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(made.numa_nodes[0].cpus, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(made.numa_nodes[1].id, 1);
  EXPECT_GT(made.numa_nodes[1].bytes, 900'000'000);
  EXPECT_THAT(made.l3_caches[3].cpus, ElementsAre(6, 7));
  EXPECT_GE(made.l3_caches[3].bytes, 32'000'000);
  EXPECT_EQ(made.sockets[0].bytes, 0);
}

TEST(Topology, RefusesWhatItCannotRead) {
  if (!read_topology().absent.empty()) GTEST_SKIP() << read_topology().absent;
  EXPECT_THROW(read_topology("pack:x"), std::runtime_error);
}

TEST(Topology, OfThisMachineHoldsThisProcess) {
  const Topology here = read_topology();
  if (!here.absent.empty()) {
    EXPECT_THAT(here.sockets, IsEmpty());
    return;
  }
  EXPECT_FALSE(domains_of(affinity(), here.numa_nodes).empty());
}

TEST(Topology, SaysWhichDomainsCpusBelongTo) {
  const std::vector<Domain> nodes = {{0, 0, {0, 1, 4, 5}}, {1, 0, {2, 3, 6, 7}}};
  EXPECT_THAT(domains_of({1, 4}, nodes), ElementsAre(0));
  EXPECT_THAT(domains_of({1, 6}, nodes), ElementsAre(0, 1));
  EXPECT_THAT(domains_of({9}, nodes), IsEmpty());
  EXPECT_FALSE(spans({1, 4}, nodes));
  EXPECT_TRUE(spans({1, 6}, nodes));
  EXPECT_FALSE(spans({1, 6}, {}));
  // Fast memory beside ordinary memory of the same CPUs: near either way.
  EXPECT_FALSE(spans({0, 1}, {{0, 0, {0, 1}}, {1, 0, {0, 1}}}));
}

TEST(Environment, SaysWhereRanksAreBound) {
  Machine machine;
  machine.topology = {
      "hwloc 2", "", {{0, 0, {0, 1, 2, 3}}}, {{0, 1 << 30, {0, 1}}, {1, 1 << 30, {2, 3}}}, {}};
  RankPlace& place = machine.places.emplace_back();
  place.host = "a";
  place.cpus = {1, 2};
  place.sockets = {0};
  place.numa_nodes = {0, 1};
  const auto world = make_self_communicator();
  Config config;
  config.text = "{}";
  const auto environment = nlohmann::json::parse(environment_text(
      config, machine, Registry{}, *world, "run", "launch", utc_now(), {"lamina"}, {}, {}, ""));
  const auto& topology = environment["machine"]["topology"];
  EXPECT_EQ(topology["sockets"], nlohmann::json::parse(R"([{"id": 0, "cpus": "0-3"}])"));
  EXPECT_EQ(topology["numa_nodes"][1],
            nlohmann::json::parse(R"({"id": 1, "bytes": 1073741824, "cpus": "2-3"})"));
  EXPECT_EQ(
      environment["launches"][0]["binding"],
      nlohmann::json::parse(R"([{"host": "a", "cpus": [1, 2], "sockets": [0], "numa_nodes": [0, 1]}])"));

  machine.topology = {};
  machine.topology.absent = "built without";
  const auto without = nlohmann::json::parse(environment_text(config, machine, Registry{}, *world, "run",
                                                              "launch", utc_now(), {"lamina"}, {}, {}, ""));
  EXPECT_EQ(without["machine"]["topology"], "built without");
}

TEST(Topology, ListsCpusAsRanges) {
  EXPECT_EQ(cpu_list({}), "");
  EXPECT_EQ(cpu_list({3}), "3");
  EXPECT_EQ(cpu_list({0, 1, 2, 8, 10, 11}), "0-2,8,10-11");
}

}  // namespace
}  // namespace lamina
