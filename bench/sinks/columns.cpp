#include "bench/sinks/columns.hpp"

#include <fmt/format.h>

#include <cmath>

#include "bench/text.hpp"

namespace lamina {

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : printable(text)) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string count(const Record& record, const char* key) {
  const double value = record.number(key);
  return std::isfinite(value) ? fmt::format("{:.0f}", value) : "";
}

namespace {

std::string number(const Record& record, const char* key, int digits, double scale = 1) {
  const double value = record.number(key);
  return std::isfinite(value) ? significant(value * scale, digits) : "";
}

std::string with_unit(std::string text, const char* unit) {
  return text.empty() ? text : text + unit;
}

std::string size_of_launch(const Record& record) {
  const std::string ranks = count(record, "ranks"), threads = count(record, "threads");
  return ranks.empty() || threads.empty() ? ranks + threads : ranks + "×" + threads;
}

// The median in units of `scale` microseconds, and its interval with as many decimals.
std::string latency(const Record& record, double scale) {
  const double p50 = record.number("latency_us_p50") / scale;
  if (!std::isfinite(p50)) return "";
  const std::string text = significant(p50, 4);
  const double low = record.number("latency_us_ci_low") / scale,
               high = record.number("latency_us_ci_high") / scale;
  if (!std::isfinite(low) || !std::isfinite(high)) return text;
  const size_t point = text.find('.');
  const size_t decimals = point == std::string::npos ? 0 : text.size() - point - 1;
  return fmt::format("{} [{:.{}f}, {:.{}f}]", text, low, decimals, high, decimals);
}

std::string limit(const Record& record) {
  const double fraction = record.number("limit_fraction");
  const std::string kind = escaped(record.text("limit_kind"));
  return std::isfinite(fraction) ? fmt::format("{:.0f} % {}", 100 * fraction, kind) : "";
}

// How much of its tolerance the worst element used.
std::string check(const Record& record) {
  const auto* passed = std::get_if<bool>(&record.get("check_passed"));
  if (passed == nullptr) return "";
  const double error = record.number("check_error"), tolerance = record.number("check_tolerance");
  const std::string verdict = *passed ? "ok" : "FAILED";
  if (error == 0) return verdict + " 0";
  const double ratio = error / tolerance;
  return std::isfinite(ratio) ? fmt::format("{} {:.2g}", verdict, ratio) : verdict;
}

std::string outcome(const Record& record) {
  const std::string status = record.text("status"), reason = record.text("reason");
  if (status == "ok") return "";
  return escaped(reason.empty() ? status : status + ": " + reason);
}

Column text_column(std::string header, const char* key) {
  return {std::move(header), false, [key](const Row& row) { return escaped(row.record->text(key)); }};
}

Column number_column(std::string header, const char* key, int digits, double scale = 1) {
  return {std::move(header), true, [=](const Row& row) { return number(*row.record, key, digits, scale); }};
}

// What communication adds; nothing where there is none.
std::string exposed(const Row& row) {
  return row.record->number("comm_bytes") > 0 ? number(*row.record, "comm_exposed_us_p50", 3, 1) : "";
}

// Forwards until compression is paid for.
std::string pays_after(const Row& row) {
  const Record& record = *row.record;
  if (!record.text("scheme").starts_with("lowrank") || !std::isfinite(record.number("speedup_vs_dense")))
    return "";
  const double forwards = record.number("break_even_forwards");
  return std::isfinite(forwards) ? significant(std::ceil(forwards), 3) : "never";
}

// What was asked for and, where that is not a rank, what came of it.
std::string rank_asked(const Row& row) {
  const std::string rule = row.record->text("svd_rule"), rank = count(*row.record, "svd_rank");
  if (rule.starts_with("rank ")) return rule.substr(5);
  return escaped(rule) + (rank.empty() ? "" : ": " + rank);
}

// A phase's share of all of them.
std::string phase(const Record& record, const char* key) {
  double sum = 0;
  for (const char* one : {"svd_multiply_s", "svd_communicate_s", "svd_eigensolve_s", "svd_orthogonalize_s"})
    sum += record.number(one);
  const double share = record.number(key) / sum;
  return std::isfinite(share) ? fmt::format("{:.0f} %", 100 * share) : "";
}

Column phase_column(std::string header, const char* key) {
  return {std::move(header), true, [key](const Row& row) { return phase(*row.record, key); }};
}

Column times_column(std::string header, const char* key) {
  return {std::move(header), true,
          [key](const Row& row) { return with_unit(number(*row.record, key, 3), "×"); }};
}

Column error_column(std::string header, const char* key) {
  return {std::move(header), true, [key](const Row& row) {
            const double error = row.record->number(key);
            return std::isfinite(error) ? fmt::format("{:.5g}", error) : "";
          }};
}

// How far the error is above the least that any factors of this rank have.
std::string above_optimal(const Row& row) {
  const double ratio = row.record->number("svd_error") / row.record->number("svd_optimal_error");
  return std::isfinite(ratio) ? fmt::format("{:.5f}×", ratio) : "";
}

// Words of the method that are not in its name.
std::string method_asked(const Row& row) {
  const Record& record = *row.record;
  std::string text = record.text("svd_method");
  if (const std::string solver = record.text("svd_eigensolver"); !solver.empty() && solver != "auto")
    text += " " + solver;
  if (const std::string sketch = count(record, "svd_oversampling"); !sketch.empty())
    text += " +" + sketch + " q" + count(record, "svd_power_iterations");
  if (const std::string grid = record.text("svd_grid"); !grid.empty())
    text += " " + grid + " b" + count(record, "svd_block");
  return escaped(text);
}

// Held-out tokens that the NMSE is of, where another count than the usual one was asked for.
std::string quality_tokens(const Row& row) {
  return row.record->integer("quality_tokens") == kQualityTokens ? "" : count(*row.record, "quality_tokens");
}

// What a compressed all_reduce sends: "int8 b128", with "ef" for error feedback.
std::string payload(const Row& row) {
  const Record& record = *row.record;
  if (record.text("payload").empty()) return "";
  return escaped(record.text("payload")) + " b" + count(record, "payload_block") +
         (record.flag("error_feedback") ? " ef" : "");
}

std::string shard(const Row& row) {
  return escaped(shard_of(*row.record));
}

// "in" or "out of" place, and whether a GPU's calls went without a graph.
std::string place(const Row& row) {
  const auto* graph = std::get_if<bool>(&row.record->get("graph"));
  return std::string(row.record->flag("in_place") ? "in" : "out") +
         (graph != nullptr && !*graph ? ", no graph" : "");
}

}  // namespace

std::string shard_of(const Record& record) {
  const double chunks = record.number("overlap");
  return record.text("shard") + (record.text("sum_dtype") == "bf16" ? " bf16" : "") +
         (chunks > 1 ? fmt::format(" o{:.0f}", chunks) : "");
}

const std::vector<Column>& forward_columns() {
  static const std::vector<Column> list = {
      {"run", false, [](const Row& row) { return escaped(row.run->name); }},
      {"machine", false, [](const Row& row) { return escaped(row.run->machine); }},
      text_column("device", "device"),
      text_column("cache", "cache"),
      text_column(kCommunicator, "communicator"),
      text_column("weights", "weights_source"),
      text_column("scheme", "scheme"),
      {"shard", false, shard},
      {"ranks×threads", true, [](const Row& row) { return size_of_launch(*row.record); }},
      text_column("kernel", "kernel"),
      {"p50 µs [95 % CI]", true, [](const Row& row) { return latency(*row.record, 1); }},
      number_column("tokens/s", "tokens_per_s", 4),
      number_column("weight GB/s", "weight_gb_per_s", 3),
      {"speedup", true,
       [](const Row& row) { return with_unit(number(*row.record, "speedup_vs_dense", 3), "×"); }},
      {"limit", true, [](const Row& row) { return limit(*row.record); }},
      number_column("weight MB", "weight_bytes", 3, 1e-6),
      number_column(kCommunication, "comm_bytes", 3, 1e-3),
      {"exposed µs", true, exposed},
      {"NMSE over tokens", true, quality_tokens},
      {"NMSE", true,
       [](const Row& row) {
         const double nmse = row.record->number("quality_nmse");
         return !std::isfinite(nmse) ? "" : nmse == 0 ? "0" : fmt::format("{:.1e}", nmse);
       }},
      {"check", true, [](const Row& row) { return check(*row.record); }},
      {"pays after", true, pays_after},
      number_column("busbw GB/s", "busbw_gb_per_s", 3),
      {"notes", true, [](const Row& row) { return row.notes; }},
      {"not ok", false, [](const Row& row) { return outcome(*row.record); }},
  };
  return list;
}

const std::vector<Column>& collective_columns() {
  static const std::vector<Column> list = {
      {"run", false, [](const Row& row) { return escaped(row.run->name); }},
      {"machine", false, [](const Row& row) { return escaped(row.run->machine); }},
      text_column("device", "device"),
      {"bytes", true, [](const Row& row) { return count(*row.record, "message_bytes"); }},
      text_column(kCommunicator, "communicator"),
      {"payload", false, payload},
      {"wins from bytes", true, [](const Row& row) { return count(*row.record, "payload_wins_from_bytes"); }},
      {"place", false, place},
      {"threads", true, [](const Row& row) { return count(*row.record, "threads"); }},
      {"p50 µs [95 % CI]", true, [](const Row& row) { return latency(*row.record, 1); }},
      number_column("p99 µs", "latency_us_p99", 4),
      number_column("rank mean µs", "latency_us_rank_mean", 4),
      number_column("algbw GB/s", "algbw_gb_per_s", 3),
      number_column("busbw GB/s", "busbw_gb_per_s", 3),
      {"limit", true, [](const Row& row) { return limit(*row.record); }},
      {"NMSE over tokens", true, quality_tokens},
      {"NMSE", true,
       [](const Row& row) {
         const double nmse = row.record->number("quality_nmse");
         return !std::isfinite(nmse) ? "" : nmse == 0 ? "0" : fmt::format("{:.1e}", nmse);
       }},
      {"check", true, [](const Row& row) { return check(*row.record); }},
      {"notes", true, [](const Row& row) { return row.notes; }},
      {"not ok", false, [](const Row& row) { return outcome(*row.record); }},
  };
  return list;
}

const std::vector<Column>& svd_columns() {
  static const std::vector<Column> list = {
      {"run", false, [](const Row& row) { return escaped(row.run->name); }},
      {"machine", false, [](const Row& row) { return escaped(row.run->machine); }},
      text_column("device", "device"),
      text_column(kCommunicator, "communicator"),
      text_column("weights", "weights_source"),
      number_column("spectrum decay", "spectrum_decay", 1),
      text_column("layout", "svd_layout"),
      {"method", false, method_asked},
      {"rank", true, rank_asked},
      {"ranks×threads", true, [](const Row& row) { return size_of_launch(*row.record); }},
      {"p50 s [95 % CI]", true, [](const Row& row) { return latency(*row.record, 1e6); }},
      phase_column("multiply", "svd_multiply_s"),
      phase_column("comm", "svd_communicate_s"),
      phase_column("eigen", "svd_eigensolve_s"),
      phase_column("orth", "svd_orthogonalize_s"),
      times_column("vs lapack", "speedup_vs_lapack"),
      times_column("vs scalapack", "speedup_vs_scalapack"),
      {"efficiency", true,
       [](const Row& row) {
         const double share = row.record->number("scaling_efficiency");
         return std::isfinite(share) ? fmt::format("{:.0f} %", 100 * share) : "";
       }},
      error_column("error", "svd_error"),
      error_column("bound", "svd_error_bound"),
      {"of optimal", true, above_optimal},
      number_column("MB/rank", "svd_peak_bytes", 3, 1e-6),
      {"notes", true, [](const Row& row) { return row.notes; }},
      {"not ok", false, [](const Row& row) { return outcome(*row.record); }},
  };
  return list;
}

}  // namespace lamina
