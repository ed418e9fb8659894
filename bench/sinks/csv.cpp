// RFC 4180: CRLF, fields quoted where they must be, one header line.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "bench/sinks/sink.hpp"

namespace lamina {
namespace {

std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

// Numbers in their shortest form that reads back to the same value.
std::string field(const RecordValue& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* integer = std::get_if<int64_t>(&value)) return fmt::format("{}", *integer);
  if (const auto* number = std::get_if<double>(&value)) return fmt::format("{}", *number);
  if (const auto* text = std::get_if<std::string>(&value)) return quoted(*text);
  if (const auto* list = std::get_if<std::vector<std::string>>(&value))
    return quoted(fmt::format("{}", fmt::join(*list, "; ")));
  return "";
}

// The union of the records' keys. A key that another record has in between its neighbours goes there, so that
// a scheme's settings stand behind its name; lists of numbers (the samples) stay in records.jsonl.
std::vector<std::string> columns_of(const std::vector<RunRows>& runs) {
  std::vector<std::string> columns;
  for (const RunRows& run : runs) {
    for (const Record& record : run.records) {
      auto place = columns.begin();
      for (const auto& [key, value] : record.values()) {
        const RecordKey* known = find_record_key(key);
        const bool samples = known != nullptr && known->array && known->unit != Unit::text;
        if (samples || std::holds_alternative<std::vector<double>>(value)) continue;
        const auto found = std::find(columns.begin(), columns.end(), key);
        place = found == columns.end() ? columns.insert(place, key) + 1 : found + 1;
      }
    }
  }
  return columns;
}

std::string render(const std::vector<RunRows>& runs) {
  const std::vector<std::string> columns = columns_of(runs);
  std::string out = "run,machine";
  for (const std::string& column : columns) out += "," + quoted(column);
  out += "\r\n";
  for (const RunRows& run : runs) {
    for (const Record& record : run.records) {
      out += quoted(run.name) + "," + quoted(run.machine);
      for (const std::string& column : columns) out += "," + field(record.get(column));
      out += "\r\n";
    }
  }
  return out;
}

}  // namespace

Sink csv_sink() {
  return {"csv", "comma-separated values (RFC 4180), one row per record", render};
}

}  // namespace lamina
