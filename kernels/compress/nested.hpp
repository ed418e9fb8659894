// A scheme within a scheme: what a key such as lowrank's `factors` or pruned's `values` holds.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/compress/scheme.hpp"

namespace lamina {

// What a nested scheme is unless given, and what adds nothing to a name.
inline constexpr std::string_view kPlainScheme = "dense-f32";

// Reads the object at `key` of the outer scheme's params: its type, which must be none of `excluded`, and
// later its own keys. Absent, it is dense.
class NestedScheme {
 public:
  NestedScheme(const Params& params, const KeySpec& key, const Registry& registry,
               const std::vector<std::string>& excluded);
  // False after a problem, which is recorded.
  bool ok() const { return type_ != nullptr; }
  // As SchemeType::make. Only where ok().
  std::unique_ptr<Scheme> make(Shape shape) const;
  // Records the keys that no make() has read. Only where ok().
  void report_unread() const;

 private:
  std::shared_ptr<Params> given_;  // null: dense
  Params plain_;
  const Registry& registry_;
  const SchemeType* type_ = nullptr;
};

// What the nested scheme adds to the outer one's name: "-int8", "-bf16" of dense-bf16, nothing of dense-f32.
std::string nested_name(const Scheme& nested);
// Adds {key, the nested scheme's name} and that scheme's own keys.
void describe_nested(const std::string& key, const Scheme& nested,
                     std::vector<std::pair<std::string, Value>>& keys);

}  // namespace lamina
