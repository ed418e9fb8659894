#include "bench/peer_rows.hpp"

#include <cmath>
#include <string>

namespace lamina {
namespace {

// Of svd/MATRIX…/RULE/METHOD/LAYOUT/SCALING/pRANKStTHREADS, with -COMMUNICATOR between GPUs: what names the
// matrix.
std::string matrix_of(const Record& record) {
  std::string name = record.text("case");
  for (int part = 0; part < 5; ++part) {
    const size_t slash = name.rfind('/');
    if (slash == std::string::npos) return "";
    name.resize(slash);
  }
  return name;
}

// The same case on one rank.
std::string alone(const Record& record) {
  const std::string name = record.text("case");
  const size_t ranks = name.rfind("/p"), threads = ranks == std::string::npos ? ranks : name.find('t', ranks);
  if (threads == std::string::npos) return "";
  return name.substr(0, ranks) + "/p1" + name.substr(threads, name.find('-', threads) - threads);
}

bool comparable(const Record& one, const Record& other) {
  return other.text("status") == "ok" && one.text("launch_id") == other.text("launch_id");
}

bool same_matrix(const Record& one, const Record& other) {
  return one.integer("in_features") == other.integer("in_features") &&
         one.integer("out_features") == other.integer("out_features") && matrix_of(one) == matrix_of(other);
}

// The least time of a peer's rows that compare with this one; NaN where there is none.
double fastest_peer_us(const Record& record, const std::vector<Record>& records, const std::string& method,
                       bool as_many_ranks) {
  double fastest = std::nan("");
  for (const Record& other : records) {
    if (other.text("svd_method") != method || !comparable(record, other) || !same_matrix(record, other))
      continue;
    if (as_many_ranks && other.integer("ranks") != record.integer("ranks")) continue;
    fastest = std::fmin(fastest, other.number("latency_us_p50"));
  }
  return fastest;
}

}  // namespace

void compare_rows(std::vector<Record>& records) {
  for (Record& record : records) {
    if (record.text("workload") != "svd" || record.text("status") != "ok") continue;
    const double us = record.number("latency_us_p50");
    record.set("speedup_vs_lapack", fastest_peer_us(record, records, "lapack", false) / us);
    record.set("speedup_vs_scalapack", fastest_peer_us(record, records, "scalapack", true) / us);
    if (record.text("svd_method") == "lapack") continue;  // knows no ranks
    const std::string one_rank = alone(record);
    for (const Record& other : records) {
      if (other.text("case") != one_rank || !comparable(record, other)) continue;
      const double share =
          record.text("svd_scaling") == "weak" ? 1 : 1 / static_cast<double>(record.integer("ranks"));
      record.set("scaling_efficiency", other.number("latency_us_p50") / us * share);
    }
  }
}

}  // namespace lamina
