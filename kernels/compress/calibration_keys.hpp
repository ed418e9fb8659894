// The keys of what compression takes from calibration tokens, shared by the schemes that do.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "kernels/params.hpp"

namespace lamina {

extern const KeySpec kGramTokens;   // calibration_tokens
extern const KeySpec kGramDamping;  // damping

struct CalibrationKeys {
  int64_t tokens = 0;  // 0: none are looked at
  double damping = 0;  // 0: their Gram is not taken

  // Reads those of the two that are in use; one of the others is a problem that says `why` not.
  static CalibrationKeys read(const Params& params, bool tokens, bool damping, const std::string& why);
  // "-c512-d0.05": what differs from the defaults, so that names tell schemes apart.
  std::string suffix() const;
  void describe(std::vector<std::pair<std::string, Value>>& keys) const;
};

}  // namespace lamina
