#include "bench/compare/selftest.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "bench/atomic_file.hpp"
#include "bench/compare/statistics.hpp"
#include "bench/export.hpp"
#include "bench/runner.hpp"
#include "bench/sampler.hpp"
#include "bench/text.hpp"

namespace lamina::compare {
namespace {

constexpr int64_t kTriesOfARow = 20;  // fewer say nothing of one row

double percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100 * static_cast<double>(part) / static_cast<double>(whole) : 0;
}

// What gates find of rows that take more time in as many cycles.
std::string by_time_text(const std::vector<Rate>& rates) {
  std::string text =
                  "\nThe same where the row takes more time in as many cycles, as on a slower clock (in "
                  "parentheses: passes as ok or\nfaster):\n\n| pairs |",
              rule = "\n|------:|";
  for (const double slowdown : kInjected) {
    text += fmt::format(" {:>13} |", fmt::format("+{:.0f} %", 100 * slowdown));
    rule += "--------------:|";
  }
  text += rule + "\n";
  for (const Rate& rate : rates) {
    if (rate.found_by_time.empty()) continue;
    text += fmt::format("| {:>5} |", rate.pairs);
    for (size_t i = 0; i < kInjected.size(); ++i)
      text += fmt::format(" {:>3.0f} % ({:>3.0f} %) |", 100 * rate.found_by_time[i],
                          100 * rate.passed_by_time[i]);
    text += "\n";
  }
  return text;
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
  const std::vector<Row> rows = compare(bank.base, bank.next, settings).rows;
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
      kDrawnGates);
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
  if (by_cycles > 0) text += by_time_text(rates);
  text +=
      "\nThe same gates as `lamina ab` judges them, which stops once every row is decided:\n\n"
      "| pairs at most | +5 % found | in pairs | unchanged: false gates | undecided |\n"
      "|--------------:|-----------:|---------:|-----------------------:|----------:|\n";
  for (const Rate& rate : rates)
    if (rate.gates > 0)
      text += fmt::format("| {:>13} | {:>8.0f} % | {:>8.1f} | {:>20.2f} % | {:>7.0f} % |\n", rate.pairs,
                          percent(rate.ab_found, rate.gates),
                          static_cast<double>(rate.ab_pairs) / static_cast<double>(rate.gates),
                          percent(rate.ab_false, rate.gates), percent(rate.ab_undecided, rate.gates));
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
