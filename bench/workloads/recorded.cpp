#include "bench/workloads/recorded.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string>

#include "bench/compressed_file.hpp"

namespace lamina {
namespace {

KeySpec file_key(std::string name, std::string help) {
  KeySpec key{std::move(name), std::move(help), nullptr};
  key.optional = true;
  return key;
}

void read_tensor(const Params& params, const std::vector<KeySpec>& keys, std::string& path,
                 std::string& tensor) {
  const KeySpec &file = keys[0], &name = keys[1];
  if (params.has(file.name)) path = params.string(file);
  tensor = params.string(name);
  if (params.has(name.name) && !params.has(file.name))
    params.problem(name.name, fmt::format("expected \"{}\" beside \"{}\", found none", file.name, name.name));
}

}  // namespace

const std::vector<KeySpec>& recorded_keys() {
  static const std::vector<KeySpec> keys = {
      file_key("inputs", "a .safetensors file of the layer's recorded inputs (default: synthetic)"),
      {"inputs_tensor", "its tensor, [tokens × in_features]", std::string("inputs")},
      file_key("compressed", "a file of `lamina compress` to read the scheme's weights from"),
      {"quality_tokens", "held-out tokens that quality is computed on", kQualityTokens, 1, 1 << 20}};
  return keys;
}

const std::vector<KeySpec>& cotangent_keys() {
  static const std::vector<KeySpec> keys = {
      file_key("cotangents",
               "a .safetensors file of recorded cotangents of the outputs, for importance gradient (default: "
               "synthetic)"),
      {"cotangents_tensor", "its tensor, [tokens × out_features]", std::string("cotangents")}};
  return keys;
}

void read_recorded(const Params& params, LayerRef& ref, bool cotangents, int64_t calibration,
                   int64_t tokens) {
  const size_t before = params.problems()->items().size();
  ref.quality_tokens = params.integer(recorded_keys()[3]);
  read_tensor(params, recorded_keys(), ref.inputs, ref.inputs_tensor);
  if (cotangents) read_tensor(params, cotangent_keys(), ref.cotangents, ref.cotangents_tensor);
  if (params.problems()->items().size() != before) return;
  try {
    ref.check_recorded(calibration, std::max(tokens, ref.quality_tokens));
  } catch (const std::exception& error) {
    const bool of_inputs = std::string(error.what()).starts_with(ref.inputs + ":");
    params.problem(!ref.inputs.empty() && of_inputs ? "inputs" : "cotangents", error.what());
  }
}

void read_compressed(const Params& params, const std::vector<LayerRef*>& refs,
                     const std::vector<const Scheme*>& schemes) {
  const KeySpec& key = recorded_keys()[2];
  if (!params.has(key.name)) return;
  const std::string path = params.string(key);
  if (!params.has("weights")) {
    params.problem(key.name, "expected \"weights\" beside it, which it was made of, found none");
    return;
  }
  for (size_t i = 0; i < refs.size(); ++i) {
    refs[i]->compressed = path;
    if (schemes[i] == nullptr || schemes[i]->name().starts_with("dense") || path.empty()) continue;
    try {
      CompressedFile(path).expect(entry_name(refs[i]->tensors), schemes[i]->name(), refs[i]->shape);
    } catch (const std::exception& error) {
      params.problem(key.name, error.what());
    }
  }
}

}  // namespace lamina
