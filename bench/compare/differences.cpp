#include "bench/compare/differences.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace lamina::compare {
namespace {

const Fact* find_fact(const Launch& launch, const std::string& name) {
  for (const Fact& fact : launch.facts)
    if (fact.name == name) return &fact;
  return nullptr;
}

std::string shown(const Fact& fact) {
  return fact.shown.empty() ? fact.value : fact.shown;
}

// The facts' names, in their order, of the first launch that has any.
std::vector<Fact> facts_of(const Side& base, const Side& next) {
  for (const Side* side : {&base, &next})
    for (const Launch& launch : side->launches)
      if (!launch.facts.empty()) return launch.facts;
  return {};
}

// What the launches of a side say of a fact, each value once.
struct Said {
  std::vector<std::string> values;
  std::vector<std::string> texts;
};

Said said_of(const Side& side, const std::string& name) {
  Said said;
  for (const Launch& launch : side.launches) {
    const Fact* fact = find_fact(launch, name);
    if (!fact || fact->value.empty()) continue;
    if (std::find(said.values.begin(), said.values.end(), fact->value) != said.values.end()) continue;
    said.values.push_back(fact->value);
    said.texts.push_back(shown(*fact));
  }
  return said;
}

std::string text_of(const Said& said) {
  if (said.texts.empty()) return "unknown";
  return said.texts.size() <= 3 ? fmt::format("{}", fmt::join(said.texts, ", "))
                                : fmt::format("{} different ones", said.texts.size());
}

std::string advice(const Fact& fact) {
  if (fact.name == "config")
    return "run both sides with the same config (name and description apart) and --set";
  if (fact.weight == Weight::machine)
    return "times of two machines say nothing of two builds; --across-machines compares them all the same";
  return "run both sides alike";
}

void compare_facts(const Side& base, const Side& next, Comparison& result) {
  for (const Fact& fact : facts_of(base, next)) {
    const Said before = said_of(base, fact.name), after = said_of(next, fact.name);
    if (before.values.empty() || after.values.empty()) {
      // Known of one side alone: no difference is known.
      if (fact.weight != Weight::listed && before.values.size() + after.values.size() > 0)
        result.notes.push_back(fmt::format("{} is unknown of {}: not checked", fact.name,
                                           before.values.empty() ? "BASE" : "NEW"));
      continue;
    }
    std::set<std::string> all(before.values.begin(), before.values.end());
    all.insert(after.values.begin(), after.values.end());
    if (all.size() == 1) continue;
    const bool refused = fact.weight == Weight::refused ||
                         (fact.weight == Weight::machine && !result.settings.across_machines);
    const std::string old_text = text_of(before), new_text = text_of(after);
    if (!refused) {
      result.differences.push_back({fact.name, old_text, new_text});
      continue;
    }
    // Several values of one side are as bad as a difference between the sides.
    for (const auto& [said, text, label] :
         {std::tuple{&before, &old_text, "BASE"}, std::tuple{&after, &new_text, "NEW"}})
      if (said->values.size() > 1)
        result.refusals.push_back(fmt::format("{}: expected one of all launches of {}, found {}; {}",
                                              fact.name, label, *text, advice(fact)));
    if (before.values.size() == 1 && after.values.size() == 1)
      result.refusals.push_back(
          fmt::format("{}: BASE has {}, NEW {}; {}", fact.name, old_text, new_text, advice(fact)));
  }
}

// The same launch twice is one launch, and compared with itself it is equal.
void find_copies(const Side& base, const Side& next, Comparison& result) {
  std::map<std::string, std::string> known;
  for (const Side* side : {&base, &next})
    for (const Launch& launch : side->launches) {
      if (launch.run_id.empty()) continue;
      const auto [place, added] = known.emplace(launch.run_id, launch.name);
      if (!added)
        result.refusals.push_back(fmt::format("{} and {} are the same launch (run {}): expected each once",
                                              place->second, launch.name, launch.run_id));
    }
}

void compare_cases(const Side& base, const Side& next, Comparison& result) {
  std::map<std::string, std::string> shapes;
  std::set<std::string> told;
  for (const Launch& launch : base.launches)
    for (const auto& [name, row] : launch.rows) shapes.emplace(name, row.shape);
  bool common = false;
  for (const Side* side : {&base, &next})
    for (const Launch& launch : side->launches)
      for (const auto& [name, row] : launch.rows) {
        const auto known = shapes.find(name);
        common = common || (side == &next && known != shapes.end());
        if (known == shapes.end() || known->second == row.shape || !told.insert(name).second) continue;
        result.refusals.push_back(fmt::format("{}: is not one case in all launches: {} and {} ({})", name,
                                              known->second, row.shape, launch.name));
      }
  if (!common)
    result.refusals.push_back(
        fmt::format("no rows in common: BASE has {}, NEW has {}, and no `case` is in both",
                    base.launches.front().rows.size(), next.launches.front().rows.size()));
}

std::string commit_of(const Side& side) {
  const Said said = said_of(side, "commit");
  return said.texts.empty() ? "" : text_of(said);
}

}  // namespace

void find_differences(const Side& base, const Side& next, Comparison& result) {
  find_copies(base, next, result);
  compare_facts(base, next, result);
  compare_cases(base, next, result);
  result.base_commit = commit_of(base);
  result.new_commit = commit_of(next);
  for (const auto& [side, label] : {std::pair{&base, "BASE"}, std::pair{&next, "NEW"}}) {
    const auto bare = std::count_if(side->launches.begin(), side->launches.end(),
                                    [](const Launch& launch) { return launch.facts.empty(); });
    if (bare > 0)
      result.notes.push_back(fmt::format(
          "{} of {} launches of {} have no environment.json: their machine, config and rank counts are "
          "not checked",
          bare, side->launches.size(), label));
  }
}

}  // namespace lamina::compare
