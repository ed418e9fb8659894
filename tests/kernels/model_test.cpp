#include "kernels/weights/model.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace lamina {
namespace {

namespace fs = std::filesystem;

std::string error_of(const std::string& name) {
  try {
    load_model(name);
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "no error";
}

// (K, N) as vLLM's benchmarks/kernels/weight_shapes.py has them.
TEST(Model, ShippedShapesAreTheModels) {
  struct Row {
    const char* model;
    int64_t k_n[4][2];
  };
  const Row table[] = {
      {"llama-3-8b", {{4096, 6144}, {4096, 4096}, {4096, 28672}, {14336, 4096}}},
      {"mistral-7b", {{4096, 6144}, {4096, 4096}, {4096, 28672}, {14336, 4096}}},
      {"llama-3-70b", {{8192, 10240}, {8192, 8192}, {8192, 57344}, {28672, 8192}}},
      {"llama-3.1-405b", {{16384, 18432}, {16384, 16384}, {16384, 106496}, {53248, 16384}}},
      {"qwen2.5-7b", {{3584, 4608}, {3584, 3584}, {3584, 37888}, {18944, 3584}}},
      {"qwen2.5-32b", {{5120, 7168}, {5120, 5120}, {5120, 55296}, {27648, 5120}}},
      {"qwen2.5-72b", {{8192, 10240}, {8192, 8192}, {8192, 59136}, {29568, 8192}}},
  };
  const char* layers[] = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"};
  EXPECT_EQ(shipped_models().size(), std::size(table));
  for (const Row& row : table) {
    const Model model = load_model(row.model);
    EXPECT_EQ(model.name, row.model);
    for (int l = 0; l < 4; ++l)
      EXPECT_EQ(model_layer(model, layers[l]).shape, (Shape{row.k_n[l][1], row.k_n[l][0]}))
          << row.model << " " << layers[l];
  }
}

TEST(Model, FusedLayersAreTheirPartsStacked) {
  for (const std::string& name : shipped_models()) {
    const Model model = load_model(name);
    auto rows = [&](const char* layer) { return model_layer(model, layer).shape.out_features; };
    EXPECT_EQ(rows("qkv_proj"), rows("q_proj") + rows("k_proj") + rows("v_proj")) << name;
    EXPECT_EQ(rows("gate_up_proj"), rows("gate_proj") + rows("up_proj")) << name;
  }
  const Model model = load_model("llama-3-8b");
  const ModelLayer qkv = model_layer(model, "qkv_proj", 3);
  EXPECT_EQ(qkv.tensors, (std::vector<std::string>{"model.layers.3.self_attn.q_proj.weight",
                                                   "model.layers.3.self_attn.k_proj.weight",
                                                   "model.layers.3.self_attn.v_proj.weight"}));
  EXPECT_EQ(qkv.halves, 1);
  const ModelLayer gate_up = model_layer(model, "gate_up_proj");
  EXPECT_EQ(gate_up.tensors, (std::vector<std::string>{"model.layers.0.mlp.gate_proj.weight",
                                                       "model.layers.0.mlp.up_proj.weight"}));
  EXPECT_EQ(gate_up.halves, 2);
  EXPECT_EQ(model_layer(model, "down_proj", 31).tensors,
            std::vector<std::string>{"model.layers.31.mlp.down_proj.weight"});
}

TEST(Model, EveryLayerNameIsKnown) {
  const Model model = load_model("llama-3-8b");
  for (const std::string& layer : model_layer_names()) EXPECT_EQ(model_layer(model, layer).name, layer);
  EXPECT_THROW(model_layer(model, "lm_head"), std::runtime_error);
}

TEST(Model, UnknownNamesGetTheNearest) {
  EXPECT_NE(error_of("llama3-8b").find("did you mean \"llama-3-8b\"?"), std::string::npos)
      << error_of("llama3-8b");
  EXPECT_NE(error_of("zzz").find("expected a shipped model"), std::string::npos);
  EXPECT_NE(error_of("zzz").find("qwen2.5-72b"), std::string::npos);
  EXPECT_NE(error_of("./zzz").find("./zzz"), std::string::npos);
  EXPECT_NE(error_of("").find("expected a shipped model"), std::string::npos) << error_of("");
}

struct ModelFile : testing::Test {
  fs::path folder =
      fs::temp_directory_path() / ("lamina_model_test_" + std::to_string(::getpid())) / "Tiny-1B";
  void SetUp() override { fs::create_directories(folder); }
  void TearDown() override { fs::remove_all(folder.parent_path()); }
  std::string write(const std::string& text) {
    std::ofstream(folder / "config.json") << text;
    return (folder / "config.json").string();
  }
};

TEST_F(ModelFile, ReadsAHuggingFaceConfig) {
  write(R"({"architectures": ["X"], "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
            "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 100, "rope_scaling": {"a": [1]}})");
  for (const std::string& path : {folder.string(), (folder / "config.json").string()}) {
    const Model model = load_model(path);
    EXPECT_EQ(model.name, "Tiny-1B");
    EXPECT_EQ(model.head_dim, 8);
    EXPECT_EQ(model_layer(model, "qkv_proj").shape, (Shape{64 + 2 * 16, 64}));
  }
}

TEST_F(ModelFile, AbsentKeysHaveTheirMeaning) {
  const Model plain = load_model(write(
      R"({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4})"));
  EXPECT_EQ(plain.num_key_value_heads, 4);
  EXPECT_EQ(plain.head_dim, 16);
  const Model null = load_model(write(
      R"({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
          "head_dim": null})"));
  EXPECT_EQ(null.head_dim, 16);
  // A head_dim that hidden_size does not follow: o_proj's K is heads × head_dim.
  const Model wide = load_model(write(
      R"({"hidden_size": 50, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
          "head_dim": 32})"));
  EXPECT_EQ(model_layer(wide, "o_proj").shape, (Shape{50, 128}));
}

TEST_F(ModelFile, BadValuesNameFileAndKey) {
  const std::string rest = R"(, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4})";
  for (const char* value : {"-64", "0", "64.0", "\"64\"", "null", "true", "[64]", "1000000000000", "1e300"}) {
    const std::string path = write("{\"hidden_size\": " + std::string(value) + rest);
    EXPECT_EQ(error_of(path).rfind(path + ": /hidden_size: expected an integer from 1 to ", 0), 0u)
        << error_of(path);
  }
  EXPECT_NE(error_of(write("{\"x\": 1" + rest)).find("/hidden_size: expected an integer"), std::string::npos);
  EXPECT_NE(error_of(write("{\"hidden_size\": 63" + rest)).find("expected a divisor of hidden_size 63"),
            std::string::npos);
  EXPECT_NE(error_of(write("{\"hidden_size\": 64, \"hidden_size\": 64" + rest)).find("each key once"),
            std::string::npos);
  EXPECT_NE(error_of(write("[]")).find("expected an object"), std::string::npos);
  EXPECT_NE(error_of(write("")).find("expected JSON"), std::string::npos);
  fs::remove(folder / "config.json");
  EXPECT_NE(error_of(folder.string()).find("config.json"), std::string::npos);
}

TEST_F(ModelFile, TheEnvironmentNamesTheConfigsFolder) {
  fs::create_directories(folder / "models");
  std::ofstream(folder / "models" / "mine.json")
      << R"({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4})";
  ASSERT_EQ(::setenv("LAMINA_CONFIGS", folder.c_str(), 1), 0);
  const std::vector<std::string> models = shipped_models();
  const std::string error = error_of("llama-3-8b");
  ::unsetenv("LAMINA_CONFIGS");
  EXPECT_EQ(models, std::vector<std::string>{"mine"});
  EXPECT_NE(error.find("expected a shipped model (mine)"), std::string::npos);
}

}  // namespace
}  // namespace lamina
