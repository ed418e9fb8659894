#include "bench/compare/selftest.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>

#include "bench/atomic_file.hpp"
#include "bench/export.hpp"
#include "bench/runner.hpp"
#include "bench/sampler.hpp"
#include "bench/text.hpp"

namespace lamina::compare {
namespace {

constexpr int64_t kGates = 400;
constexpr double kWanted = 0.05, kFound = 0.95, kFalse = 0.01;

// The launches of some pairs, given in the order of recording, so that they still count as interleaved.
struct Gate {
  Side base, next;
};

Gate gate_of(const Side& base, const Side& next, const std::vector<size_t>& pairs,
             const std::vector<bool>& swapped) {
  Gate gate{{base.path, {}}, {next.path, {}}};
  for (const size_t pair : pairs) {
    const Launch &one = base.launches[pair], &other = next.launches[pair];
    gate.base.launches.push_back(swapped[pair] ? other : one);
    gate.next.launches.push_back(swapped[pair] ? one : other);
  }
  return gate;
}

// Which rows are called, and how; throws where they cannot be compared.
std::vector<Row> judged(const Gate& gate, const Settings& settings) {
  Comparison comparison = compare(gate.base, gate.next, settings);
  if (!comparison.refusals.empty()) throw std::runtime_error(comparison.refusals.front());
  return std::move(comparison.rows);
}

int64_t called_in(const std::vector<Row>& rows) {
  return std::count_if(rows.begin(), rows.end(), [](const Row& row) {
    return row.verdict == Verdict::slower || row.verdict == Verdict::faster;
  });
}

void slow_down(Side& side, const std::string& name, double factor) {
  for (Launch& launch : side.launches) launch.rows.at(name).time_us *= factor;
}

double time_of(const Launch& launch, const std::string& name) {
  const auto found = launch.rows.find(name);
  return found == launch.rows.end() ? 0 : found->second.time_us;
}

// The rows that a build with LAMINA_INJECT_SLOWDOWN slows down, its native kernels', with a time in every
// launch.
std::vector<std::string> slowed_rows(const Side& base, const Side& slow) {
  const auto timed = [](const Side& side, const std::string& name) {
    return std::all_of(side.launches.begin(), side.launches.end(),
                       [&](const Launch& launch) { return time_of(launch, name) > 0; });
  };
  std::vector<std::string> names;
  if (slow.launches.empty()) return names;
  for (const auto& [name, row] : slow.launches.front().rows)
    if (row.kernel.starts_with("native") && timed(base, name) && timed(slow, name)) names.push_back(name);
  return names;
}

// Puts the slower build's launch of one row in the place of NEW's, pair by pair.
void take_row(Side& side, const Side& slow, const std::vector<size_t>& pairs, const std::string& name) {
  for (size_t i = 0; i < pairs.size(); ++i)
    side.launches[i].rows.at(name) = slow.launches[pairs[i]].rows.at(name);
}

bool found_slower(const Gate& gate, const Settings& settings, const std::string& name) {
  for (const Row& row : judged(gate, settings))
    if (row.name == name) return row.verdict == Verdict::slower;
  return false;
}

// Gates whose pairs no other has.
void judge_apart(const Side& base, const Side& next, const Side* slow, const std::vector<std::string>& slowed,
                 const Settings& settings, Rate& rate) {
  const size_t size = static_cast<size_t>(rate.pairs);
  const std::vector<bool> as_recorded(base.launches.size(), false);
  for (size_t begin = 0; begin + size <= base.launches.size(); begin += size) {
    std::vector<size_t> pairs(size);
    std::iota(pairs.begin(), pairs.end(), begin);
    const Gate gate = gate_of(base, next, pairs, as_recorded);
    const std::vector<Row> rows = judged(gate, settings);
    const int64_t called = called_in(rows);
    ++rate.apart_gates;
    rate.apart_rows += static_cast<int64_t>(rows.size());
    rate.apart_false_rows += called;
    rate.apart_false_gates += called > 0;
    for (const std::string& name : slowed) {
      Gate slower = gate;
      take_row(slower.next, *slow, pairs, name);
      ++rate.slow_apart;
      rate.slow_apart_found += found_slower(slower, settings, name);
    }
  }
}

void judge_drawn(const Side& base, const Side& next, const Side* slow, const std::vector<std::string>& names,
                 const std::vector<std::string>& slow_rows, const Settings& settings, Rate& rate) {
  std::mt19937_64 random(1);
  std::vector<size_t> order(base.launches.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<bool> swapped(order.size());
  std::vector<int64_t> found(kInjected.size());
  for (; rate.gates < kGates; ++rate.gates) {
    // Fisher and Yates' shuffle: std::shuffle differs between libraries.
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
    for (size_t i = 0; i < swapped.size(); ++i) swapped[i] = random() >> 63 != 0;
    std::vector<size_t> pairs(order.begin(), order.begin() + rate.pairs);
    std::sort(pairs.begin(), pairs.end());
    const Gate gate = gate_of(base, next, pairs, swapped);
    const std::vector<Row> rows = judged(gate, settings);
    const int64_t called = called_in(rows);
    rate.rows += static_cast<int64_t>(rows.size());
    rate.false_rows += called;
    rate.false_gates += called > 0;
    // One row is slower, the others are as they were: the harder case for Holm's correction.
    const std::string& name = names[random() % names.size()];
    for (size_t i = 0; i < kInjected.size(); ++i) {
      Gate slowed = gate;
      slow_down(slowed.next, name, 1 + kInjected[i]);
      const bool called_slower = found_slower(slowed, settings, name);
      found[i] += called_slower;
      if (kInjected[i] != kWanted) continue;
      auto& [tried, seen] = rate.rows_at_5[name];
      ++tried;
      seen += called_slower;
    }
    if (slow_rows.empty()) continue;
    const std::string& slow_name = slow_rows[random() % slow_rows.size()];
    Gate slower = gate;
    take_row(slower.next, *slow, pairs, slow_name);
    ++rate.slow_gates;
    rate.slow_found += found_slower(slower, settings, slow_name);
  }
  for (const int64_t count : found)
    rate.found.push_back(static_cast<double>(count) / static_cast<double>(rate.gates));
}

double percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100 * static_cast<double>(part) / static_cast<double>(whole) : 0;
}

}  // namespace

std::vector<Rate> rates_of(const Side& base, const Side& next, const Settings& settings, const Side* slow) {
  const int64_t launches = static_cast<int64_t>(base.launches.size());
  std::vector<std::string> names;
  for (const Row& row : judged({base, next}, settings))
    if (row.base_launches == launches && row.new_launches == launches) names.push_back(row.name);
  if (names.empty()) throw std::runtime_error("no row has a time in every launch: there is nothing to try");
  const std::vector<std::string> slowed =
      slow == nullptr ? std::vector<std::string>{} : slowed_rows(base, *slow);
  std::vector<Rate> rates;
  for (const int64_t pairs : {3, 5, 7, 10, 15, 20, 30}) {
    if (pairs > launches) break;
    Rate rate;
    rate.pairs = pairs;
    judge_apart(base, next, slow, slowed, settings, rate);
    // Drawing nearly all pairs time and again is one gate, not many.
    if (2 * pairs <= launches) judge_drawn(base, next, slow, names, slowed, settings, rate);
    rates.push_back(rate);
  }
  return rates;
}

int64_t enough_pairs(const std::vector<Rate>& rates) {
  const auto wanted = std::find(kInjected.begin(), kInjected.end(), kWanted) - kInjected.begin();
  for (const Rate& rate : rates)
    if (!rate.found.empty() && rate.found[static_cast<size_t>(wanted)] >= kFound &&
        percent(rate.false_rows, rate.rows) <= 100 * kFalse)
      return rate.pairs;
  return 0;
}

std::vector<double> slowdowns(const Side& base, const Side& slow) {
  std::vector<double> ratios;
  for (const std::string& name : slowed_rows(base, slow)) {
    double logs = 0;
    for (size_t i = 0; i < base.launches.size(); ++i)
      logs += std::log(time_of(slow.launches[i], name) / time_of(base.launches[i], name));
    ratios.push_back(std::exp(logs / static_cast<double>(base.launches.size())));
  }
  return ratios;
}

std::string selftest_text(const std::vector<Rate>& rates, int64_t launches, const Settings& settings,
                          std::vector<double> slower) {
  std::string text = fmt::format(
      "One build against itself, {} interleaved pairs of launches; alpha {:.2g}, floor {:.2g} %.\n\n"
      "False alarms in gates without a pair in common, as recorded:\n\n"
      "| pairs | gates | with an alarm | rows | called "
      "|\n|------:|------:|--------------:|-----:|-------:|\n",
      launches, settings.alpha, 100 * settings.floor);
  for (const Rate& rate : rates)
    text += fmt::format("| {:>5} | {:>5} | {:>13} | {:>4} | {:>6} |\n", rate.pairs, rate.apart_gates,
                        rate.apart_false_gates, rate.apart_rows, rate.apart_false_rows);
  text += fmt::format(
      "\nGates of pairs drawn from these ({} each; they share pairs, so they are no new evidence), and how "
      "many "
      "find\none row whose recorded times were multiplied:\n\n| pairs | false gates | false rows |",
      kGates);
  for (const double slowdown : kInjected)
    text += fmt::format(" {:>5} |", fmt::format("+{:.0f} %", 100 * slowdown));
  text += "\n|------:|------------:|-----------:|------:|------:|------:|------:|------:|\n";
  for (const Rate& rate : rates) {
    if (rate.found.empty()) continue;
    text += fmt::format("| {:>5} | {:>9.2f} % | {:>8.2f} % |", rate.pairs,
                        percent(rate.false_gates, rate.gates), percent(rate.false_rows, rate.rows));
    for (const double found : rate.found) text += fmt::format(" {:>3.0f} % |", 100 * found);
    text += "\n";
  }
  const auto largest =
      std::find_if(rates.rbegin(), rates.rend(), [](const Rate& rate) { return rate.gates > 0; });
  if (largest != rates.rend()) {
    text +=
        fmt::format("\nOf {} pairs, by the row that was slowed by 5 %:\n\n| row | found |\n|:----|------:|\n",
                    largest->pairs);
    for (const auto& [name, counts] : largest->rows_at_5)
      text += fmt::format("| {} | {:.0f} % |\n", printable(name), percent(counts.second, counts.first));
  }
  if (!slower.empty()) {
    std::sort(slower.begin(), slower.end());
    text += fmt::format(
        "\nA build made slower, whose {} rows take {:.1f} to {:.1f} % longer (median {:.1f} %). One row at a "
        "time is "
        "of\nits launches, the others of the second build's, and called slower in\n\n"
        "| pairs | of gates without a pair in common | of drawn gates |\n|------:|------:|------:|\n",
        slower.size(), 100 * (slower.front() - 1), 100 * (slower.back() - 1), 100 * (median(slower) - 1));
    for (const Rate& rate : rates) {
      const std::string drawn =
          rate.slow_gates > 0 ? fmt::format("{:.1f} %", percent(rate.slow_found, rate.slow_gates)) : "";
      text += fmt::format("| {:>5} | {:.1f} % of {} | {} |\n", rate.pairs,
                          percent(rate.slow_apart_found, rate.slow_apart), rate.slow_apart, drawn);
    }
  }
  const int64_t enough = enough_pairs(rates);
  if (enough > 0)
    return text +
           fmt::format("\nA gate is worth having here: --launches {} finds 5 % in 95 % of gates.\n", enough);
  return text +
         "\nNo gate of these sizes finds 5 % in 95 % of gates here: measure longer (measure.max_seconds), "
         "more\n"
         "launches (twice as many as the gate has), or on a quieter machine.\n";
}

int run_selftest(AbOptions options) {
  options.base_binary = options.new_binary = this_program();
  return with_pairs("selftest", options, [&](Pairs& pairs) {
    for (int64_t number = 1; number <= pairs.count; ++number)
      if (make_pair(pairs, number))
        fmt::print(stderr, "lamina: pair {} of {} is done; about {:.0f} s left\n", number, pairs.count,
                   seconds_left(pairs, number));
    std::vector<std::string> warnings;
    const Side base = read_launches(pairs, 0, pairs.count, warnings),
               next = read_launches(pairs, 1, pairs.count, warnings);
    Side slow;
    if (!options.slow_binary.empty()) slow = read_launches(pairs, 2, pairs.count, warnings);
    for (const std::string& warning : warnings)
      fmt::print(stderr, "lamina: warning: {}\n", printable(warning));
    const std::vector<Rate> rates =
        rates_of(base, next, options.report.settings, slow.launches.empty() ? nullptr : &slow);
    const std::string text =
        selftest_text(rates, pairs.count, options.report.settings, slowdowns(base, slow));
    write_file_atomically((std::filesystem::path(pairs.path) / "selftest.md").string(), text);
    if (!print_out(text)) return kExitFailed;
    return enough_pairs(rates) > 0 ? kExitOk : kExitInconclusive;
  });
}

}  // namespace lamina::compare
