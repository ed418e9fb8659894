// One .safetensors file: its header, checked against every rule of the format, and its bytes by pread.
//
// The format is 8 bytes of little-endian header length, a JSON header (name → dtype, shape, data_offsets),
// then the data; see https://github.com/huggingface/safetensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace lamina {

struct TensorInfo {
  std::string dtype;           // "F32", "BF16", …
  std::vector<int64_t> shape;  // outermost first; empty for a scalar
  int64_t begin = 0;           // bytes from the start of the file
  int64_t end = 0;
  int64_t bytes() const { return end - begin; }
};

class SafetensorsFile {
 public:
  // Opens and checks the file. Throws std::runtime_error naming the file, the tensor and the broken rule.
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const { return tensors_; }
  // Of __metadata__: texts by name.
  const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }
  // Throws std::runtime_error with the nearest name when there is no such tensor.
  const TensorInfo& tensor(const std::string& name) const;

  // Exactly `bytes` bytes from `offset`; safe from many threads. Throws std::runtime_error on a failed read
  // or a file that has become shorter.
  void read(int64_t offset, int64_t bytes, void* out) const;

 private:
  void check_header(std::string_view header, int64_t data_begin, int64_t file_bytes);
  void check_coverage(int64_t data_begin, int64_t file_bytes) const;

  std::string path_;
  int descriptor_ = -1;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

}  // namespace lamina
