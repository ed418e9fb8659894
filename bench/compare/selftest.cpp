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
#include "bench/compare/statistics.hpp"
#include "bench/export.hpp"
#include "bench/runner.hpp"
#include "bench/sampler.hpp"
#include "bench/text.hpp"

namespace lamina::compare {
namespace {

constexpr int64_t kGates = 400;
constexpr double kWanted = 0.05, kFound = 0.95, kFalse = 0.01;
constexpr int64_t kTriesOfARow = 20;  // fewer say nothing of one row

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

int64_t tested_in(const std::vector<Row>& rows) {
  return std::count_if(rows.begin(), rows.end(), [](const Row& row) { return !std::isnan(row.p_value); });
}

int64_t called_in(const std::vector<Row>& rows) {
  return std::count_if(rows.begin(), rows.end(), [](const Row& row) {
    return row.verdict == Verdict::slower || row.verdict == Verdict::faster;
  });
}

void slow_down(Side& side, const std::string& name, double factor) {
  for (Launch& launch : side.launches) {
    LaunchRow& row = launch.rows.at(name);
    row.time_us *= factor;
    row.cycles *= factor;
  }
}

const LaunchRow* row_of(const Launch& launch, const std::string& name) {
  const auto found = launch.rows.find(name);
  return found == launch.rows.end() ? nullptr : &found->second;
}

// The rows of a build with LAMINA_INJECT_SLOWDOWN with a time in every launch: those that it slows down, its
// native kernels', or the others.
std::vector<std::string> rows_of(const Side& base, const Side& slow, bool slowed) {
  const auto timed = [](const Side& side, const std::string& name) {
    return std::all_of(side.launches.begin(), side.launches.end(), [&](const Launch& launch) {
      const LaunchRow* row = row_of(launch, name);
      return row != nullptr && row->time_us > 0;
    });
  };
  std::vector<std::string> names;
  if (slow.launches.empty()) return names;
  for (const auto& [name, row] : slow.launches.front().rows)
    if (row.kernel.starts_with("native") == slowed && timed(base, name) && timed(slow, name))
      names.push_back(name);
  return names;
}

// Puts the slower build's launch of one row in the place of NEW's, pair by pair.
void take_row(Side& side, const Side& slow, const std::vector<size_t>& pairs, const std::string& name) {
  for (size_t i = 0; i < pairs.size(); ++i)
    side.launches[i].rows.at(name) = slow.launches[pairs[i]].rows.at(name);
}

Verdict verdict_of(const Gate& gate, const Settings& settings, const std::string& name) {
  for (const Row& row : judged(gate, settings))
    if (row.name == name) return row.verdict;
  return Verdict::skipped;
}

bool found_slower(const Gate& gate, const Settings& settings, const std::string& name) {
  return verdict_of(gate, settings, name) == Verdict::slower;
}

// Rows of each slower build.
using Slowed = std::vector<std::vector<std::string>>;

// Gates whose pairs no other has.
void judge_apart(const Bank& bank, const Slowed& slowed, const Settings& settings, Rate& rate) {
  const size_t size = static_cast<size_t>(rate.pairs), launches = bank.base.launches.size();
  const std::vector<bool> as_recorded(launches, false);
  for (size_t begin = 0; begin + size <= launches; begin += size) {
    std::vector<size_t> pairs(size);
    std::iota(pairs.begin(), pairs.end(), begin);
    const Gate gate = gate_of(bank.base, bank.next, pairs, as_recorded);
    const std::vector<Row> rows = judged(gate, settings);
    const int64_t called = called_in(rows);
    ++rate.apart_gates;
    rate.apart_rows += tested_in(rows);
    rate.apart_false_rows += called;
    rate.apart_false_gates += called > 0;
    for (size_t build = 0; build < slowed.size(); ++build)
      for (const std::string& name : slowed[build]) {
        Gate slower = gate;
        take_row(slower.next, bank.slow[build], pairs, name);
        ++rate.slow[build].apart;
        rate.slow[build].apart_found += found_slower(slower, settings, name);
      }
    for (size_t build = 0; build < bank.slow.size(); ++build)
      for (const std::string& name : rows_of(bank.base, bank.slow[build], false)) {
        Gate other = gate;
        take_row(other.next, bank.slow[build], pairs, name);
        const Verdict verdict = verdict_of(other, settings, name);
        ++rate.slow[build].others;
        rate.slow[build].others_called += verdict == Verdict::slower || verdict == Verdict::faster;
      }
  }
}

void judge_drawn(const Bank& bank, const std::vector<std::string>& names, const Slowed& slowed_names,
                 const Settings& settings, Rate& rate) {
  std::mt19937_64 random(1);
  std::vector<size_t> order(bank.base.launches.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<bool> swapped(order.size());
  std::vector<int64_t> found(kInjected.size());
  for (; rate.gates < kGates; ++rate.gates) {
    // Fisher and Yates' shuffle: std::shuffle differs between libraries.
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
    for (size_t i = 0; i < swapped.size(); ++i) swapped[i] = random() >> 63 != 0;
    std::vector<size_t> pairs(order.begin(), order.begin() + rate.pairs);
    std::sort(pairs.begin(), pairs.end());
    const Gate gate = gate_of(bank.base, bank.next, pairs, swapped);
    const std::vector<Row> rows = judged(gate, settings);
    const int64_t called = called_in(rows);
    rate.rows += tested_in(rows);
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
    for (size_t build = 0; build < slowed_names.size(); ++build) {
      if (slowed_names[build].empty()) continue;
      const std::string& slow_name = slowed_names[build][random() % slowed_names[build].size()];
      Gate slower = gate;
      take_row(slower.next, bank.slow[build], pairs, slow_name);
      ++rate.slow[build].drawn;
      rate.slow[build].drawn_found += found_slower(slower, settings, slow_name);
    }
  }
  for (const int64_t count : found)
    rate.found.push_back(static_cast<double>(count) / static_cast<double>(rate.gates));
}

double percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100 * static_cast<double>(part) / static_cast<double>(whole) : 0;
}

// What gates find of builds that are really slower.
std::string slower_builds_text(const Bank& bank, const std::vector<Rate>& rates, const Settings& settings) {
  std::string text, head = "| pairs |", rule = "|------:|";
  for (size_t build = 0; build < bank.slow.size(); ++build) {
    std::vector<double> ratios = slowdowns(bank.base, bank.slow[build], settings);
    if (ratios.empty()) continue;
    std::sort(ratios.begin(), ratios.end());
    text += fmt::format("{}. a build whose {} native rows take {:.1f} to {:.1f} % more, median {:.1f} %\n",
                        build + 1, ratios.size(), 100 * (ratios.front() - 1), 100 * (ratios.back() - 1),
                        100 * (median(ratios) - 1));
    head += fmt::format(" {}: apart | {}: drawn |", build + 1, build + 1);
    rule += "---------:|---------:|";
  }
  if (text.empty()) return "";
  text = "\nBuilds made slower:\n\n" + text +
         "\nOne row at a time is of such a build's launches, the others of the second build's. Called slower "
         "in gates\n"
         "without a pair in common (apart), and in drawn ones:\n\n" +
         head + "\n" + rule + "\n";
  for (const Rate& rate : rates) {
    text += fmt::format("| {:>5} |", rate.pairs);
    for (const SlowRate& slow : rate.slow) {
      if (slow.apart == 0) continue;
      text += fmt::format(" {:.1f} % of {} |", percent(slow.apart_found, slow.apart), slow.apart);
      text += slow.drawn > 0 ? fmt::format(" {:.1f} % |", percent(slow.drawn_found, slow.drawn)) : "  |";
    }
    text += "\n";
  }
  int64_t others = 0, called = 0;
  for (const Rate& rate : rates)
    for (const SlowRate& slow : rate.slow) {
      others += slow.others;
      called += slow.others_called;
    }
  if (others > 0)
    text += fmt::format(
        "\nTheir rows of libraries, which are not slower, were called in {} of {} tries in gates without a "
        "pair in "
        "common\n(of one size; gates of different sizes share pairs): another build, but no change.\n",
        called, others);
  return text;
}

}  // namespace

std::vector<Rate> rates_of(const Bank& bank, const Settings& settings) {
  const int64_t launches = static_cast<int64_t>(bank.base.launches.size());
  std::vector<std::string> names;
  for (const Row& row : judged({bank.base, bank.next}, settings))
    if (row.base_launches == launches && row.new_launches == launches) names.push_back(row.name);
  if (names.empty()) throw std::runtime_error("no row has a time in every launch: there is nothing to try");
  Slowed slowed;
  for (const Side& slow : bank.slow) slowed.push_back(rows_of(bank.base, slow, true));
  std::vector<Rate> rates;
  for (const int64_t pairs : {3, 5, 7, 10, 15, 20, 30}) {
    if (pairs > launches) break;
    Rate rate;
    rate.pairs = pairs;
    rate.slow.resize(bank.slow.size());
    judge_apart(bank, slowed, settings, rate);
    // Drawing nearly all pairs time and again is one gate, not many.
    if (2 * pairs <= launches) judge_drawn(bank, names, slowed, settings, rate);
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

std::vector<double> slowdowns(const Side& base, const Side& slow, const Settings& settings) {
  std::vector<double> ratios;
  const std::vector<std::string> names = rows_of(base, slow, true);
  for (const Row& row : judged({base, slow}, settings))
    if (std::find(names.begin(), names.end(), row.name) != names.end())
      ratios.push_back(row.by_cycles ? row.new_cycles / row.base_cycles : row.new_us / row.base_us);
  return ratios;
}

std::string times_text(const Bank& bank) {
  std::string text = "pair,side,started,case,kernel,latency_us_p50,cycles_p50,core_clock_mhz\n";
  const auto add = [&](const Side& side, const std::string& name) {
    for (size_t i = 0; i < side.launches.size(); ++i)
      for (const std::string& row_name : side.launches[i].cases) {
        const LaunchRow& row = side.launches[i].rows.at(row_name);
        if (row.time_us > 0)
          text += fmt::format("{},{},{},{},{},{:.6g},{:.6g},{:.6g}\n", i + 1, name, side.launches[i].started,
                              row_name, row.kernel, row.time_us, row.cycles, row.clock_mhz);
      }
  };
  add(bank.base, "base");
  add(bank.next, "new");
  for (size_t build = 0; build < bank.slow.size(); ++build)
    add(bank.slow[build], fmt::format("slow-{}", build + 1));
  return text;
}

std::string selftest_text(const Bank& bank, const std::vector<Rate>& rates, const Settings& settings) {
  const std::vector<Row> rows = judged({bank.base, bank.next}, settings);
  const auto by_cycles =
      std::count_if(rows.begin(), rows.end(), [](const Row& row) { return row.by_cycles; });
  std::string text = fmt::format(
      "One build against itself, {} interleaved pairs of launches; alpha {:.2g}, floor {:.2g} %.\n\n"
      "{} of {} rows are judged by their core's cycles, the others by time.\n\n"
      "False alarms in gates without a pair in common, as recorded (at most, with 95 % confidence, were rows "
      "independent):\n\n"
      "| pairs | gates | with an alarm | rows | called | at most |\n"
      "|------:|------:|--------------:|-----:|-------:|--------:|\n",
      bank.base.launches.size(), settings.alpha, 100 * settings.floor, by_cycles, rows.size());
  for (const Rate& rate : rates)
    text += fmt::format("| {:>5} | {:>5} | {:>13} | {:>4} | {:>6} | {:>5.1f} % |\n", rate.pairs,
                        rate.apart_gates, rate.apart_false_gates, rate.apart_rows, rate.apart_false_rows,
                        100 * share_at_most(rate.apart_false_rows, rate.apart_rows, 0.95));
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
  text += slower_builds_text(bank, rates, settings);
  const int64_t enough = enough_pairs(rates);
  if (enough > 0) {
    const Rate& rate =
        *std::find_if(rates.begin(), rates.end(), [&](const Rate& one) { return one.pairs == enough; });
    double worst = 100;
    for (const auto& [name, counts] : rate.rows_at_5)
      if (counts.first >= kTriesOfARow) worst = std::min(worst, percent(counts.second, counts.first));
    return text +
           fmt::format(
               "\nA gate is worth having here: --launches {} finds 5 % in 95 % of gates ({:.0f} % where the "
               "hardest row is slower).\n",
               enough, worst);
  }
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
    Bank bank;
    bank.base = read_launches(pairs, 0, pairs.count, warnings);
    bank.next = read_launches(pairs, 1, pairs.count, warnings);
    for (size_t side = 2; side < pairs.folder.size(); ++side)
      bank.slow.push_back(read_launches(pairs, side, pairs.count, warnings));
    for (const std::string& warning : warnings)
      fmt::print(stderr, "lamina: warning: {}\n", printable(warning));
    const std::vector<Rate> rates = rates_of(bank, options.report.settings);
    const std::string text = selftest_text(bank, rates, options.report.settings);
    const std::filesystem::path folder = pairs.path;
    write_file_atomically((folder / "times.csv").string(), times_text(bank));
    write_file_atomically((folder / "selftest.md").string(), text);
    if (!print_out(text)) return kExitFailed;
    return enough_pairs(rates) > 0 ? kExitOk : kExitInconclusive;
  });
}

}  // namespace lamina::compare
