// A sweep as a tree of choices, so that its cases can be counted before any of them is made.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/params.hpp"

namespace lamina {

// One JSON value of an experiment. Every array is a choice among its elements, every object a product over
// its keys, first key slowest, in the file's order. It knows no scheme's keys, with one exception: a flat
// array of strings under the key `tensor` is one value, the names to stack, and an array of such arrays a
// choice.
class Expansion {
 public:
  // Problems (null, an empty array, an array inside an array) go to `problems` with their pointers; such a
  // node counts no cases, and neither does any object around it.
  Expansion(const nlohmann::ordered_json& value, std::string pointer, const std::string& key,
            Problems& problems);

  // How many values this node takes; INT64_MAX where that is more than fits.
  int64_t count() const { return count_; }
  // Value `index` of count(). Objects are fresh Params every time, because each case marks what it read.
  Value value(int64_t index, Problems* problems) const;
  // The place of that value: of the element for an array.
  const std::string& pointer(int64_t index) const;

 private:
  enum class Kind { scalar, choice, product };
  const Expansion& pick(int64_t& index) const;

  Kind kind_ = Kind::scalar;
  std::string pointer_;
  Value scalar_;
  int64_t count_ = 1;
  std::vector<std::string> keys_;    // of a product
  std::vector<Expansion> children_;  // of a product or a choice
  std::vector<int64_t> ends_;        // of a choice: running sum of the children's counts
};

}  // namespace lamina
