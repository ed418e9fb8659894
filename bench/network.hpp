// What a network costs: a latency and a bandwidth, fitted to a run's own collectives (Hockney 1994, "The
// communication challenge for MPP").
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/record.hpp"

namespace lamina {

// A message of n bytes takes alpha_us + n / beta.
struct NetworkLine {
  std::string collective, communicator, device, dtype;
  bool in_place = false, graph = false;  // graph: a GPU's calls were captured
  int64_t ranks = 1;
  double alpha_us = 0;
  double beta_gb_per_s = 0;
  int64_t points = 0;  // times it was fitted to
};

// The line through (bytes, µs) with the least sum of squared relative errors, so that short messages count as
// much as long ones; neither part is negative. None with fewer than two different sizes.
std::optional<std::pair<double, double>> fit_line(const std::vector<std::pair<double, double>>& points);

// One line for each collective, communicator, device, data type, place, way of calling and number of ranks
// among the `ok` rows of plain collectives, whose limit_kind and limit_fraction it sets: the line's time over
// the row's, above 1 where a row beats it.
std::vector<NetworkLine> fit_networks(std::vector<Record>& records);

// Sets payload_wins_from_bytes of `ok` rows of compressed all-reduces: the least of their sizes from which on
// each is faster than the plain row beside it, alike but for the payload. Null where the largest is not.
void find_payload_wins(std::vector<Record>& records);

}  // namespace lamina
