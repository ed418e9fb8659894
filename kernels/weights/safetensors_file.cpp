#include "kernels/weights/safetensors_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "kernels/json.hpp"

namespace lamina {

namespace {

using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little,
              "safetensors data are little-endian and read as they are");

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100'000'000;
// Linux moves at most 2 GiB − 4 KiB in one read.
constexpr int64_t kMaxReadBytes = int64_t{1} << 30;

// Bits of one element, 0 for an unknown type.
int64_t dtype_bits(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int64_t> kTypes[] = {
      {"BOOL", 8},    {"U8", 8},   {"I8", 8},      {"F8_E4M3", 8}, {"F8_E5M2", 8},
      {"F8_E8M0", 8}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"I16", 16},
      {"U16", 16},    {"F16", 16}, {"BF16", 16},   {"I32", 32},    {"U32", 32},
      {"F32", 32},    {"I64", 64}, {"U64", 64},    {"F64", 64},    {"C64", 64}};
  for (const auto& [name, bits] : kTypes)
    if (name == dtype) return bits;
  return 0;
}

// A JSON value in an error message: one line, ASCII, short.
std::string shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

std::string shown_name(std::string_view name) {
  return describe_value(std::string(name));
}

[[noreturn]] void fail(const std::string& place, const std::string& message) {
  throw std::runtime_error(place + ": " + message);
}

const Json& member(const Json& object, const char* key, const std::string& place) {
  const auto found = object.find(key);
  if (found == object.end())
    fail(place, fmt::format("expected the keys dtype, shape and data_offsets, found no {}", key));
  return *found;
}

// A list of integers from 0 up; the strict parser has bounded them to 63 bits.
std::vector<int64_t> sizes(const Json& value, const char* key, const std::string& place) {
  std::vector<int64_t> out;
  bool good = value.is_array();
  for (size_t i = 0; good && i < value.size(); ++i) {
    good = value[i].is_number_integer() && value[i].get<int64_t>() >= 0;
    if (good) out.push_back(value[i].get<int64_t>());
  }
  if (!good)
    fail(place, fmt::format("expected {} to be a list of integers from 0, found {}", key, shown(value)));
  return out;
}

// Bytes of a tensor; fails where the product does not fit 63 bits or is no whole number of bytes.
int64_t tensor_bytes(const TensorInfo& info, int64_t bits, const std::string& place) {
  int64_t total = bits;
  bool overflow = false;
  const bool empty = std::find(info.shape.begin(), info.shape.end(), 0) != info.shape.end();
  for (int64_t size : info.shape) overflow |= !empty && __builtin_mul_overflow(total, size, &total);
  if (empty) total = 0;
  if (overflow) fail(place, "expected a shape whose size fits 63 bits, found one that overflows");
  if (total % 8 != 0) fail(place, fmt::format("expected a whole number of bytes, found {} bits", total));
  return total / 8;
}

TensorInfo read_entry(const Json& entry, int64_t data_bytes, const std::string& place) {
  if (!entry.is_object())
    fail(place, "expected an object with dtype, shape and data_offsets, found " + shown(entry));
  TensorInfo info;
  const Json& dtype = member(entry, "dtype", place);
  const int64_t bits = dtype.is_string() ? dtype_bits(dtype.get_ref<const std::string&>()) : 0;
  if (bits == 0) fail(place, "expected a known dtype (F32, F16, BF16, …), found " + shown(dtype));
  info.dtype = dtype.get<std::string>();
  info.shape = sizes(member(entry, "shape", place), "shape", place);
  const std::vector<int64_t> offsets = sizes(member(entry, "data_offsets", place), "data_offsets", place);
  if (offsets.size() != 2)
    fail(place, fmt::format("expected data_offsets [begin, end], found {} values", offsets.size()));
  info.begin = offsets[0];
  info.end = offsets[1];
  if (info.end < info.begin)
    fail(place, fmt::format("expected data_offsets with end ≥ begin, found [{}, {}]", info.begin, info.end));
  if (info.end > data_bytes)
    fail(place, fmt::format("expected data_offsets within the file's {} bytes of data, found [{}, {}]",
                            data_bytes, info.begin, info.end));
  const int64_t bytes = tensor_bytes(info, bits, place);
  if (bytes != info.bytes())
    fail(place, fmt::format("expected {} bytes for its shape and dtype, found {} between its data_offsets",
                            bytes, info.bytes()));
  return info;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  // Not blocking: opening a FIFO would otherwise wait for its writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor_ < 0) fail(path_, fmt::format("expected a readable file, found: {}", std::strerror(errno)));
  try {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0)
      fail(path_, fmt::format("cannot be examined: {}", std::strerror(errno)));
    if (!S_ISREG(status.st_mode))
      fail(path_, fmt::format("expected a regular file, found {}",
                              S_ISDIR(status.st_mode) ? "a folder" : "a device, pipe or socket"));
    const int64_t file_bytes = status.st_size;
    if (file_bytes < kLengthBytes)
      fail(path_, fmt::format("expected at least the 8 bytes of the header's length, found {}", file_bytes));
    uint64_t length = 0;
    read(0, kLengthBytes, &length);
    if (length > static_cast<uint64_t>(kMaxHeaderBytes))
      fail(path_, fmt::format("expected a header of at most {} bytes, found a length of {}", kMaxHeaderBytes,
                              length));
    if (static_cast<int64_t>(length) > file_bytes - kLengthBytes)
      fail(path_, fmt::format("expected the header within the file's {} bytes, found a length of {}",
                              file_bytes, length));
    std::string header(length, '\0');
    read(kLengthBytes, static_cast<int64_t>(length), header.data());
    check_header(header, kLengthBytes + static_cast<int64_t>(length), file_bytes);
    check_coverage(kLengthBytes + static_cast<int64_t>(length), file_bytes);
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() {
  ::close(descriptor_);
}

void SafetensorsFile::check_header(std::string_view header, int64_t data_begin, int64_t file_bytes) {
  Problems problems;
  const Json json = parse_strict_json(header, problems);
  if (!problems.empty()) {
    const Problem& first = problems.items().front();
    fail(path_, fmt::format("header{}: {}", first.pointer.empty() ? "" : " " + first.pointer, first.message));
  }
  if (!json.is_object()) fail(path_, "expected a JSON object as header, found " + shown(json));
  for (const auto& [name, entry] : json.items()) {
    const std::string place = fmt::format("{}: tensor {}", path_, shown_name(name));
    if (name == "__metadata__") {
      const bool strings =
          entry.is_object() &&
          std::all_of(entry.begin(), entry.end(), [](const Json& value) { return value.is_string(); });
      if (!strings) fail(path_, "expected __metadata__ to be an object of strings, found " + shown(entry));
      for (const auto& [key, value] : entry.items()) metadata_.emplace(key, value.get<std::string>());
      continue;
    }
    TensorInfo info = read_entry(entry, file_bytes - data_begin, place);
    info.begin += data_begin;
    info.end += data_begin;
    tensors_.emplace(name, std::move(info));
  }
}

void SafetensorsFile::check_coverage(int64_t data_begin, int64_t file_bytes) const {
  std::vector<std::pair<std::pair<int64_t, int64_t>, const std::string*>> order;
  for (const auto& [name, info] : tensors_) order.push_back({{info.begin, info.end}, &name});
  std::sort(order.begin(), order.end());
  int64_t covered = data_begin;
  for (const auto& [range, name] : order) {
    if (range.first == covered) {
      covered = range.second;
      continue;
    }
    fail(fmt::format("{}: tensor {}", path_, shown_name(*name)),
         fmt::format("expected its data at offset {}, right after the previous tensor's, found {} at {}",
                     covered - data_begin, range.first < covered ? "an overlap" : "a hole",
                     range.first - data_begin));
  }
  if (covered != file_bytes)
    fail(path_, fmt::format("expected the file to end with the last tensor's data, found {} trailing bytes",
                            file_bytes - covered));
}

const TensorInfo& SafetensorsFile::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  std::vector<std::string> known;
  for (const auto& entry : tensors_) known.push_back(entry.first);
  const std::string near = nearest_name(name, known);
  fail(path_, fmt::format("expected a tensor {}, found {} others{}", shown_name(name), known.size(),
                          near.empty() ? "" : fmt::format("; did you mean {}?", shown_name(near))));
}

void SafetensorsFile::read(int64_t offset, int64_t bytes, void* out) const {
  char* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t count = ::pread(descriptor_, to, static_cast<size_t>(std::min(bytes, kMaxReadBytes)),
                                  static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(path_, fmt::format("cannot be read at byte {}: {}", offset, std::strerror(errno)));
    if (count == 0)
      fail(path_, fmt::format("expected {} more bytes at byte {}, found the end of the file", bytes, offset));
    to += count;
    offset += count;
    bytes -= count;
  }
}

}  // namespace lamina
