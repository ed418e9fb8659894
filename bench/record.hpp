// A record: one row of results, as an ordered list of named values; and the table of keys with what each
// means.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lamina {

// Held-out tokens that `quality` is computed on unless a config asks for others, and in every record that
// does not say: so schemes compare across token counts.
inline constexpr int64_t kQualityTokens = 16;

// How sinks print a key's values.
enum class Unit {
  none,
  text,
  count,
  microseconds,
  seconds,
  bytes,
  gigabytes_per_s,
  gflops,
  tokens_per_s,
  ratio,
  fraction,
  error
};

struct RecordKey {
  std::string name;  // with its unit: latency_us_p50
  Unit unit = Unit::none;
  std::string help;            // one line; docs/record.md is held against this table by a test
  std::string workloads = {};  // empty: every workload's records have it; else a comma-separated list
  bool array = false;          // of such values
};
// Every key, in the record's order. A metric is added here and where it is computed, and every sink prints it
// by its unit.
const std::vector<RecordKey>& record_keys();
const RecordKey* find_record_key(std::string_view name);

inline constexpr int64_t kSchemaVersion = 1;

using RecordValue = std::variant<std::nullptr_t, bool, int64_t, double, std::string, std::vector<double>,
                                 std::vector<std::string>>;

class Record {
 public:
  // All keys of the workload, null but for `schema_version` and `workload`.
  explicit Record(std::string_view workload);
  Record() = default;
  // Throws std::logic_error for a key not in the table (scheme_* excepted). Non-finite doubles become null,
  // and so does a list that holds one.
  void set(std::string_view key, RecordValue value);
  const RecordValue& get(std::string_view key) const;  // null value when absent
  std::string text(std::string_view key) const;        // empty when not a string
  double number(std::string_view key) const;           // NaN when not a number
  int64_t integer(std::string_view key) const;         // 0 when not an integer
  bool flag(std::string_view key) const;               // whether it is set, and true
  const std::vector<std::pair<std::string, RecordValue>>& values() const { return values_; }

 private:
  friend Record from_json_line(std::string_view line);  // keeps keys that this program does not know
  std::vector<std::pair<std::string, RecordValue>> values_;
};

std::string to_json_line(const Record& record);
// Throws std::runtime_error on anything but one flat JSON object whose known keys have their types and whose
// schema_version is one this program reads. Unknown snake_case keys are kept: a newer program may have added
// them.
Record from_json_line(std::string_view line);

// The records of a records.jsonl, in order. A torn last line (one without its newline that is no record, as a
// killed run leaves it) is dropped and `warning` says so. Throws std::runtime_error naming file and line for
// any other malformed line.
std::vector<Record> read_records(const std::string& path, std::string* warning);
// The last record of each case, where its first one stood: a resumed run does again what did not come out.
std::vector<Record> last_of_each_case(std::vector<Record> records);

}  // namespace lamina
