// A case's ordered, typed values, and the keys that declare how to read them.
//
// A parameter is declared once, as a KeySpec with its name, help, range and fallback; reading it through
// Params checks it, records any problem with its JSON pointer, and marks the key as read. A key nobody read
// is an error.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <variant>
#include <vector>

namespace lamina {

class Params;
using Value = std::variant<std::nullptr_t, bool, int64_t, double, std::string, std::vector<std::string>,
                           std::shared_ptr<Params>>;

// What went wrong, and where: `pointer` is an RFC 6901 JSON pointer into the config.
struct Problem {
  std::string pointer;
  std::string message;
  bool operator==(const Problem&) const = default;
};

// Collects every problem instead of stopping at the first. The same problem (pointer and message) is kept
// once, because a sweep meets it in every case.
class Problems {
 public:
  void add(std::string pointer, std::string message);
  bool empty() const { return items_.empty(); }
  const std::vector<Problem>& items() const { return items_; }

 private:
  std::vector<Problem> items_;
  std::unordered_set<std::string> seen_;
};

// Declares one key: read with the Params function of the same type.
struct KeySpec {
  std::string name;
  std::string help;                       // one line, units included
  Value fallback = nullptr;               // nullptr: the key is required (or optional, see `optional`)
  double min = 0, max = 0;                // inclusive range of numbers; min == max means unbounded
  std::vector<std::string> choices = {};  // of strings; empty means any
  bool optional = false;                  // absent and no fallback is fine (has() tells)
};

class Params {
 public:
  struct Entry {
    std::string key;
    Value value;
    std::string pointer;  // of this value in the config
    mutable bool read = false;
  };

  // `pointer` is this object's own place; `problems` outlives the Params.
  Params(std::string pointer, Problems* problems);

  void set(std::string key, Value value, std::string pointer = {});
  bool has(std::string_view key) const;

  // Each reads one declared key. On a wrong type, a value out of range or a missing required key it records
  // the problem ("expected …, found …") and returns the fallback (or zero, or the range's minimum).
  int64_t integer(const KeySpec& spec) const;
  double number(const KeySpec& spec) const;  // integers are numbers too
  bool boolean(const KeySpec& spec) const;
  std::string string(const KeySpec& spec) const;
  std::vector<std::string> strings(const KeySpec& spec) const;  // a single string is a list of one
  std::shared_ptr<Params> object(const KeySpec& spec) const;    // null when absent
  void mark_read(std::string_view key) const;

  // Records a problem at a key's own place (or at this object's, when the key is absent).
  void problem(std::string_view key, std::string message) const;
  // Records every unread key as unknown, with the nearest of `known` where it looks like a slip.
  void report_unread(const std::vector<KeySpec>& known) const;

  const std::vector<Entry>& entries() const { return entries_; }
  const std::string& pointer() const { return pointer_; }
  Problems* problems() const { return problems_; }

 private:
  const Entry* find(std::string_view key) const;
  const Entry* read_entry(const KeySpec& spec) const;

  std::string pointer_;
  Problems* problems_;
  std::vector<Entry> entries_;
};

// RFC 6901 escaping of one reference token.
std::string pointer_token(std::string_view key);
// "expected X, found Y" needs Y as text: `12`, `"int5"`, `true`, `an object`.
std::string describe_value(const Value& value);
// The nearest of `known` within an edit distance that looks like a slip, or empty.
std::string nearest_name(std::string_view name, const std::vector<std::string>& known);

}  // namespace lamina
