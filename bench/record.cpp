#include "bench/record.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <unordered_map>

#include "kernels/json.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

const RecordValue kNull = nullptr;

bool in_list(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    if (list.substr(0, comma) == name) return true;
    if (comma == std::string_view::npos) break;
    list.remove_prefix(comma + 1);
  }
  return false;
}

bool is_scheme_setting(std::string_view key) {
  return key.starts_with("scheme_");
}

bool is_snake_case(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

// JSON has no NaN and no infinity, and a list with holes in it would say the wrong thing.
RecordValue finite_or_null(RecordValue value) {
  if (const auto* number = std::get_if<double>(&value)) {
    if (!std::isfinite(*number)) return nullptr;
  } else if (const auto* list = std::get_if<std::vector<double>>(&value)) {
    if (!std::all_of(list->begin(), list->end(), [](double x) { return std::isfinite(x); })) return nullptr;
  }
  return value;
}

Json to_json(const RecordValue& value) {
  return std::visit([](const auto& held) { return Json(held); }, value);
}

[[noreturn]] void fail(const std::string& key, const std::string& expected, const Json& found) {
  std::string text = found.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "…";
  throw std::runtime_error(fmt::format("{}: expected {}, found {}", key, expected, text));
}

RecordValue list_from_json(const std::string& key, bool text, const Json& value) {
  if (text) {
    std::vector<std::string> list;
    for (const Json& item : value) {
      if (!item.is_string()) fail(key, "an array of strings", item);
      list.push_back(item.get<std::string>());
    }
    return list;
  }
  std::vector<double> list;
  for (const Json& item : value) {
    if (!item.is_number()) fail(key, "an array of numbers", item);
    list.push_back(item.get<double>());
  }
  return list;
}

RecordValue value_from_json(const std::string& name, const Json& value) {
  const RecordKey* key = find_record_key(name);
  if (value.is_null()) return nullptr;
  if (value.is_object()) fail(name, "a flat value", value);
  if (key != nullptr && key->array) {
    if (!value.is_array()) fail(name, "an array or null", value);
    return list_from_json(name, key->unit == Unit::text, value);
  }
  if (key != nullptr) {
    if (key->unit == Unit::text && !value.is_string()) fail(name, "a string or null", value);
    if (key->unit == Unit::none && !value.is_boolean()) fail(name, "true, false or null", value);
    const bool numeric = key->unit != Unit::text && key->unit != Unit::none;
    if (numeric && !value.is_number()) fail(name, "a number or null", value);
  }
  if (value.is_array()) return list_from_json(name, !value.empty() && value[0].is_string(), value);
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_integer()) return value.get<int64_t>();
  return value.get<double>();
}

}  // namespace

Record::Record(std::string_view workload) {
  for (const RecordKey& key : record_keys()) {
    if (key.workloads.empty() || in_list(key.workloads, workload)) values_.emplace_back(key.name, nullptr);
  }
  set("schema_version", kSchemaVersion);
  set("workload", std::string(workload));
}

void Record::set(std::string_view key, RecordValue value) {
  value = finite_or_null(std::move(value));
  for (auto& [name, held] : values_) {
    if (name == key) {
      held = std::move(value);
      return;
    }
  }
  if (!is_scheme_setting(key) && find_record_key(key) == nullptr) {
    throw std::logic_error(
        fmt::format("record key `{}` is not in the table: add it to bench/record_keys.cpp", key));
  }
  auto place = values_.end();
  if (is_scheme_setting(key)) {
    // A scheme's settings stand right behind its name.
    const auto last = std::find_if(values_.rbegin(), values_.rend(), [](const auto& entry) {
      return entry.first == "scheme" || is_scheme_setting(entry.first);
    });
    if (last != values_.rend()) place = last.base();
  }
  values_.emplace(place, std::string(key), std::move(value));
}

const RecordValue& Record::get(std::string_view key) const {
  for (const auto& [name, value] : values_) {
    if (name == key) return value;
  }
  return kNull;
}

std::string Record::text(std::string_view key) const {
  const auto* text = std::get_if<std::string>(&get(key));
  return text == nullptr ? std::string() : *text;
}

double Record::number(std::string_view key) const {
  const RecordValue& value = get(key);
  if (const auto* number = std::get_if<double>(&value)) return *number;
  if (const auto* number = std::get_if<int64_t>(&value)) return static_cast<double>(*number);
  return std::numeric_limits<double>::quiet_NaN();
}

bool Record::flag(std::string_view key) const {
  const auto* value = std::get_if<bool>(&get(key));
  return value != nullptr && *value;
}

int64_t Record::integer(std::string_view key) const {
  const auto* number = std::get_if<int64_t>(&get(key));
  return number == nullptr ? 0 : *number;
}

std::string to_json_line(const Record& record) {
  Json object = Json::object();
  for (const auto& [key, value] : record.values()) object[key] = to_json(value);
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Record from_json_line(std::string_view line) {
  Problems problems;
  const Json object = parse_strict_json(line, problems);
  if (!problems.empty()) {
    const Problem& first = problems.items().front();
    throw std::runtime_error(first.pointer.empty() ? first.message : first.pointer + ": " + first.message);
  }
  if (!object.is_object()) fail("record", "a JSON object", object);
  const auto version = object.find("schema_version");
  if (version == object.end() || !version->is_number_integer()) {
    throw std::runtime_error("schema_version: expected an integer, found none: not a line of records.jsonl");
  }
  if (version->get<int64_t>() != kSchemaVersion) {
    throw std::runtime_error(
        fmt::format("schema_version: expected {}, found {}: read it with the Lamina that wrote it",
                    kSchemaVersion, version->get<int64_t>()));
  }
  const auto workload = object.find("workload");
  if (workload == object.end() || !workload->is_string()) {
    throw std::runtime_error("workload: expected a string, found none: not a line of records.jsonl");
  }
  Record record;
  for (const auto& [key, value] : object.items()) {
    if (!is_snake_case(key)) throw std::runtime_error("expected snake_case keys, found " + Json(key).dump());
    record.values_.emplace_back(key, value_from_json(key, value));
  }
  return record;
}

std::vector<Record> read_records(const std::string& path, std::string* warning) {
  // A long run keeps every sample: far larger than a config, but still no more than a machine holds.
  const std::string text = read_text_file(path, int64_t{4} << 30);
  std::vector<Record> records;
  int64_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find('\n', begin);
    const bool whole = newline != std::string::npos;
    const std::string_view line(text.data() + begin, (whole ? newline : text.size()) - begin);
    ++line_number;
    try {
      records.push_back(from_json_line(line));
    } catch (const std::runtime_error& error) {
      if (whole) throw std::runtime_error(fmt::format("{}:{}: {}", path, line_number, error.what()));
      if (warning != nullptr) {
        *warning = fmt::format("{}:{}: dropped a torn last line ({} bytes), as an interrupted run leaves it",
                               path, line_number, line.size());
      }
    }
    begin = whole ? newline + 1 : text.size();
  }
  return records;
}

std::vector<Record> last_of_each_case(std::vector<Record> records) {
  std::vector<Record> last;
  std::unordered_map<std::string, size_t> places;
  for (Record& record : records) {
    const auto [place, added] = places.emplace(record.text("case"), last.size());
    if (added)
      last.push_back(std::move(record));
    else
      last[place->second] = std::move(record);
  }
  return last;
}

}  // namespace lamina
