#include "bench/overrides.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <vector>

#include "bench/config.hpp"
#include "kernels/json.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

// No config is deeper than this.
constexpr size_t kMaxSteps = 64;

bool is_utf8(const std::string& text) {
  try {
    (void)Json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> steps;
  for (;;) {
    const size_t dot = path.find('.');
    steps.emplace_back(path.substr(0, dot));
    if (dot == std::string_view::npos) return steps;
    path.remove_prefix(dot + 1);
  }
}

// Walks from `node` along `steps`, making objects for names that are not there yet, and sets the value at the
// end.
void set_at(Json& node, const std::vector<std::string>& steps, size_t from, std::string pointer,
            const Json& value, const std::string& override, Problems& problems) {
  Json* at = &node;
  for (size_t i = from; i < steps.size(); ++i) {
    const std::string& step = steps[i];
    if (at->is_null()) *at = Json::object();
    if (at->is_object()) {
      at = &(*at)[step];
    } else if (at->is_array()) {
      size_t index = 0;
      const auto [end, error] = std::from_chars(step.data(), step.data() + step.size(), index);
      if (error != std::errc() || end != step.data() + step.size() || index >= at->size()) {
        problems.add(pointer, fmt::format("--set {}: expected an index from 0 to {} here, found `{}`",
                                          override, static_cast<int64_t>(at->size()) - 1, step));
        return;
      }
      at = &(*at)[index];
    } else {
      problems.add(pointer,
                   fmt::format("--set {}: expected an object or array here, found {}", override, at->dump()));
      return;
    }
    pointer += "/" + pointer_token(step);
  }
  *at = value;
}

}  // namespace

void apply_override(Json& document, const std::string& override, Problems& problems) {
  if (!is_utf8(override)) {
    problems.add("", "--set: expected UTF-8 text, found other bytes");
    return;
  }
  const size_t equals = override.find('=');
  const std::vector<std::string> steps = split_path(std::string_view(override).substr(0, equals));
  const bool nameless =
      std::any_of(steps.begin(), steps.end(), [](const std::string& step) { return step.empty(); });
  if (equals == std::string::npos || nameless || steps.size() > kMaxSteps) {
    problems.add(
        "",
        fmt::format("--set {}: expected KEY=VALUE such as tokens=[1,64] or measure.max_seconds=1", override));
    return;
  }
  const std::string text = override.substr(equals + 1);
  Problems syntax;
  Json value = parse_strict_json(text, syntax);
  if (!syntax.empty()) {
    // A slip in an array or object must not become a string; anything else is one.
    const bool meant_json = !text.empty() && (text[0] == '[' || text[0] == '{' || text[0] == '"');
    if (meant_json || text.empty()) {
      problems.add("", fmt::format("--set {}: expected a value, found {}", override,
                                   text.empty() ? "none" : syntax.items().front().message));
      return;
    }
    value = text;
  }
  const auto& keys = config_keys();
  if (std::any_of(keys.begin(), keys.end(), [&](const KeySpec& key) { return key.name == steps.front(); })) {
    set_at(document, steps, 0, "", value, override, problems);
    return;
  }
  if (!document.contains("experiments") || !document["experiments"].is_array())
    return;  // reported on its own
  Json& experiments = document["experiments"];
  for (size_t i = 0; i < experiments.size(); ++i) {
    if (!experiments[i].is_object()) continue;  // reported on its own
    set_at(experiments[i], steps, 0, "/experiments/" + std::to_string(i), value, override, problems);
  }
}

}  // namespace lamina
