// configs/schema.json says to an editor what the program says to a user: both must know the same keys.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "bench/config.hpp"
#include "bench/workload.hpp"
#include "kernels/json.hpp"
#include "kernels/registry.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

const std::string kConfigs = std::string(LAMINA_ROOT) + "/configs/";

Json load(const std::string& path) {
  Problems problems;
  Json json = parse_strict_json(read_text_file(path), problems);
  for (const Problem& problem : problems.items())
    ADD_FAILURE() << path << problem.pointer << ": " << problem.message;
  return json;
}

const Json& schema() {
  static const Json json = load(kConfigs + "schema.json");
  return json;
}

const Json& definition(const std::string& name) {
  static const Json none = Json::object();
  if (!schema()["$defs"].contains(name)) {
    ADD_FAILURE() << "no $defs/" << name;
    return none;
  }
  return schema()["$defs"][name];
}

const Json& resolve(const Json& node) {
  if (!node.contains("$ref")) return node;
  const std::string ref = node["$ref"];
  EXPECT_TRUE(ref.starts_with("#/$defs/")) << ref;
  return resolve(definition(ref.substr(8)));
}

// Of a key that may be swept: what one value must be.
const Json& one_value(const Json& property) {
  return resolve(property.contains("anyOf") ? property["anyOf"][0] : property);
}

Json fallback_of(const KeySpec& key) {
  if (const auto* integer = std::get_if<int64_t>(&key.fallback)) return *integer;
  if (const auto* number = std::get_if<double>(&key.fallback)) return *number;
  if (const auto* text = std::get_if<std::string>(&key.fallback)) return *text;
  if (const auto* flag = std::get_if<bool>(&key.fallback)) return *flag;
  return nullptr;
}

void expect_same_keys(const std::string& what, const Json& object, const std::vector<KeySpec>& keys,
                      const std::set<std::string>& beside) {
  EXPECT_EQ(object.value("additionalProperties", true), false) << what;
  std::set<std::string> declared = beside, described;
  for (const KeySpec& key : keys) declared.insert(key.name);
  for (const auto& [name, property] : object["properties"].items()) described.insert(name);
  EXPECT_EQ(declared, described) << what;

  for (const KeySpec& key : keys) {
    if (!described.contains(key.name)) continue;
    const std::string place = what + "." + key.name;
    const Json& property = object["properties"][key.name];
    const Json& value = one_value(property);
    if (key.min != key.max) {
      EXPECT_EQ(value.value("minimum", 1e99), key.min) << place;
      EXPECT_EQ(value.value("maximum", -1e99), key.max) << place;
    }
    if (!key.choices.empty()) {
      EXPECT_EQ(value.value("enum", std::vector<std::string>()), key.choices) << place;
    }
    EXPECT_EQ(property.contains("default") ? property["default"] : Json(), fallback_of(key)) << place;
    EXPECT_TRUE(property.contains("description") || property.contains("$ref")) << place;
  }
}

const Registry& registry() {
  static const Registry filled = [] {
    Registry one;
    register_kernels(one);
    return one;
  }();
  return filled;
}

TEST(Schema, KnowsTheTopLevelAndMeasure) {
  expect_same_keys("config", schema(), config_keys(), {});
  expect_same_keys("measure", definition("measure"), measure_keys(), {});
}

TEST(Schema, KnowsEveryWorkload) {
  std::set<std::string> names;
  for (const WorkloadType& workload : workloads()) {
    names.insert(workload.name);
    expect_same_keys(workload.name, definition("workload_" + workload.name), workload.keys, {"workload"});
  }
  EXPECT_EQ(definition("workload").value("enum", std::set<std::string>()), names);
}

// A value, or an array of such values.
void expect_axis(const std::string& place, const Json& property) {
  ASSERT_TRUE(property.contains("anyOf") && property["anyOf"].size() == 2) << place;
  const Json& array = property["anyOf"][1];
  EXPECT_EQ(array.value("type", ""), "array") << place;
  EXPECT_EQ(array["items"], property["anyOf"][0]) << place;
}

TEST(Schema, LetsEveryKeyOfAnExperimentBeAnAxis) {
  const Json& experiment = definition("experiment");
  expect_axis("experiment.workload", experiment["properties"]["workload"]);
  for (const WorkloadType& workload : workloads()) {
    for (const auto& [name, property] : definition("workload_" + workload.name)["properties"].items())
      expect_axis(workload.name + "." + name, property);
    // An array of workloads has to meet each one's definition.
    const Json one = {{"const", workload.name}}, among = {{"type", "array"}, {"contains", one}};
    const Json expected = {{"if", {{"properties", {{"workload", {{"anyOf", Json::array({one, among})}}}}}}},
                           {"then", {{"$ref", "#/$defs/workload_" + workload.name}}}};
    EXPECT_THAT(experiment["allOf"], testing::Contains(expected)) << workload.name;
  }
  for (const SchemeType& scheme : registry().schemes())
    for (const KeySpec& key : scheme.keys)
      expect_axis(scheme.type + "." + key.name, definition("scheme_" + scheme.type)["properties"][key.name]);
}

TEST(Schema, KnowsEveryScheme) {
  std::set<std::string> names;
  for (const SchemeType& scheme : registry().schemes()) {
    names.insert(scheme.type);
    expect_same_keys(scheme.type, definition("scheme_" + scheme.type), scheme.keys, {"type"});
  }
  const Json& pick = definition("scheme");
  EXPECT_EQ(pick["properties"]["type"]["enum"].get<std::set<std::string>>(), names);
  EXPECT_EQ(pick["allOf"].size(), names.size());
}

void expect_references_resolve(const Json& node) {
  if (node.is_object() && node.contains("$ref")) (void)resolve(node);
  if (node.is_structured()) {
    for (const Json& child : node) expect_references_resolve(child);
  }
}

TEST(Schema, ReferencesResolve) {
  expect_references_resolve(schema());
}

TEST(Schema, ShippedConfigsAreRead) {
  int64_t configs = 0;
  for (const auto& file : std::filesystem::directory_iterator(kConfigs)) {
    if (file.path().extension() != ".json" || file.path().filename() == "schema.json") continue;
    Problems problems;
    const Config config = read_config(read_text_file(file.path().string()), {}, false, problems);
    for (const Problem& problem : problems.items()) {
      ADD_FAILURE() << file.path() << problem.pointer << ": " << problem.message;
    }
    EXPECT_FALSE(config.cases.empty()) << file.path();
    ++configs;
  }
  EXPECT_GE(configs, 2);
}

}  // namespace
}  // namespace lamina
