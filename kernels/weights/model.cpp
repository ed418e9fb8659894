#include "kernels/weights/model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "kernels/json.hpp"

namespace lamina {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLargest = int64_t{1} << 24;  // features: far past any model, far below any overflow

// Where the shipped configs are: LAMINA_CONFIGS, beside the installed program, or where the build says.
fs::path configs_folder() {
  std::vector<fs::path> places;
  if (const char* given = std::getenv("LAMINA_CONFIGS")) places.emplace_back(given);
  std::error_code none;
  const fs::path program = fs::read_symlink("/proc/self/exe", none);
  if (!none) places.push_back(program.parent_path().parent_path() / "share/lamina/configs");
  places.emplace_back(LAMINA_INSTALLED_CONFIGS);
  places.emplace_back(LAMINA_SOURCE_CONFIGS);
  for (const fs::path& place : places)
    if (fs::is_directory(place / "models", none)) return place;
  std::string tried;
  for (const fs::path& place : places) tried += (tried.empty() ? "" : ", ") + place.string();
  throw std::runtime_error("expected the shipped configs with a folder models, found none in " + tried +
                           "; set LAMINA_CONFIGS to the configs folder");
}

int64_t size_key(const nlohmann::ordered_json& json, const std::string& path, const char* key,
                 int64_t fallback) {
  if (!json.contains(key) || json[key].is_null()) {
    if (fallback > 0) return fallback;
    throw std::runtime_error(
        fmt::format("{}: /{}: expected an integer from 1 to {}, found none", path, key, kLargest));
  }
  const auto& value = json[key];
  if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > kLargest) {
    throw std::runtime_error(
        fmt::format("{}: /{}: expected an integer from 1 to {}, found {}", path, key, kLargest,
                    value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).substr(0, 40)));
  }
  return value.get<int64_t>();
}

Model read_model(const std::string& path, const std::string& name) {
  Problems problems;
  const nlohmann::ordered_json json = parse_strict_json(read_text_file(path), problems);
  if (!problems.empty()) {
    const Problem& first = problems.items().front();
    throw std::runtime_error(
        fmt::format("{}: {}{}", path, first.pointer.empty() ? "" : first.pointer + ": ", first.message));
  }
  if (!json.is_object())
    throw std::runtime_error(path + ": expected an object with a model's sizes, found something else");
  Model model;
  model.name = name;
  model.hidden_size = size_key(json, path, "hidden_size", 0);
  model.intermediate_size = size_key(json, path, "intermediate_size", 0);
  model.num_hidden_layers = size_key(json, path, "num_hidden_layers", 0);
  model.num_attention_heads = size_key(json, path, "num_attention_heads", 0);
  model.num_key_value_heads = size_key(json, path, "num_key_value_heads", model.num_attention_heads);
  const bool has_head_dim = json.contains("head_dim") && !json["head_dim"].is_null();
  if (!has_head_dim && model.hidden_size % model.num_attention_heads != 0) {
    throw std::runtime_error(fmt::format(
        "{}: /num_attention_heads: expected a divisor of hidden_size {} (or a head_dim), found {}", path,
        model.hidden_size, model.num_attention_heads));
  }
  model.head_dim =
      size_key(json, path, "head_dim", std::max<int64_t>(1, model.hidden_size / model.num_attention_heads));
  for (const int64_t heads : {model.num_attention_heads, model.num_key_value_heads}) {
    if (heads > kLargest / model.head_dim)
      throw std::runtime_error(
          fmt::format("{}: /head_dim: expected heads × head_dim of at most {}, found {} × {}", path, kLargest,
                      heads, model.head_dim));
  }
  return model;
}

}  // namespace

std::vector<std::string> shipped_models() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(configs_folder() / "models"))
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

Model load_model(const std::string& name) {
  std::error_code none;
  const bool is_path =
      name.find('/') != std::string::npos || name.ends_with(".json") || fs::exists(name, none);
  if (is_path) {
    const fs::path path = fs::is_directory(name, none) ? fs::path(name) / "config.json" : fs::path(name);
    // A Hugging Face checkout is named by its folder.
    const bool plain = path.filename() == "config.json";
    const std::string stem =
        plain ? fs::absolute(path).parent_path().filename().string() : path.stem().string();
    return read_model(path.string(), stem);
  }
  const std::vector<std::string> known = shipped_models();
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    const std::string near = nearest_name(name, known);
    throw std::runtime_error(fmt::format(
        "expected a shipped model ({}) or the path of a config.json, found \"{}\"{}", fmt::join(known, ", "),
        name, near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
  }
  return read_model((configs_folder() / "models" / (name + ".json")).string(), name);
}

const std::vector<std::string>& model_layer_names() {
  static const std::vector<std::string> names = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "q_proj",
                                                 "k_proj",   "v_proj", "gate_proj",    "up_proj"};
  return names;
}

ModelLayer model_layer(const Model& model, const std::string& layer, int64_t index) {
  const int64_t hidden = model.hidden_size, wide = model.intermediate_size;
  const int64_t q = model.num_attention_heads * model.head_dim,
                kv = model.num_key_value_heads * model.head_dim;
  const std::string prefix = fmt::format("model.layers.{}.", index), attention = prefix + "self_attn.",
                    mlp = prefix + "mlp.";
  const auto tensor = [](const std::string& base, const char* name) { return base + name + ".weight"; };
  ModelLayer made;
  made.name = layer;
  if (layer == "qkv_proj") {
    made.shape = {q + 2 * kv, hidden};
    made.tensors = {tensor(attention, "q_proj"), tensor(attention, "k_proj"), tensor(attention, "v_proj")};
  } else if (layer == "o_proj") {
    made.shape = {hidden, q};
    made.tensors = {tensor(attention, "o_proj")};
  } else if (layer == "gate_up_proj") {
    made.shape = {2 * wide, hidden};
    made.halves = 2;
    made.tensors = {tensor(mlp, "gate_proj"), tensor(mlp, "up_proj")};
  } else if (layer == "down_proj") {
    made.shape = {hidden, wide};
    made.tensors = {tensor(mlp, "down_proj")};
  } else if (layer == "q_proj" || layer == "k_proj" || layer == "v_proj") {
    made.shape = {layer == "q_proj" ? q : kv, hidden};
    made.tensors = {tensor(attention, layer.c_str())};
  } else if (layer == "gate_proj" || layer == "up_proj") {
    made.shape = {wide, hidden};
    made.tensors = {tensor(mlp, layer.c_str())};
  } else {
    throw std::runtime_error(
        fmt::format("expected a layer ({}), found \"{}\"", fmt::join(model_layer_names(), ", "), layer));
  }
  return made;
}

}  // namespace lamina
