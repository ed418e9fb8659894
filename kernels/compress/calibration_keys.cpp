#include "kernels/compress/calibration_keys.hpp"

#include <fmt/format.h>

namespace lamina {

const KeySpec kGramTokens{.name = "calibration_tokens",
                          .help = "tokens that methods look at; none of those that quality is measured on",
                          .fallback = int64_t{2048},
                          .min = 1,
                          .max = 1 << 20};
const KeySpec kGramDamping{.name = "damping",
                           .help = "share of the channels' mean square added to each, before compensation",
                           .fallback = 0.1,
                           .min = 1e-6,
                           .max = 1};

CalibrationKeys CalibrationKeys::read(const Params& params, bool tokens, bool damping,
                                      const std::string& why) {
  CalibrationKeys keys;
  if (tokens) keys.tokens = params.integer(kGramTokens);
  if (damping) keys.damping = params.number(kGramDamping);
  for (const auto& [name, used] : {std::pair{kGramTokens.name, tokens}, {kGramDamping.name, damping}}) {
    if (used || !params.has(name)) continue;
    params.mark_read(name);
    params.problem(name, why);
  }
  return keys;
}

std::string CalibrationKeys::suffix() const {
  std::string text;
  if (tokens != 0 && tokens != std::get<int64_t>(kGramTokens.fallback)) text += fmt::format("-c{}", tokens);
  if (damping != 0 && damping != std::get<double>(kGramDamping.fallback))
    text += fmt::format("-d{:.6g}", damping);
  return text;
}

void CalibrationKeys::describe(std::vector<std::pair<std::string, Value>>& keys) const {
  if (tokens != 0) keys.emplace_back("calibration_tokens", tokens);
  if (damping != 0) keys.emplace_back("damping", damping);
}

}  // namespace lamina
