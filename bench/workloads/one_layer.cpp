#include "bench/workloads/one_layer.hpp"

#include <fmt/format.h>

#include "bench/workloads/placement.hpp"

namespace lamina {
namespace {

const KeySpec kLayer{"layer", "qkv_proj, o_proj, gate_up_proj, down_proj or one of their parts",
                     nullptr, 0,
                     0,       model_layer_names(),
                     true};
const KeySpec kInFeatures{"in_features", "K, instead of model and layer", nullptr, 1, 1 << 24, {}, true};
const KeySpec kOutFeatures{"out_features", "N, instead of model and layer", nullptr, 1, 1 << 24, {}, true};
const KeySpec kTensor{
    "tensor", "the weights' tensor, or a list of tensors to stack by rows (default: the layer's own)",
    nullptr,  0,
    0,        {},
    true};
// The layer by name from a model, or by its two sizes.
bool read_shape(const Params& params, ModelLayer& layer, std::string& model_name) {
  const size_t before = params.problems()->items().size();
  const bool by_size = params.has("in_features") || params.has("out_features");
  if (by_size) {
    for (const char* key : {"model", "layer"})
      if (params.has(key))
        params.problem(key, "expected either model and layer, or in_features and out_features; found both");
    layer.shape.in_features = params.integer(kInFeatures);
    layer.shape.out_features = params.integer(kOutFeatures);
    for (const KeySpec* key : {&kInFeatures, &kOutFeatures})
      if (!params.has(key->name))
        params.problem(key->name, fmt::format("expected \"{}\" beside its pair, found none", key->name));
    layer.name = fmt::format("{}x{}", layer.shape.in_features, layer.shape.out_features);
    for (const char* key : {"model", "layer", "layer_index"}) params.mark_read(key);
    return params.problems()->items().size() == before;
  }
  KeySpec model_key = source_keys()[0], layer_key = kLayer;
  model_key.optional = layer_key.optional = false;
  model_name = params.string(model_key);
  const std::string layer_name = params.string(layer_key);
  const int64_t index = params.integer(source_keys()[1]);
  if (model_name.empty() || layer_name.empty()) return false;
  try {
    const Model model = load_model(model_name);
    model_name = model.name;
    layer = model_layer(model, layer_name, index);
  } catch (const std::exception& e) {
    params.problem("model", e.what());
    return false;
  }
  return true;
}

}  // namespace

const std::vector<KeySpec>& one_layer_keys() {
  static const std::vector<KeySpec> keys = {kLayer, kInFeatures, kOutFeatures, kTensor};
  return keys;
}

std::optional<OneLayer> read_one_layer(const Params& params, const LaunchInfo& launch) {
  const size_t before = params.problems()->items().size();
  OneLayer one;
  const bool shaped = read_shape(params, one.layer, one.model);
  one.ref = read_layer_ref(params, one.layer.name, one.layer, launch);
  if (params.has("tensor")) {
    one.ref.tensors = params.strings(kTensor);
    if (!params.has("weights"))
      params.problem("tensor", "expected \"weights\" beside \"tensor\", found none");
  }
  if (!shaped) return std::nullopt;
  if (params.has("weights") && one.ref.tensors.empty())
    params.problem("weights", "expected \"tensor\" beside weights of a layer given by its sizes, found none");
  if (params.has("weights") && params.problems()->items().size() == before) {
    try {
      one.ref.open();  // a bad file is a bad config: said before anything runs
    } catch (const std::exception& e) {
      params.problem("weights", e.what());
    }
  }
  return one;
}

}  // namespace lamina
