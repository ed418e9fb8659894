// Real weights: rows of tensors in .safetensors files, read when asked for and converted to float32.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <filesystem>
#include <map>
#include <stdexcept>

#include "kernels/json.hpp"
#include "kernels/small_floats.hpp"
#include "kernels/weights/safetensors_file.hpp"
#include "kernels/weights/source.hpp"

namespace lamina {

namespace {

namespace fs = std::filesystem;

constexpr int64_t kChunkElements = int64_t{1} << 20;
constexpr int64_t kMaxElements = int64_t{1} << 40;

// One tensor of the stack, as rows [first_row, first_row + rows) of the layer.
struct Part {
  std::shared_ptr<const SafetensorsFile> file;
  std::string name;
  const TensorInfo* info = nullptr;
  int64_t first_row = 0;
  int64_t rows = 0;

  std::string place() const { return fmt::format("{}: tensor {}", file->path(), describe_value(name)); }
};

// Elements [begin, end) of a part, counted from its first.
void read_elements(const Part& part, Range elements, int64_t columns, float* out) {
  if (part.info->dtype == "F32") {
    part.file->read(part.info->begin + elements.begin * 4, elements.size() * 4, out);
  } else {
    std::vector<uint16_t> words(static_cast<size_t>(elements.size()));
    part.file->read(part.info->begin + elements.begin * 2, elements.size() * 2, words.data());
    if (part.info->dtype == "F16")
      std::transform(words.begin(), words.end(), out, float_of_f16);
    else
      std::transform(words.begin(), words.end(), out, float_of_bf16);
  }
  // One infinity or NaN would turn every figure that follows into nonsense.
  const float* bad = std::find_if_not(out, out + elements.size(), [](float v) { return std::isfinite(v); });
  if (bad != out + elements.size()) {
    const int64_t at = elements.begin + (bad - out);
    throw std::runtime_error(fmt::format("{}: expected finite weights, found {} in row {}, column {}",
                                         part.place(), *bad, at / columns, at % columns));
  }
}

class SafetensorsWeights : public WeightSource {
 public:
  SafetensorsWeights(std::string description, std::vector<Part> parts)
      : description_(std::move(description)), parts_(std::move(parts)) {
    shape_.in_features = parts_.front().info->shape[1];
    for (Part& part : parts_) {
      const std::vector<int64_t>& shape = part.info->shape;
      if (shape[1] != shape_.in_features)
        throw std::runtime_error(fmt::format("{}: expected {} columns, as tensor {} has, found {}",
                                             part.place(), shape_.in_features,
                                             describe_value(parts_.front().name), shape[1]));
      part.first_row = shape_.out_features;
      part.rows = shape[0];
      shape_.out_features += shape[0];
    }
  }

  Shape shape() const override { return shape_; }
  std::string describe() const override { return description_; }

  void read_rows(Range rows, float* out, int threads) const override {
    if (rows.begin < 0 || rows.end < rows.begin || rows.end > shape_.out_features)
      throw std::runtime_error(fmt::format("{}: expected rows within 0 to {}, found {} to {}",
                                           parts_.front().file->path(), shape_.out_features, rows.begin,
                                           rows.end));
    const int64_t columns = shape_.in_features;
    for (const Part& part : parts_) {
      const int64_t begin = std::max(rows.begin, part.first_row);
      const int64_t end = std::min(rows.end, part.first_row + part.rows);
      if (begin >= end) continue;
      const Range elements{(begin - part.first_row) * columns, (end - part.first_row) * columns};
      float* const to = out + (begin - rows.begin) * columns;
      const int64_t chunks = (elements.size() + kChunkElements - 1) / kChunkElements;
      std::exception_ptr error;  // none may leave the parallel region
#pragma omp parallel for num_threads(std::max(1, threads)) schedule(static)
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t first = elements.begin + chunk * kChunkElements;
        const Range some{first, std::min(elements.end, first + kChunkElements)};
        try {
          read_elements(part, some, columns, to + chunk * kChunkElements);
        } catch (...) {
#pragma omp critical(lamina_safetensors_error)
          error = std::current_exception();
        }
      }
      if (error) std::rethrow_exception(error);
    }
  }

 private:
  std::string description_;
  std::vector<Part> parts_;
  Shape shape_;
};

// Tensor name → file name, from a *.safetensors.index.json.
std::map<std::string, std::string> read_index(const std::string& path) {
  constexpr int64_t kMaxIndexBytes = 100'000'000;
  Problems problems;
  const auto json = parse_strict_json(read_text_file(path, kMaxIndexBytes), problems);
  if (!problems.empty()) {
    const Problem& first = problems.items().front();
    throw std::runtime_error(
        fmt::format("{}: {}{}", path, first.pointer.empty() ? "" : first.pointer + ": ", first.message));
  }
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    throw std::runtime_error(path + ": expected an object weight_map from tensor names to files, found none");
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // Shards lie beside their index; any other place is an attempt to read what was not named.
    const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
                       name.find('\0') == std::string::npos;
    if (!plain)
      throw std::runtime_error(
          fmt::format("{}: /weight_map/{}: expected the name of a file in the same folder, "
                      "found {}",
                      path, pointer_token(tensor),
                      file.is_string() ? describe_value(name) : std::string(file.type_name())));
    files[tensor] = name;
  }
  return files;
}

Part make_part(std::shared_ptr<const SafetensorsFile> file, const std::string& name) {
  Part part{std::move(file), name, nullptr, 0, 0};
  part.info = &part.file->tensor(name);
  const TensorInfo& info = *part.info;
  if (info.dtype != "F32" && info.dtype != "F16" && info.dtype != "BF16")
    throw std::runtime_error(
        fmt::format("{}: expected dtype F32, F16 or BF16, found {}", part.place(), info.dtype));
  if (info.shape.size() != 2)
    throw std::runtime_error(fmt::format("{}: expected a matrix, found a tensor of {} dimensions",
                                         part.place(), info.shape.size()));
  if (info.shape[0] < 1 || info.shape[1] < 1 || info.shape[0] > kMaxElements / info.shape[1])
    throw std::runtime_error(fmt::format("{}: expected a matrix of 1 to 2^40 elements, found {} x {}",
                                         part.place(), info.shape[0], info.shape[1]));
  return part;
}

}  // namespace

std::unique_ptr<WeightSource> open_safetensors(const std::string& path,
                                               const std::vector<std::string>& tensors) {
  if (tensors.empty()) throw std::runtime_error(path + ": expected at least one tensor name, found none");
  fs::path file = path;
  std::error_code none;
  if (fs::is_directory(file, none)) {
    file = fs::path(path) / "model.safetensors.index.json";
    if (!fs::exists(file, none)) file = fs::path(path) / "model.safetensors";
    if (!fs::exists(file, none))
      throw std::runtime_error(
          path +
          ": expected a folder with model.safetensors.index.json or model.safetensors, found "
          "neither");
  }
  const bool sharded = file.extension() == ".json";
  std::map<std::string, std::string> index;
  if (sharded) index = read_index(file.string());
  std::map<std::string, std::shared_ptr<const SafetensorsFile>> files;
  std::vector<Part> parts;
  for (const std::string& tensor : tensors) {
    fs::path holder = file;
    if (sharded) {
      const auto found = index.find(tensor);
      if (found == index.end()) {
        std::vector<std::string> known;
        for (const auto& entry : index) known.push_back(entry.first);
        const std::string near = nearest_name(tensor, known);
        throw std::runtime_error(fmt::format(
            "{}: expected a tensor {}, found {} others{}", file.string(), describe_value(tensor),
            known.size(), near.empty() ? "" : fmt::format("; did you mean {}?", describe_value(near))));
      }
      holder = file.parent_path() / found->second;
    }
    auto& opened = files[holder.string()];
    if (!opened) opened = std::make_shared<const SafetensorsFile>(holder.string());
    parts.push_back(make_part(opened, tensor));
  }
  const fs::path named = fs::path(path).filename().empty() ? fs::path(path).parent_path() : fs::path(path);
  return std::make_unique<SafetensorsWeights>(named.filename().string(), std::move(parts));
}

}  // namespace lamina
