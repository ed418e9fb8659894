#include <cmath>
#include <nlohmann/json.hpp>

#include "bench/compare/report.hpp"
#include "bench/runner.hpp"

namespace lamina::compare {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVerdictVersion = 1;

Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

const char* outcome(int exit_code) {
  switch (exit_code) {
    case kExitOk:
      return "ok";
    case kExitRegression:
      return "regression";
    case kExitMissing:
      return "missing";
    case kExitInconclusive:
      return "inconclusive";
    default:
      return "not comparable";
  }
}

}  // namespace

std::string json_report(const Comparison& comparison) {
  const Settings& settings = comparison.settings;
  Json root = {{"verdict_version", kVerdictVersion},
               {"verdict", outcome(comparison.exit_code())},
               {"exit_code", comparison.exit_code()},
               {"summary", headline(comparison)},
               {"base",
                {{"path", comparison.base_path},
                 {"launches", comparison.base_launches},
                 {"commit", comparison.base_commit}}},
               {"new",
                {{"path", comparison.new_path},
                 {"launches", comparison.new_launches},
                 {"commit", comparison.new_commit}}},
               {"paired", comparison.paired},
               {"settings",
                {{"alpha", settings.alpha},
                 {"alpha_share", settings.share},
                 {"floor", settings.floor},
                 {"limit", settings.limit},
                 {"quality_factor", settings.quality_factor},
                 {"across_machines", settings.across_machines},
                 {"times_only", settings.times_only}}},
               {"counts", Json::object()}};
  for (const Verdict verdict : {Verdict::ok, Verdict::slower, Verdict::faster, Verdict::inconclusive,
                                Verdict::missing, Verdict::invalid, Verdict::added, Verdict::skipped})
    root["counts"][name_of(verdict)] = comparison.count(verdict);
  Json differences = Json::array();
  for (const Difference& one : comparison.differences)
    differences.push_back({{"name", one.name}, {"base", one.base}, {"new", one.next}});
  root["differences"] = differences;
  root["notes"] = comparison.notes;
  Json rows = Json::array();
  for (const Row& row : comparison.rows)
    rows.push_back({{"case", row.name},
                    {"verdict", name_of(row.verdict)},
                    {"quality_verdict", name_of(row.quality)},
                    {"ratio", number(row.ratio)},
                    {"ratio_low", number(row.ratio_low)},
                    {"ratio_high", number(row.ratio_high)},
                    {"p_value", number(row.p_value)},
                    {"p_adjusted", number(row.p_adjusted)},
                    {"measure", row.by_cycles ? "cycles" : "time"},
                    {"could_have_seen", number(row.visible)},
                    {"base_launches", row.base_launches},
                    {"new_launches", row.new_launches},
                    {"base_us", number(row.base_us)},
                    {"new_us", number(row.new_us)},
                    {"base_cycles", number(row.base_cycles)},
                    {"new_cycles", number(row.new_cycles)},
                    {"base_quality", number(row.base_quality)},
                    {"new_quality", number(row.new_quality)},
                    {"reason", row.reason},
                    {"notes", row.notes}});
  root["rows"] = rows;
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace lamina::compare
