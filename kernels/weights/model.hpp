// Shapes of a model's linear layers.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernels/compress/scheme.hpp"

namespace lamina {

// From a shipped configs/models/NAME.json or a Hugging Face config.json; both have the same keys.
struct Model {
  std::string name;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
};

struct ModelLayer {
  std::string name;  // "gate_up_proj"
  Shape shape;
  int64_t halves = 1;                // 2 for gate_up_proj: a column shard cuts each half alike
  std::vector<std::string> tensors;  // Hugging Face tensor names of layer `index`, top to bottom
};

// `name` is a shipped model's, a path to a config.json, or a folder with one. Throws std::runtime_error with
// what was expected, what was found, and for an unknown name the nearest known one.
Model load_model(const std::string& name);
std::vector<std::string> shipped_models();
// Layer names: qkv_proj, o_proj, gate_up_proj, down_proj, and q_proj, k_proj, v_proj, gate_proj, up_proj.
const std::vector<std::string>& model_layer_names();
ModelLayer model_layer(const Model& model, const std::string& layer, int64_t index = 0);

}  // namespace lamina
