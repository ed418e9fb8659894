#include "bench/config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "bench/expansion.hpp"
#include "bench/overrides.hpp"
#include "kernels/json.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

// Even --yes does not help past this: the cases alone would fill a machine's memory.
constexpr int64_t kHardMaxCases = 1'000'000;
constexpr size_t kMaxNameLength = 100;
constexpr size_t kMaxKeys = 1000;

const KeySpec kName{
    "name", "names the run's folder: letters, digits, '.', '_' and '-', the first a letter or digit",
    {},     0,
    0,      {}};
// 2⁵³ − 1: exact in every JSON reader.
const KeySpec kSeed{"seed", "of weights, activations and order", int64_t{1}, 0, 9007199254740991, {}};
const KeySpec kMeasure{"measure", "how to measure: see its keys", {}, 0, 0, {}, true};
const KeySpec kExperiments{
    "experiments", "what to measure: a list of sweeps, every array an axis", {}, 0, 0, {}};
const KeySpec kSchema{"$schema", "for editors; ignored", {}, 0, 0, {}, true};
const KeySpec kDescription{"description", "for people; told beside files that are not there", {}, 0, 0, {},
                           true};

const KeySpec kPrecision{
    "precision", "stop when the median's 95 % interval is within this share of it", 0.01, 1e-4, 1, {}};
const KeySpec kMinSamples{"min_samples", "never stop with fewer samples", int64_t{30}, 1, 1e6, {}};
const KeySpec kMaxSeconds{
    "max_seconds", "stop measuring a case after this long", int64_t{5}, 1e-3, 86400, {}};
const KeySpec kTimeoutSeconds{
    "timeout_seconds", "one step that takes longer makes the case a timeout", int64_t{120}, 1e-3, 86400, {}};
const KeySpec kCache{
    "cache",
    "cold: weights come from memory; hot: from cache where they fit; default of the experiments' key",
    std::string("cold"),
    0,
    0,
    {"cold", "hot"}};

// A value as a message shows it.
std::string found(const Json& value) {
  if (value.is_array()) return value.empty() ? "an empty array" : "an array";
  if (value.is_object()) return "an object";
  const std::string text = value.dump(-1, ' ', true);
  return text.size() > 60 ? text.substr(0, 60) + "…" : text;
}

bool contains(const std::vector<std::string>& list, const std::string& item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

// An object's keys, of which the known ones must hold one value each; those that do not are a problem here,
// and `broken` so that they become none further on. Keys in `nested` are read elsewhere.
Params scalars_of(const Json& object, const std::string& pointer, const std::vector<KeySpec>& known,
                  const std::vector<std::string>& nested, Problems& problems,
                  std::vector<std::string>& broken) {
  Params params(pointer, &problems);
  if (object.size() > kMaxKeys) {
    problems.add(pointer, fmt::format("expected at most {} keys, found {}", kMaxKeys, object.size()));
    for (const KeySpec& spec : known) broken.push_back(spec.name);
    return params;
  }
  for (const auto& [key, value] : object.items()) {
    const std::string place = pointer + "/" + pointer_token(key);
    if (!value.is_structured() && !value.is_null() && !contains(nested, key)) {
      params.set(key, Expansion(value, place, key, problems).value(0, &problems), place);
      continue;
    }
    params.set(key, true, place);
    const auto same = [&name = key](const KeySpec& spec) { return spec.name == name; };
    if (!contains(nested, key)) {
      if (std::none_of(known.begin(), known.end(), same)) continue;  // unknown: report_unread says so
      problems.add(place, fmt::format("expected one value, found {}{}", found(value),
                                      value.is_array() ? "; only the keys of experiments are swept" : ""));
      broken.push_back(key);
    }
    params.mark_read(key);
  }
  return params;
}

bool is_name(const std::string& name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !name.empty() && name.size() <= kMaxNameLength && plain(name[0]) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return plain(c) || c == '.' || c == '_' || c == '-'; });
}

MeasureOptions read_measure(const Json& object, Problems& problems) {
  MeasureOptions measure;
  if (!object.is_object()) {
    problems.add("/measure", "expected an object such as {\"max_seconds\": 5}, found " + found(object));
    return measure;
  }
  std::vector<std::string> broken;
  const Params params = scalars_of(object, "/measure", measure_keys(), {}, problems, broken);
  if (!contains(broken, kPrecision.name)) measure.precision = params.number(kPrecision);
  if (!contains(broken, kMinSamples.name)) measure.min_samples = params.integer(kMinSamples);
  if (!contains(broken, kMaxSeconds.name)) measure.max_seconds = params.number(kMaxSeconds);
  if (!contains(broken, kTimeoutSeconds.name)) measure.timeout_seconds = params.number(kTimeoutSeconds);
  if (!contains(broken, kCache.name)) measure.cache = params.string(kCache);
  params.report_unread(measure_keys());
  return measure;
}

// Counts before it makes anything: a few short axes multiply into more cases than memory holds.
std::vector<CaseParams> expand(const Json& experiments, bool many, Problems& problems) {
  std::vector<CaseParams> cases;
  if (!experiments.is_array() || experiments.empty()) {
    problems.add("/experiments", "expected a list of at least one experiment, found " + found(experiments));
    return cases;
  }
  std::vector<Expansion> trees;
  std::vector<int64_t> numbers;
  int64_t total = 0;
  for (size_t i = 0; i < experiments.size(); ++i) {
    const std::string place = "/experiments/" + std::to_string(i);
    if (!experiments[i].is_object()) {
      problems.add(place,
                   "expected an object such as {\"workload\": \"layer\", …}, found " + found(experiments[i]));
      continue;
    }
    trees.emplace_back(experiments[i], place, "", problems);
    numbers.push_back(static_cast<int64_t>(i));
    const int64_t count = trees.back().count();
    total = total > std::numeric_limits<int64_t>::max() - count ? std::numeric_limits<int64_t>::max()
                                                                : total + count;
  }
  const int64_t limit = many ? kHardMaxCases : kMaxCases;
  if (total > limit) {
    const bool huge = total == std::numeric_limits<int64_t>::max();
    problems.add(
        "/experiments",
        fmt::format("expected at most {} cases, found {}{}; {}", limit, huge ? "more than " : "", total,
                    total <= kHardMaxCases ? "pass --yes to run them all the same" : "shorten an axis"));
    return cases;
  }
  cases.reserve(static_cast<size_t>(total));
  for (size_t i = 0; i < trees.size(); ++i) {
    for (int64_t index = 0; index < trees[i].count(); ++index) {
      cases.push_back({numbers[i], std::get<std::shared_ptr<Params>>(trees[i].value(index, &problems))});
    }
  }
  return cases;
}

}  // namespace

std::string fnv1a_64(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3;
  }
  return fmt::format("{:016x}", hash);
}

const std::vector<KeySpec>& measure_keys() {
  static const std::vector<KeySpec> keys = {kPrecision, kMinSamples, kMaxSeconds, kTimeoutSeconds, kCache};
  return keys;
}

const std::vector<KeySpec>& config_keys() {
  static const std::vector<KeySpec> keys = {kName, kSeed, kMeasure, kExperiments, kSchema, kDescription};
  return keys;
}

Config read_config(const std::string& text, const std::vector<std::string>& overrides, bool many,
                   Problems& problems) {
  Config config;
  Json document = parse_strict_json(text, problems);
  if (!problems.empty()) return config;
  if (!document.is_object()) {
    problems.add("", "expected an object with name and experiments, found " + found(document));
    return config;
  }
  for (const std::string& override : overrides) apply_override(document, override, problems);

  std::vector<std::string> broken;
  const Params top =
      scalars_of(document, "", config_keys(), {kMeasure.name, kExperiments.name}, problems, broken);
  if (!contains(broken, kName.name)) {
    const size_t before = problems.items().size();
    config.name = top.string(kName);
    if (problems.items().size() == before && !is_name(config.name)) {
      top.problem(kName.name,
                  fmt::format("expected 1 to {} letters, digits, '.', '_' or '-', the first a letter or "
                              "digit, found {}",
                              kMaxNameLength, describe_value(config.name)));
    }
  }
  if (!contains(broken, kSeed.name)) config.seed = static_cast<uint64_t>(top.integer(kSeed));
  for (const KeySpec* ignored : {&kSchema, &kDescription}) {
    if (contains(broken, ignored->name) || !top.has(ignored->name)) continue;
    const std::string said = top.string(*ignored);
    if (ignored == &kDescription) config.description = said;
  }
  top.report_unread(config_keys());
  if (document.contains(kMeasure.name)) config.measure = read_measure(document[kMeasure.name], problems);
  if (document.contains(kExperiments.name)) {
    config.cases = expand(document[kExperiments.name], many, problems);
  } else {
    problems.add("", "expected the key `experiments`, a list of sweeps; found none");
  }
  config.text = document.dump(2);
  config.digest = fnv1a_64(config.text);
  return config;
}

}  // namespace lamina
