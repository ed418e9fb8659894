#include "kernels/compress/nested.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/registry.hpp"

namespace lamina {
namespace {

const KeySpec kType{.name = "type", .help = "which scheme"};

}  // namespace

NestedScheme::NestedScheme(const Params& params, const KeySpec& key, const Registry& registry,
                           const std::vector<std::string>& excluded)
    : given_(params.object(key)), plain_(params.pointer(), params.problems()), registry_(registry) {
  if (given_ == nullptr && params.has(key.name)) return;  // not an object: reported already
  const std::string type = given_ != nullptr ? given_->string(kType) : "dense";
  std::vector<std::string> known;
  std::string list;
  for (const SchemeType& candidate : registry.schemes()) {
    if (std::find(excluded.begin(), excluded.end(), candidate.type) != excluded.end()) continue;
    if (candidate.type == type) type_ = &candidate;
    known.push_back(candidate.type);
    list += (list.empty() ? "" : ", ") + candidate.type;
  }
  // A missing type is reported already.
  if (type_ != nullptr || given_ == nullptr || !given_->has(kType.name)) return;
  const std::string near = nearest_name(type, known);
  given_->problem(kType.name, fmt::format("expected a scheme{} ({}), found \"{}\"{}",
                                          list == "lowrank" ? "" : " of one matrix", list, type,
                                          near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
}

std::unique_ptr<Scheme> NestedScheme::make(Shape shape) const {
  return type_->make(given_ != nullptr ? *given_ : plain_, shape, registry_);
}

void NestedScheme::report_unread() const {
  if (given_ == nullptr) return;
  std::vector<KeySpec> keys = type_->keys;
  keys.push_back(kType);
  given_->report_unread(keys);
}

std::string nested_name(const Scheme& nested) {
  const std::string name = nested.name(), dense = "dense-";
  if (name == kPlainScheme) return {};
  return "-" + (name.starts_with(dense) ? name.substr(dense.size()) : name);
}

void describe_nested(const std::string& key, const Scheme& nested,
                     std::vector<std::pair<std::string, Value>>& keys) {
  keys.emplace_back(key, nested.name());
  for (auto& [own, value] : nested.describe()) {
    if (own != "dtype") keys.emplace_back(own, value);  // the name says it
  }
}

}  // namespace lamina
