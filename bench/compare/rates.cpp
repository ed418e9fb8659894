#include "bench/compare/rates.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>

#include "bench/compare/ab.hpp"

namespace lamina::compare {
namespace {

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

int64_t tested_in(const std::vector<Row>& rows) {
  return std::count_if(rows.begin(), rows.end(), [](const Row& row) { return !std::isnan(row.p_value); });
}

bool is_called(Verdict verdict) {
  return verdict == Verdict::slower || verdict == Verdict::faster;
}

int64_t called_in(const std::vector<Row>& rows) {
  return std::count_if(rows.begin(), rows.end(), [](const Row& row) { return is_called(row.verdict); });
}

// A kernel that does more takes more cycles; one that makes its core slower takes more time in as many.
enum class Slower { kernel, clock };

void slow_down(Side& side, const std::string& name, double factor, Slower what) {
  for (Launch& launch : side.launches) {
    LaunchRow& row = launch.rows.at(name);
    row.time_us *= factor;
    if (what == Slower::kernel)
      row.cycles *= factor;
    else
      row.clock_mhz /= factor;
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

// The gate as `ab` judges it, which ends at the first look at which every row is decided.
struct Looked {
  std::vector<Row> rows;
  int64_t pairs = 0;
  bool decided = false;
};

Looked by_looks(const Gate& gate, Settings settings) {
  Looked looked;
  for (const Look& look : looks_of(static_cast<int64_t>(gate.base.launches.size()))) {
    Gate seen = gate;
    for (Side* side : {&seen.base, &seen.next}) side->launches.resize(static_cast<size_t>(look.pairs));
    settings.share = look.share;
    Comparison comparison = compare(seen.base, seen.next, settings);
    if (!comparison.refusals.empty()) throw std::runtime_error(comparison.refusals.front());
    looked.decided = comparison.decided();
    looked.pairs = look.pairs;
    looked.rows = std::move(comparison.rows);
    if (looked.decided) break;
  }
  return looked;
}

// Rows of each slower build: those that are slower there, or the others.
using Names = std::vector<std::vector<std::string>>;

// Gates whose pairs no other has.
void judge_apart(const Bank& bank, const Names& slowed, const Names& others, const Settings& settings,
                 Rate& rate) {
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
    for (size_t build = 0; build < others.size(); ++build)
      for (const std::string& name : others[build]) {
        Gate other = gate;
        take_row(other.next, bank.slow[build], pairs, name);
        ++rate.slow[build].others;
        rate.slow[build].others_called += is_called(verdict_of(other, settings, name));
      }
  }
}

void judge_drawn(const Bank& bank, const std::vector<std::string>& names, const Names& slowed_names,
                 const Settings& settings, Rate& rate) {
  std::mt19937_64 random(1);
  std::vector<size_t> order(bank.base.launches.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<bool> swapped(order.size());
  std::vector<int64_t> found(kInjected.size()), found_by_time(kInjected.size()), passed(kInjected.size());
  for (; rate.gates < kDrawnGates; ++rate.gates) {
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
    const Looked unchanged = by_looks(gate, settings);
    rate.ab_false += called_in(unchanged.rows) > 0;
    rate.ab_undecided += !unchanged.decided;
    // One row is slower, the others are as they were: the harder case for Holm's correction.
    const std::string& name = names[random() % names.size()];
    for (size_t i = 0; i < kInjected.size(); ++i) {
      Gate slowed = gate;
      slow_down(slowed.next, name, 1 + kInjected[i], Slower::kernel);
      const bool called_slower = found_slower(slowed, settings, name);
      found[i] += called_slower;
      Gate slower_clock = gate;
      slow_down(slower_clock.next, name, 1 + kInjected[i], Slower::clock);
      const Verdict by_time = verdict_of(slower_clock, settings, name);
      found_by_time[i] += by_time == Verdict::slower;
      passed[i] += by_time == Verdict::ok || by_time == Verdict::faster;
      if (kInjected[i] != kWanted) continue;
      const Looked looked = by_looks(slowed, settings);
      rate.ab_pairs += looked.pairs;
      rate.ab_found += std::any_of(looked.rows.begin(), looked.rows.end(), [&](const Row& row) {
        return row.name == name && row.verdict == Verdict::slower;
      });
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
  const auto shares = [&](const std::vector<int64_t>& counts) {
    std::vector<double> of_gates;
    for (const int64_t count : counts)
      of_gates.push_back(static_cast<double>(count) / static_cast<double>(rate.gates));
    return of_gates;
  };
  rate.found = shares(found);
  rate.found_by_time = shares(found_by_time);
  rate.passed_by_time = shares(passed);
}

}  // namespace

std::vector<Rate> rates_of(const Bank& bank, const Settings& settings) {
  const int64_t launches = static_cast<int64_t>(bank.base.launches.size());
  std::vector<std::string> names;
  for (const Row& row : judged({bank.base, bank.next}, settings))
    if (row.base_launches == launches && row.new_launches == launches) names.push_back(row.name);
  if (names.empty()) throw std::runtime_error("no row has a time in every launch: there is nothing to try");
  Names slowed, others;
  for (const Side& slow : bank.slow) {
    slowed.push_back(rows_of(bank.base, slow, true));
    others.push_back(rows_of(bank.base, slow, false));
  }
  std::vector<Rate> rates;
  for (const int64_t pairs : {3, 5, 7, 10, 15, 20, 30}) {
    if (pairs > launches) break;
    Rate rate;
    rate.pairs = pairs;
    rate.slow.resize(bank.slow.size());
    judge_apart(bank, slowed, others, settings, rate);
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
        static_cast<double>(rate.false_rows) <= kFalse * static_cast<double>(rate.rows) &&
        static_cast<double>(rate.ab_found) >= kFound * static_cast<double>(rate.gates))
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

}  // namespace lamina::compare
