#include "bench/expansion.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/json.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;
// Far more than any workload declares; Params looks keys up one by one.
constexpr size_t kMaxKeys = 1000;
constexpr int64_t kMostBytes = int64_t{1} << 40;  // of a message
constexpr int64_t kMany = std::numeric_limits<int64_t>::max();

int64_t saturating_product(int64_t a, int64_t b) {
  int64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) ? kMany : result;
}

int64_t saturating_sum(int64_t a, int64_t b) {
  return a > kMany - b ? kMany : a + b;
}

bool is_list_of_names(const Json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(), [](const Json& item) { return item.is_string(); });
}

// {"from": 8, "to": 1024, "factor": 2}: 8, 16, …, 1024.
std::vector<int64_t> range_of(const Json& value, const std::string& pointer, Problems& problems) {
  const size_t before = problems.items().size();
  const auto integer = [&](const char* name, int64_t least, int64_t fallback) {
    if (!value.contains(name) && fallback > 0) return fallback;
    const std::string place = value.contains(name) ? pointer + "/" + name : pointer;
    const std::string expected =
        fmt::format("expected an integer \"{}\" from {} to {}", name, least, kMostBytes);
    if (!value.contains(name) || !value[name].is_number_integer()) {
      problems.add(place,
                   expected + (value.contains(name) ? ", found " + value[name].dump() : ", found none"));
    } else if (const auto found = value[name].get<int64_t>(); found >= least && found <= kMostBytes) {
      return found;
    } else {
      problems.add(place, fmt::format("{}, found {}", expected, found));
    }
    return least;
  };
  for (const auto& [name, held] : value.items())
    if (name != "from" && name != "to" && name != "factor")
      problems.add(pointer + "/" + pointer_token(name),
                   "expected from, to and factor alone, found \"" + name + "\"");
  const int64_t from = integer("from", 1, 0), to = integer("to", 1, 0), factor = integer("factor", 2, 2);
  if (problems.items().size() == before && to < from)
    problems.add(pointer, fmt::format("expected \"to\" of at least \"from\" ({}), found {}", from, to));
  std::vector<int64_t> all;
  if (problems.items().size() != before) return all;
  for (int64_t bytes = from; bytes <= to; bytes *= factor) {
    all.push_back(bytes);
    if (bytes > to / factor) break;  // the next would be past the end, and of the integers too
  }
  return all;
}

}  // namespace

Expansion::Expansion(const Json& value, std::string pointer, const std::string& key, Problems& problems)
    : pointer_(std::move(pointer)) {
  if (key == "tensor" && is_list_of_names(value)) {
    scalar_ = value.get<std::vector<std::string>>();
  } else if (value.is_array()) {
    kind_ = Kind::choice;
    count_ = 0;
    if (value.empty()) problems.add(pointer_, "expected at least one value, found an empty array");
    for (size_t i = 0; i < value.size(); ++i) {
      std::string place = pointer_ + "/" + std::to_string(i);
      if (value[i].is_array() && !(key == "tensor" && is_list_of_names(value[i]))) {
        problems.add(std::move(place), "expected a value to sweep over, found an array inside an array");
        continue;
      }
      children_.emplace_back(value[i], std::move(place), key, problems);
      count_ = saturating_sum(count_, children_.back().count_);
      ends_.push_back(count_);
    }
  } else if (value.is_object() && key == "message_bytes") {
    kind_ = Kind::choice;
    count_ = 0;
    for (const int64_t bytes : range_of(value, pointer_, problems)) {
      children_.emplace_back(Json(bytes), pointer_, key, problems);
      ends_.push_back(++count_);
    }
  } else if (value.is_object()) {
    kind_ = Kind::product;
    if (value.size() > kMaxKeys) {
      problems.add(pointer_, "expected at most 1000 keys, found " + std::to_string(value.size()));
      count_ = 0;
      return;
    }
    for (const auto& [name, held] : value.items()) {
      children_.emplace_back(held, pointer_ + "/" + pointer_token(name), name, problems);
      keys_.push_back(name);
      count_ = saturating_product(count_, children_.back().count_);
    }
  } else if (value.is_null()) {
    problems.add(pointer_, "expected a value, found null; leave the key out for its default");
    count_ = 0;
  } else if (value.is_boolean()) {
    scalar_ = value.get<bool>();
  } else if (value.is_string()) {
    scalar_ = value.get<std::string>();
  } else if (value.is_number_integer()) {
    scalar_ = value.get<int64_t>();
  } else {
    scalar_ = value.get<double>();
  }
}

const Expansion& Expansion::pick(int64_t& index) const {
  const auto found = std::upper_bound(ends_.begin(), ends_.end(), index);
  if (found != ends_.begin()) index -= *(found - 1);
  return children_[static_cast<size_t>(found - ends_.begin())];
}

const std::string& Expansion::pointer(int64_t index) const {
  return kind_ == Kind::choice ? pick(index).pointer(index) : pointer_;
}

Value Expansion::value(int64_t index, Problems* problems) const {
  if (kind_ == Kind::scalar) return scalar_;
  if (kind_ == Kind::choice) {
    const Expansion& child = pick(index);
    return child.value(index, problems);
  }
  std::vector<int64_t> digits(children_.size());
  for (size_t i = children_.size(); i-- > 0;) {
    digits[i] = index % children_[i].count_;
    index /= children_[i].count_;
  }
  auto params = std::make_shared<Params>(pointer_, problems);
  for (size_t i = 0; i < children_.size(); ++i) {
    params->set(keys_[i], children_[i].value(digits[i], problems), children_[i].pointer(digits[i]));
  }
  return params;
}

}  // namespace lamina
