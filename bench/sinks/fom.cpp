// Figures of merit, one a line, for what reads a job's output by regular expressions, as ReFrame does:
//   FOM CASE KEY VALUE UNIT
// ReFrame prescribes no format; its performance functions take what a pattern captures from stdout:
// https://reframe-hpc.readthedocs.io/en/stable/deferrable_functions_reference.html (extractsingle,
// extractall). scripts/ci/reframe_lamina.py reads these lines.
#include <fmt/format.h>

#include <cmath>

#include "bench/sinks/trackers.hpp"
#include "bench/text.hpp"

namespace lamina {
namespace {

struct Figure {
  const char* key;
  const char* unit;
};
constexpr Figure kFigures[] = {{"latency_us_p50", "us"},    {"tokens_per_s", "tokens/s"},
                               {"weight_gb_per_s", "GB/s"}, {"limit_fraction", "1"},
                               {"quality_nmse", "1"},       {"svd_error", "1"}};

// A word: a space would move the fields behind it. As in URLs, so that names stay apart.
std::string word(const std::string& name) {
  std::string out;
  for (const char c : printable(name)) {
    if (c == ' ')
      out += "%20";
    else if (c == '%')
      out += "%25";
    else
      out += c;
  }
  return out;
}

std::string render(const std::vector<RunRows>& runs) {
  std::string out;
  for (const TrackedRow& row : tracked_rows(runs)) {
    for (const Figure& figure : kFigures) {
      const double value = tracked_number(*row.record, figure.key);
      if (std::isfinite(value))
        out += fmt::format("FOM {} {} {} {}\n", word(row.name), figure.key, value, figure.unit);
    }
  }
  return out;
}

}  // namespace

Sink fom_sink() {
  return {"fom", "figures of merit, `FOM CASE KEY VALUE UNIT` a line, for ReFrame and its like; ok rows only",
          render};
}

}  // namespace lamina
