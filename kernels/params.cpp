#include "kernels/params.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>

namespace lamina {

namespace {

constexpr size_t kLongestShownString = 80;
constexpr size_t kLongestComparedName = 64;

// Text from a config, safe to print: control characters escaped, long text cut.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text.substr(0, kLongestShownString)) {
    if (c == '"' || c == '\\')
      out += fmt::format("\\{}", c);
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    else
      out += c;
  }
  return out + (text.size() > kLongestShownString ? "…\"" : "\"");
}

std::string quoted_list(const std::vector<std::string>& names, std::string_view separator) {
  std::string out;
  for (const std::string& name : names) {
    if (!out.empty()) out += separator;
    out += quoted(name);
  }
  return out;
}

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) {
    if (!out.empty()) out += ", ";
    out += name;
  }
  return out;
}

std::string plain_number(double value) {
  if (std::abs(value) < 9e15 && value == std::floor(value))
    return fmt::format("{}", static_cast<int64_t>(value));
  return fmt::format("{}", value);
}

bool bounded(const KeySpec& spec) {
  return spec.min != spec.max;
}

std::string expected_number(const KeySpec& spec, std::string_view kind) {
  if (!bounded(spec)) return std::string(kind);
  return fmt::format("{} from {} to {}", kind, plain_number(spec.min), plain_number(spec.max));
}

std::string expected_string(const KeySpec& spec, std::string_view kind) {
  if (spec.choices.empty()) return std::string(kind);
  if (spec.choices.size() == 1) return quoted(spec.choices.front());
  return "one of " + quoted_list(spec.choices, ", ");
}

bool in_choices(const KeySpec& spec, const std::string& value) {
  return spec.choices.empty() ||
         std::find(spec.choices.begin(), spec.choices.end(), value) != spec.choices.end();
}

std::string hint(const std::string& nearest) {
  return nearest.empty() ? "" : fmt::format("; did you mean {}?", quoted(nearest));
}

// The optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours, each 1
// (Damerau 1964; the restricted recurrence). Letters compare without case, and '-' equals '_'.
size_t edit_distance(std::string_view a, std::string_view b) {
  auto fold = [](char c) {
    return c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  };
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t differs = fold(a[i - 1]) != fold(b[j - 1]);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + differs});
      if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) && fold(a[i - 2]) == fold(b[j - 1]))
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

void Problems::add(std::string pointer, std::string message) {
  // Neither part holds a NUL that could make two pairs look alike: pointers and messages are escaped text.
  if (seen_.insert(pointer + '\0' + message).second)
    items_.push_back({std::move(pointer), std::move(message)});
}

Params::Params(std::string pointer, Problems* problems) : pointer_(std::move(pointer)), problems_(problems) {}

void Params::set(std::string key, Value value, std::string pointer) {
  if (pointer.empty()) pointer = pointer_ + "/" + pointer_token(key);
  for (Entry& entry : entries_) {
    if (entry.key != key) continue;
    entry = Entry{std::move(key), std::move(value), std::move(pointer)};
    return;
  }
  entries_.push_back({std::move(key), std::move(value), std::move(pointer)});
}

const Params::Entry* Params::find(std::string_view key) const {
  for (const Entry& entry : entries_)
    if (entry.key == key) return &entry;
  return nullptr;
}

bool Params::has(std::string_view key) const {
  return find(key) != nullptr;
}

void Params::mark_read(std::string_view key) const {
  if (const Entry* entry = find(key)) entry->read = true;
}

const Params::Entry* Params::read_entry(const KeySpec& spec) const {
  const Entry* entry = find(spec.name);
  if (entry) {
    entry->read = true;
  } else if (std::holds_alternative<std::nullptr_t>(spec.fallback) && !spec.optional) {
    problem(spec.name, fmt::format("expected the key {} ({}), found none", quoted(spec.name), spec.help));
  }
  return entry;
}

int64_t Params::integer(const KeySpec& spec) const {
  const int64_t* fallback = std::get_if<int64_t>(&spec.fallback);
  const int64_t otherwise = fallback ? *fallback : bounded(spec) ? static_cast<int64_t>(spec.min) : 0;
  const Entry* entry = read_entry(spec);
  if (!entry) return otherwise;
  const int64_t* value = std::get_if<int64_t>(&entry->value);
  if (value) {
    const double v = static_cast<double>(*value);
    if (!bounded(spec) || (v >= spec.min && v <= spec.max)) return *value;
  }
  problem(spec.name, fmt::format("expected {}, found {}", expected_number(spec, "an integer"),
                                 describe_value(entry->value)));
  return otherwise;
}

double Params::number(const KeySpec& spec) const {
  auto as_number = [](const Value& value) -> std::optional<double> {
    if (const int64_t* i = std::get_if<int64_t>(&value)) return static_cast<double>(*i);
    if (const double* d = std::get_if<double>(&value)) return *d;
    return std::nullopt;
  };
  const double otherwise = as_number(spec.fallback).value_or(bounded(spec) ? spec.min : 0);
  const Entry* entry = read_entry(spec);
  if (!entry) return otherwise;
  const std::optional<double> value = as_number(entry->value);
  if (value && std::isfinite(*value) && (!bounded(spec) || (*value >= spec.min && *value <= spec.max)))
    return *value;
  problem(spec.name, fmt::format("expected {}, found {}", expected_number(spec, "a number"),
                                 describe_value(entry->value)));
  return otherwise;
}

bool Params::boolean(const KeySpec& spec) const {
  const bool* fallback = std::get_if<bool>(&spec.fallback);
  const Entry* entry = read_entry(spec);
  if (!entry) return fallback && *fallback;
  if (const bool* value = std::get_if<bool>(&entry->value)) return *value;
  problem(spec.name, fmt::format("expected true or false, found {}", describe_value(entry->value)));
  return fallback && *fallback;
}

std::string Params::string(const KeySpec& spec) const {
  const std::string* fallback = std::get_if<std::string>(&spec.fallback);
  const std::string otherwise = fallback ? *fallback : "";
  const Entry* entry = read_entry(spec);
  if (!entry) return otherwise;
  const std::string* value = std::get_if<std::string>(&entry->value);
  if (value && in_choices(spec, *value)) return *value;
  problem(spec.name,
          fmt::format("expected {}, found {}{}", expected_string(spec, "a string"),
                      describe_value(entry->value), value ? hint(nearest_name(*value, spec.choices)) : ""));
  return otherwise;
}

std::vector<std::string> Params::strings(const KeySpec& spec) const {
  std::vector<std::string> otherwise;
  if (const auto* list = std::get_if<std::vector<std::string>>(&spec.fallback)) otherwise = *list;
  if (const auto* one = std::get_if<std::string>(&spec.fallback)) otherwise = {*one};
  const Entry* entry = read_entry(spec);
  if (!entry) return otherwise;
  std::vector<std::string> values;
  if (const auto* list = std::get_if<std::vector<std::string>>(&entry->value)) {
    values = *list;
  } else if (const auto* one = std::get_if<std::string>(&entry->value)) {
    values = {*one};
  } else {
    problem(spec.name,
            fmt::format("expected {}, found {}", expected_string(spec, "a string or a list of strings"),
                        describe_value(entry->value)));
    return otherwise;
  }
  for (const std::string& value : values) {
    if (in_choices(spec, value)) continue;
    problem(spec.name, fmt::format("expected {}, found {}{}", expected_string(spec, "strings"), quoted(value),
                                   hint(nearest_name(value, spec.choices))));
    return otherwise;
  }
  return values;
}

std::shared_ptr<Params> Params::object(const KeySpec& spec) const {
  const auto* fallback = std::get_if<std::shared_ptr<Params>>(&spec.fallback);
  const Entry* entry = read_entry(spec);
  if (!entry) return fallback ? *fallback : nullptr;
  if (const auto* value = std::get_if<std::shared_ptr<Params>>(&entry->value); value && *value) return *value;
  problem(spec.name, fmt::format("expected an object, found {}", describe_value(entry->value)));
  return fallback ? *fallback : nullptr;
}

void Params::problem(std::string_view key, std::string message) const {
  const Entry* entry = find(key);
  problems_->add(entry ? entry->pointer : pointer_, std::move(message));
}

void Params::report_unread(const std::vector<KeySpec>& known) const {
  std::vector<std::string> names;
  for (const KeySpec& spec : known) names.push_back(spec.name);
  for (const Entry& entry : entries_) {
    if (entry.read) continue;
    if (std::find(names.begin(), names.end(), entry.key) != names.end()) {
      // Known, but nothing in this case reads it, such as a key that belongs to another choice.
      problems_->add(entry.pointer, "key has no effect here; remove it");
      continue;
    }
    const std::string nearest = nearest_name(entry.key, names);
    if (!nearest.empty())
      problems_->add(entry.pointer, fmt::format("unknown key{}", hint(nearest)));
    else if (names.empty())
      problems_->add(entry.pointer, "unknown key; no keys are known here");
    else
      problems_->add(entry.pointer, "unknown key; known keys: " + joined(names));
  }
}

std::string pointer_token(std::string_view key) {
  std::string out;
  for (char c : key) {
    if (c == '~')
      out += "~0";
    else if (c == '/')
      out += "~1";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      // Pointers are printed; as in a JSON string, a control character is shown as its escape.
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    else
      out += c;
  }
  return out;
}

std::string describe_value(const Value& value) {
  struct Describe {
    std::string operator()(std::nullptr_t) const { return "null"; }
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(int64_t v) const { return fmt::format("{}", v); }
    std::string operator()(double v) const {
      // A whole number keeps its point: 16.0 is not the integer 16.
      std::string text = fmt::format("{}", v);
      return text.find_first_not_of("-0123456789") == std::string::npos ? text + ".0" : text;
    }
    std::string operator()(const std::string& v) const { return quoted(v); }
    std::string operator()(const std::vector<std::string>& v) const {
      constexpr size_t kShown = 4;
      if (v.size() > kShown) return fmt::format("a list of {} strings", v.size());
      return fmt::format("[{}]", quoted_list(v, ", "));
    }
    std::string operator()(const std::shared_ptr<Params>&) const { return "an object"; }
  };
  return std::visit(Describe{}, value);
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& known) {
  if (name.size() > kLongestComparedName) return {};
  std::string nearest;
  // A slip changes about one character in three at most.
  size_t best = std::max<size_t>(1, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    if (candidate.size() > kLongestComparedName) continue;
    const size_t distance = edit_distance(name, candidate);
    if (distance < best && distance < candidate.size()) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace lamina
