#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/weights/safetensors_file.hpp"
#include "kernels/weights/source.hpp"

namespace lamina {
namespace {

namespace fs = std::filesystem;

const std::string kTiny = LAMINA_TEST_DATA "/tiny.safetensors";
const std::string kSharded = LAMINA_TEST_DATA "/sharded";

std::vector<float> rows_of(const WeightSource& source, Range rows, int threads = 1) {
  std::vector<float> out(static_cast<size_t>(rows.size() * source.shape().in_features), -99.0f);
  source.read_rows(rows, out.data(), threads);
  return out;
}

// The formula of scripts/make_test_safetensors.py.
float ramp(int64_t i, int64_t j, int first) {
  return static_cast<float>(first) + static_cast<float>(i) - static_cast<float>(j) / 8;
}

std::string error_of(const std::string& path, const std::vector<std::string>& tensors) {
  try {
    open_safetensors(path, tensors);
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Safetensors, ReadsEveryTypeAsThePythonPackageWroteIt) {
  const std::tuple<std::string, int64_t, int> tensors[] = {
      {"layer.f32", 6, 1}, {"layer.f16", 5, -2}, {"layer.bf16", 3, 4}};
  for (const auto& [name, rows, first] : tensors) {
    const auto source = open_safetensors(kTiny, {name});
    ASSERT_EQ(source->shape(), (Shape{rows, 8})) << name;
    const std::vector<float> values = rows_of(*source, {0, rows});
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < 8; ++j)
        EXPECT_EQ(values[static_cast<size_t>(i * 8 + j)], ramp(i, j, first)) << name;
    EXPECT_EQ(source->describe(), "tiny.safetensors");
  }
}

TEST(Safetensors, ConvertsEveryKindOfHalf) {
  const auto source = open_safetensors(kTiny, {"halves.f16"});
  const std::vector<float> values = rows_of(*source, {0, source->shape().out_features});
  std::vector<uint16_t> codes{0x0001, 0x03FF, 0x0400, 0x7BFF};
  for (uint16_t sign : {0, 0x8000})
    for (int code = 0; code < 0x7C00; code += 37) codes.push_back(static_cast<uint16_t>(code | sign));
  ASSERT_EQ(values.size(), codes.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    const int exponent = codes[i] >> 10 & 31, fraction = codes[i] & 1023;
    double expected = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    if (codes[i] & 0x8000) expected = -expected;
    EXPECT_EQ(values[i], expected) << codes[i];
    EXPECT_EQ(std::signbit(values[i]), (codes[i] & 0x8000) != 0) << codes[i];
  }
}

TEST(Safetensors, ConvertsExtremeBfloats) {
  const auto source = open_safetensors(kTiny, {"bfloats.bf16"});
  const std::vector<float> expected{std::ldexp(1.0f, -133),
                                    -std::ldexp(1.0f, -133),
                                    std::ldexp(127.0f, -133),
                                    std::ldexp(1.0f, -126),
                                    1.0f,
                                    -1.0f,
                                    std::ldexp(255.0f, 120),
                                    -std::ldexp(255.0f, 120)};
  EXPECT_EQ(rows_of(*source, {0, 2}), expected);
}

TEST(Safetensors, StacksTensorsAndReadsAnySlab) {
  const auto source = open_safetensors(kTiny, {"layer.f16", "layer.f32", "layer.bf16"});
  ASSERT_EQ(source->shape(), (Shape{14, 8}));
  std::vector<float> whole;
  for (const auto& [first, rows] : {std::pair{-2, 5}, std::pair{1, 6}, std::pair{4, 3}})
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < 8; ++j) whole.push_back(ramp(i, j, first));
  for (int64_t begin = 0; begin <= 14; ++begin)
    for (int64_t end = begin; end <= 14; ++end)
      EXPECT_EQ(rows_of(*source, {begin, end}, 2),
                std::vector<float>(whole.begin() + begin * 8, whole.begin() + end * 8));
  std::vector<float> out(200);
  EXPECT_THROW(source->read_rows({0, 15}, out.data(), 1), std::runtime_error);
  EXPECT_THROW(source->read_rows({-1, 3}, out.data(), 1), std::runtime_error);
}

TEST(Safetensors, ReadsShardsThroughTheirIndex) {
  const std::string prefix = "model.layers.0.self_attn.";
  const std::vector<std::string> qkv{prefix + "q_proj.weight", prefix + "k_proj.weight",
                                     prefix + "v_proj.weight"};
  for (const std::string& path : {kSharded, kSharded + "/", kSharded + "/model.safetensors.index.json"}) {
    const auto source = open_safetensors(path, qkv);
    ASSERT_EQ(source->shape(), (Shape{16, 8}));
    const std::vector<float> values = rows_of(*source, {6, 14});  // the end of q, all of k, the start of v
    EXPECT_EQ(values[0], ramp(6, 0, 0));
    EXPECT_EQ(values[2 * 8 + 1], ramp(0, 1, 10));
    EXPECT_EQ(values[6 * 8 + 7], ramp(0, 7, 20));
  }
  EXPECT_EQ(open_safetensors(kSharded + "/", qkv)->describe(), "sharded");
}

TEST(Safetensors, SaysWhatATensorShouldHaveBeen) {
  EXPECT_NE(error_of(kTiny, {"layer.f3"}).find("did you mean \"layer.f32\"?"), std::string::npos);
  EXPECT_NE(error_of(kTiny, {"vector.f32"}).find("expected a matrix, found a tensor of 1 dimensions"),
            std::string::npos);
  EXPECT_NE(error_of(kTiny, {"codes.i8"}).find("expected dtype F32, F16 or BF16, found I8"),
            std::string::npos);
  EXPECT_NE(error_of(kTiny, {"layer.f32", "halves.f16"}).find("tensor \"halves.f16\": expected 8 columns"),
            std::string::npos);
  EXPECT_NE(error_of(kTiny, {}).find("at least one tensor"), std::string::npos);
  EXPECT_NE(error_of(kSharded, {"model.layers.0.mlp.down_proj.weigth"}).find("did you mean"),
            std::string::npos);
  EXPECT_NE(error_of("/nonexistent/x.safetensors", {"a"}).find("/nonexistent/x.safetensors"),
            std::string::npos);
}

// Files that break one rule each, built by hand.
struct MalformedSafetensors : testing::Test {
  fs::path folder = fs::temp_directory_path() / ("lamina_safetensors_test_" + std::to_string(::getpid()));
  void SetUp() override { fs::create_directories(folder); }
  void TearDown() override { fs::remove_all(folder); }

  std::string write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder / name, std::ios::binary) << bytes;
    return (folder / name).string();
  }
  static std::string with_length(uint64_t length, const std::string& rest) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    return bytes + rest;
  }
  // The error of opening tensor "a" in a file of this header and so many zero bytes of data.
  std::string error(const std::string& header, size_t data_bytes) {
    return error_of(
        write("bad.safetensors", with_length(header.size(), header + std::string(data_bytes, '\0'))), {"a"});
  }
  static std::string tensor(const std::string& name, const std::string& shape, int64_t begin, int64_t end,
                            const std::string& dtype = "F32") {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" +
           std::to_string(begin) + "," + std::to_string(end) + "]}";
  }
  void expect(const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_NE(message.find((folder / "bad.safetensors").string()), std::string::npos) << message;
  }
};

TEST_F(MalformedSafetensors, TheBuilderItselfMakesGoodFiles) {
  EXPECT_EQ(error("{" + tensor("a", "[2,3]", 0, 24) + "}  ", 24), "no error");
  EXPECT_EQ(error("{\"__metadata__\":{\"k\":\"v\"}," + tensor("b", "[0,4]", 24, 24) + "," +
                      tensor("a", "[2,3]", 0, 24) + "}",
                  24),
            "no error");
  EXPECT_EQ(error("{" + tensor("s", "[]", 24, 28) + "," + tensor("a", "[2,3]", 0, 24) + "}", 28), "no error");
}

TEST_F(MalformedSafetensors, TooShortForALength) {
  expect(error_of(write("bad.safetensors", ""), {"a"}),
         "expected at least the 8 bytes of the header's length, found 0");
  expect(error_of(write("bad.safetensors", "1234567"), {"a"}), "found 7");
}

TEST_F(MalformedSafetensors, HeaderTooLong) {
  expect(error_of(write("bad.safetensors", with_length(100'000'001, "{}")), {"a"}),
         "at most 100000000 bytes");
  expect(error_of(write("bad.safetensors", with_length(UINT64_MAX, "{}")), {"a"}), "at most 100000000 bytes");
}

TEST_F(MalformedSafetensors, HeaderPastTheFile) {
  expect(error_of(write("bad.safetensors", with_length(3, "{}")), {"a"}),
         "expected the header within the file's 10 bytes");
}

TEST_F(MalformedSafetensors, HeaderIsNoJsonObject) {
  expect(error("{\"a\":", 0), "expected JSON");
  expect(error("", 0), "expected JSON");
  expect(error("[1,2]", 0), "expected a JSON object as header");
  expect(error(std::string(1000, '['), 0), "at most 64 levels");
  expect(error("\xEF\xBB\xBF{}", 0), "byte-order mark");
}

TEST_F(MalformedSafetensors, DuplicateNames) {
  expect(error("{" + tensor("a", "[1,1]", 0, 4) + "," + tensor("a", "[1,1]", 4, 8) + "}", 8),
         "/a: expected each key once");
}

TEST_F(MalformedSafetensors, EntryIsNoTensor) {
  expect(error("{\"a\":3}", 0), "tensor \"a\": expected an object");
  expect(error("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1]}}", 4), "found no data_offsets");
  expect(error("{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}}", 4),
         "expected shape to be a list");
  expect(error("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1.0],\"data_offsets\":[0,4]}}", 4), "found [1,1.0]");
  expect(error("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,-1],\"data_offsets\":[0,4]}}", 4), "found [1,-1]");
  expect(error("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[0]}}", 4), "found 1 values");
}

TEST_F(MalformedSafetensors, UnknownDtype) {
  expect(error("{" + tensor("a", "[1,1]", 0, 4, "F33") + "}", 4),
         "expected a known dtype (F32, F16, BF16, …), found \"F33\"");
  expect(error("{\"a\":{\"dtype\":7,\"shape\":[1,1],\"data_offsets\":[0,4]}}", 4), "expected a known dtype");
}

TEST_F(MalformedSafetensors, EndBeforeBegin) {
  expect(error("{" + tensor("a", "[1,1]", 4, 0) + "}", 4),
         "expected data_offsets with end ≥ begin, found [4, 0]");
}

TEST_F(MalformedSafetensors, OffsetsPastTheFile) {
  expect(error("{" + tensor("a", "[2,1]", 0, 8) + "}", 4), "within the file's 4 bytes");
  expect(error("{" + tensor("a", "[1,1]", 9223372036854775803, 9223372036854775807) + "}", 4),
         "within the file's 4 bytes");
}

TEST_F(MalformedSafetensors, ArithmeticThatOverflows) {
  expect(error("{" + tensor("a", "[4294967296,4294967296]", 0, 4) + "}", 4), "found one that overflows");
  // 2⁶² elements of 32 bits: wraps to 0 in 64-bit arithmetic, the size of its empty range.
  expect(error("{" + tensor("a", "[2147483648,2147483648]", 0, 0) + "}", 0), "found one that overflows");
  expect(error("{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551617],\"data_offsets\":[0,4]}}", 4),
         "64 bits");
}

TEST_F(MalformedSafetensors, SizeDoesNotMatchShapeAndDtype) {
  expect(error("{" + tensor("a", "[2,2]", 0, 8) + "}", 8),
         "expected 16 bytes for its shape and dtype, found 8");
  expect(error("{" + tensor("a", "[2,2]", 0, 20) + "}", 20),
         "expected 16 bytes for its shape and dtype, found 20");
  expect(error("{" + tensor("a", "[1,1]", 0, 1, "F4") + "}", 1),
         "expected a whole number of bytes, found 4 bits");
}

TEST_F(MalformedSafetensors, Overlap) {
  expect(error("{" + tensor("a", "[1,2]", 0, 8) + "," + tensor("b", "[1,2]", 4, 12) + "}", 12),
         "tensor \"b\": expected its data at offset 8, right after the previous tensor's, found an overlap "
         "at 4");
}

TEST_F(MalformedSafetensors, Hole) {
  expect(error("{" + tensor("a", "[1,1]", 0, 4) + "," + tensor("b", "[1,1]", 8, 12) + "}", 12),
         "found a hole at 8");
  expect(error("{" + tensor("a", "[1,1]", 4, 8) + "}", 8), "found a hole at 4");
}

TEST_F(MalformedSafetensors, TrailingBytes) {
  expect(error("{" + tensor("a", "[1,1]", 0, 4) + "}", 5), "found 1 trailing bytes");
  expect(error("{}", 3), "found 3 trailing bytes");
}

TEST_F(MalformedSafetensors, MetadataHoldsOnlyStrings) {
  expect(error("{\"__metadata__\":{\"k\":1}," + tensor("a", "[1,1]", 0, 4) + "}", 4),
         "__metadata__ to be an object of strings");
  expect(error("{\"__metadata__\":[]," + tensor("a", "[1,1]", 0, 4) + "}", 4),
         "__metadata__ to be an object of strings");
}

TEST_F(MalformedSafetensors, EmptyTensorsAreNoLayers) {
  expect(error("{" + tensor("a", "[0,4]", 0, 0) + "}", 0),
         "expected a matrix of 1 to 2^40 elements, found 0 x 4");
}

TEST_F(MalformedSafetensors, NotARegularFile) {
  ASSERT_EQ(::mkfifo((folder / "bad.safetensors").c_str(), 0600), 0);
  expect(error_of((folder / "bad.safetensors").string(), {"a"}), "expected a regular file");
  EXPECT_NE(error_of("/dev/zero", {"a"}).find("expected a regular file"), std::string::npos);
  EXPECT_NE(error_of(folder.string(), {"a"}).find("found neither"), std::string::npos);
}

TEST_F(MalformedSafetensors, WeightsThatAreNotFinite) {
  std::string header = "{" + tensor("a", "[2,2]", 0, 8, "F16") + "}";
  const std::string data("\x00\x3c\x00\x3c\x00\x3c\x00\x7c", 8);  // 1, 1, 1, infinity
  const auto source =
      open_safetensors(write("bad.safetensors", with_length(header.size(), header + data)), {"a"});
  EXPECT_EQ(rows_of(*source, {0, 1}), (std::vector<float>{1, 1}));
  try {
    rows_of(*source, {0, 2}, 2);
    FAIL();
  } catch (const std::runtime_error& e) {
    expect(e.what(), "tensor \"a\": expected finite weights, found inf in row 1, column 1");
  }
}

TEST_F(MalformedSafetensors, AFileThatShrankSinceItWasOpened) {
  const std::string header = "{" + tensor("a", "[2,2]", 0, 16) + "}";
  const std::string path =
      write("bad.safetensors", with_length(header.size(), header + std::string(16, '\0')));
  const auto source = open_safetensors(path, {"a"});
  fs::resize_file(path, 8 + header.size() + 10);
  EXPECT_EQ(rows_of(*source, {0, 1}), (std::vector<float>{0, 0}));
  EXPECT_THROW(rows_of(*source, {0, 2}), std::runtime_error);
}

TEST_F(MalformedSafetensors, IndexThatLeavesItsFolder) {
  fs::copy_file(kTiny, folder / "ok.safetensors");
  auto index_error = [&](const std::string& text) {
    return error_of(write("model.safetensors.index.json", text), {"layer.f32"});
  };
  EXPECT_EQ(index_error(R"({"weight_map":{"layer.f32":"ok.safetensors"}})"), "no error");
  for (const char* name :
       {"../ok.safetensors", "/etc/passwd", "..", ".", "", "a/../ok.safetensors", "ok.safetensors\\u0000"})
    EXPECT_NE(index_error(R"({"weight_map":{"layer.f32":")" + std::string(name) + "\"}}")
                  .find("/weight_map/layer.f32: expected the name of a file in the same folder"),
              std::string::npos)
        << name;
  EXPECT_NE(index_error(R"({"weight_map":{"layer.f32":3}})").find("found number"), std::string::npos);
  EXPECT_NE(index_error(R"({"weight_map":[]})").find("expected an object weight_map"), std::string::npos);
  EXPECT_NE(index_error(R"({"weight_map":{"layer.f32":"a","layer.f32":"b"}})").find("each key once"),
            std::string::npos);
  EXPECT_NE(index_error(R"({"weight_map":{"layer.f32":"gone.safetensors"}})").find("gone.safetensors"),
            std::string::npos);
  EXPECT_NE(
      index_error(R"({"weight_map":{"other":"ok.safetensors"}})").find("expected a tensor \"layer.f32\""),
      std::string::npos);
}

// Offsets past 32 bits. Sparse, so that it takes no disk; only the last row is read.
TEST_F(MalformedSafetensors, LargeFilesAreFine) {
  const int64_t rows = 1'200'000, bytes = rows * 1024 * 4;
  const std::string header = "{" + tensor("a", "[1200000,1024]", 0, bytes) + "}";
  const std::string path = write("bad.safetensors", with_length(header.size(), header));
  std::error_code failed;
  fs::resize_file(path, 8 + header.size() + static_cast<uint64_t>(bytes), failed);
  if (failed) GTEST_SKIP() << "no sparse files here: " << failed.message();
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const float last = 2.5f;
  file.seekp(-4, std::ios::end).write(reinterpret_cast<const char*>(&last), 4);
  file.close();
  const auto source = open_safetensors(path, {"a"});
  const std::vector<float> values = rows_of(*source, {rows - 1, rows});
  EXPECT_EQ(values.front(), 0.0f);
  EXPECT_EQ(values.back(), 2.5f);
}

}  // namespace
}  // namespace lamina
