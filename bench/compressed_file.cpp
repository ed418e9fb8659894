#include "bench/compressed_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "bench/atomic_file.hpp"
#include "distributed/agree.hpp"
#include "kernels/json.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "lamina-compressed-2";
// Of the header, for itself and for each entry: what is left of it is spaces.
constexpr int64_t kHeaderBytes = 4096, kEntryBytes = 16384;

const char* const kPatterns[] = {"dense", "unstructured", "n_of_m", "block"};
static_assert(std::size(kPatterns) == static_cast<size_t>(PatternKind::block) + 1);

// The matrices of canonical weights, as the file names them: of U and V with a prefix.
std::vector<std::string> leaf_names(size_t leaves) {
  if (leaves == 1) return {""};
  if (leaves == 2) return {"u.", "v."};
  return {"", "u.", "v."};
}

// An array of a leaf: its name, dtype and columns, and whether all rows share one.
template <class Numbers>
struct ArrayOf {
  using Number = typename Numbers::value_type;
  const char* name;
  const char* dtype;
  Numbers* values;
  int64_t columns;
  bool shared;
};
// Calls visit with each array that a leaf may have.
template <class AnyLeaf, class Visit>
void for_each_array(AnyLeaf& leaf, const Visit& visit) {
  const auto array = [&](const char* name, const char* dtype, auto& values, int64_t columns, bool shared) {
    visit(ArrayOf<std::remove_reference_t<decltype(values)>>{name, dtype, &values, columns, shared});
  };
  array("values", "F32", leaf.values, leaf.cols, false);
  array("codes", "I8", leaf.codes, leaf.cols, false);
  array("scales", "F32", leaf.scales, leaf.groups(), false);
  array("zero_points", "I8", leaf.zero_points, leaf.groups(), false);
  array("input_scales", "F32", leaf.input_scales, leaf.cols, true);
  array("mask", "U8", leaf.mask, leaf.cols, false);
}

Json describe(const Leaf& leaf) {
  const Pattern& p = leaf.pattern;
  return {{"rows", leaf.whole_rows},
          {"cols", leaf.cols},
          {"bits", leaf.bits},
          {"fp8", leaf.fp8},
          {"fp16", leaf.fp16},
          {"group", leaf.group},
          {"per_channel", leaf.per_channel},
          {"activations", name_of(leaf.activation)},
          {"pattern", kPatterns[static_cast<size_t>(p.kind)]},
          {"n", p.n},
          {"m", p.m},
          {"block_rows", p.block_rows},
          {"block_cols", p.block_cols}};
}

template <size_t kCount>
size_t index_of(const char* const (&names)[kCount], const std::string& name) {
  const auto* found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) throw std::runtime_error(fmt::format("unknown kind \"{}\"", name));
  return static_cast<size_t>(found - std::begin(names));
}

// A whole number that a size or count of weights may have: what a text says may be negative, huge or broken.
int64_t size_in(const Json& json, const char* key) {
  constexpr int64_t kMost = int64_t{1} << 32;  // products of two fit
  const Json& value = json.at(key);
  if (!value.is_number_integer() || value < 0 || value > kMost)
    throw std::runtime_error(
        fmt::format("\"{}\": expected a whole number from 0 to {}, found {}", key, kMost, value.dump()));
  return value.get<int64_t>();
}

ActivationRule activation_of(const std::string& name) {
  for (int rule = 0; rule <= static_cast<int>(ActivationRule::fp8_per_token); ++rule)
    if (name == name_of(static_cast<ActivationRule>(rule))) return static_cast<ActivationRule>(rule);
  throw std::runtime_error(fmt::format("unknown rule of activations \"{}\"", name));
}

// A leaf of the rows [begin, end), without its arrays.
Leaf leaf_from(const Json& json, Range rows) {
  Leaf leaf;
  const auto number = [&](const char* key) { return size_in(json, key); };
  leaf.whole_rows = number("rows");
  leaf.whole_cols = leaf.cols = number("cols");
  leaf.rows = rows.size();
  leaf.row_begin = rows.begin;
  leaf.bits = static_cast<int>(number("bits"));
  leaf.fp8 = json.at("fp8").get<bool>();
  leaf.fp16 = json.at("fp16").get<bool>();
  leaf.group = number("group");
  leaf.per_channel = json.at("per_channel").get<bool>();
  leaf.activation = activation_of(json.at("activations").get<std::string>());
  leaf.pattern = {static_cast<PatternKind>(index_of(kPatterns, json.at("pattern").get<std::string>())),
                  number("n"), number("m"), number("block_rows"), number("block_cols")};
  const Pattern& p = leaf.pattern;
  if ((p.kind == PatternKind::n_of_m && (p.m < 1 || p.n > p.m)) ||
      (p.kind == PatternKind::block && (p.block_rows < 1 || p.block_cols < 1)))
    throw std::runtime_error(fmt::format("expected a pattern, found {}:{} and blocks of {} × {}", p.n, p.m,
                                         p.block_rows, p.block_cols));
  if (leaf.bits < 1 || leaf.bits > 32)
    throw std::runtime_error(fmt::format("expected 1 to 32 bits, found {}", leaf.bits));
  if (leaf.group == 0 && leaf.bits < 16)
    throw std::runtime_error(fmt::format("expected a group of 1 or more, found {}", leaf.group));
  return leaf;
}

// "entry|scheme": the name of an entry's description in __metadata__.
std::string key_of(const std::string& entry, const std::string& scheme) {
  return entry + "|" + scheme;
}

void write_at(int file, const void* data, int64_t bytes, int64_t offset, const std::string& path) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::pwrite(file, from, static_cast<size_t>(std::min<int64_t>(bytes, 1 << 30)),
                                  static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw std::runtime_error(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
    from += done;
    offset += done;
    bytes -= done;
  }
}

}  // namespace

std::string entry_name(const std::vector<std::string>& tensors) {
  return fmt::format("{}", fmt::join(tensors, ","));
}

struct CompressedWriter::Described {
  Json header = Json::object();
  Json metadata = {{"format", kFormat}};
};

CompressedWriter::CompressedWriter(std::string path, int64_t entries, Communicator& comm)
    : path_(std::move(path)), comm_(comm), described_(std::make_unique<Described>()) {
  header_bytes_ = kHeaderBytes + entries * kEntryBytes;
  std::string failure;
  if (comm_.rank() == 0) {
    try {
      file_ = open_temporary(path_, temporary_);
    } catch (const std::exception& error) {
      failure = error.what();
    }
  }
  comm_.require(failure);
  const std::string shared = comm_.broadcast_text(temporary_);
  if (comm_.rank() != 0) {
    file_ = ::open(shared.c_str(), O_WRONLY | O_CLOEXEC);
    if (file_ < 0)
      failure =
          fmt::format("cannot open {}, which rank 0 made: {}; write to a file system that all ranks share",
                      shared, std::strerror(errno));
  }
  try {
    comm_.require(failure);
  } catch (...) {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    if (file_ >= 0) ::close(file_);
    throw;
  }
}

CompressedWriter::~CompressedWriter() {
  if (file_ >= 0) ::close(file_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void CompressedWriter::add(const std::string& entry, const std::string& scheme,
                           const CompressedWeights& weights, const std::string& digest,
                           const std::string& calibration) {
  const Canonical& canonical = weights.canonical;
  Json matrices = Json::array();
  const std::vector<std::string> names = leaf_names(canonical.leaves.size());
  for (size_t i = 0; i < canonical.leaves.size(); ++i) {
    const Leaf& leaf = canonical.leaves[i];
    const bool whole = i > 0 && i + 1 == canonical.leaves.size();  // V
    matrices.push_back(describe(leaf));
    for_each_array(leaf, [&](auto array) {
      // A rank without rows has no arrays either: the others say what there is.
      if (comm_.max(array.values->empty() ? 0 : 1) == 0) return;
      const int64_t rows = array.shared ? 1 : leaf.whole_rows,
                    size = sizeof(typename decltype(array)::Number);
      const int64_t bytes = rows * array.columns * size, begin = data_bytes_;
      Json shape = array.shared ? Json::array({array.columns}) : Json::array({rows, array.columns});
      const std::string name = entry + "." + names[i] + array.name;
      if (described_->header.contains(name))  // on every rank alike
        throw AgreedError(fmt::format(
            "{}: two arrays would be called \"{}\"; compress their tensors into a file each", path_, name));
      described_->header[name] = {
          {"dtype", array.dtype}, {"shape", std::move(shape)}, {"data_offsets", {begin, begin + bytes}}};
      data_bytes_ += bytes;
      together(comm_, [&] {
        // What every rank has whole rank 0 writes.
        if ((whole || array.shared) && comm_.rank() != 0) return;
        const int64_t first = whole || array.shared ? 0 : leaf.row_begin * array.columns * size;
        write_at(file_, array.values->data(), static_cast<int64_t>(array.values->size()) * size,
                 8 + header_bytes_ + begin + first, path_);
      });
    });
  }
  // Numbers that are not finite have no place in JSON.
  const auto finite = [](double number) { return std::isfinite(number) ? Json(number) : Json(); };
  const Json described = {{"scheme", scheme},
                          {"out_features", weights.shape.out_features},
                          {"in_features", weights.shape.in_features},
                          {"compress_s", weights.seconds},
                          {"compress_peak_bytes", weights.peak_bytes},
                          {"compress_comm_bytes", weights.comm_bytes},
                          {"weights_digest", digest},
                          {"calibration", calibration},
                          {"factors_error", finite(canonical.error)},
                          {"svd_error", finite(weights.promise.error)},
                          {"svd_error_bound", finite(weights.promise.bound)},
                          {"warnings", weights.warnings},
                          {"matrices", matrices}};
  described_->metadata[key_of(entry, scheme)] = described.dump();
}

void CompressedWriter::finish() {
  together(comm_, [&] {
    if (::fsync(file_) != 0)
      throw std::runtime_error(fmt::format("cannot sync {}: {}", path_, std::strerror(errno)));
  });
  together(comm_, [&] {
    if (comm_.rank() != 0) return;
    Json header = {{"__metadata__", described_->metadata}};
    for (const auto& [name, tensor] : described_->header.items()) header[name] = tensor;
    std::string text = header.dump();
    if (static_cast<int64_t>(text.size()) > header_bytes_)
      throw std::runtime_error(
          fmt::format("{}: expected a header of at most {} bytes, found {}: names or warnings are too long",
                      path_, header_bytes_, text.size()));
    text.resize(static_cast<size_t>(header_bytes_), ' ');
    unsigned char length[8];
    for (int byte = 0; byte < 8; ++byte)
      length[byte] = static_cast<unsigned char>(static_cast<uint64_t>(header_bytes_) >> (8 * byte));
    write_at(file_, length, 8, 0, path_);
    write_at(file_, text.data(), header_bytes_, 8, path_);
    const int file = std::exchange(file_, -1);
    publish_temporary(file, temporary_, path_);
    temporary_.clear();
  });
}

CompressedFile::CompressedFile(const std::string& path) : file_(path) {
  const auto format = file_.metadata().find("format");
  if (format == file_.metadata().end() || format->second != kFormat)
    throw std::runtime_error(fmt::format(
        "{}: expected a file that `lamina compress` wrote (\"format\": \"{}\" in its metadata), found {}",
        path, kFormat, format == file_.metadata().end() ? "none" : "\"" + format->second + "\""));
}

namespace {

Json description_of(const SafetensorsFile& file, const std::string& entry, const std::string& scheme,
                    Shape shape) {
  const auto found = file.metadata().find(key_of(entry, scheme));
  if (found == file.metadata().end()) {
    std::vector<std::string> known;
    for (const auto& [key, text] : file.metadata())
      if (key != "format") known.push_back(key);
    throw std::runtime_error(
        fmt::format("{}: expected tensor \"{}\" by scheme {}, found {}", file.path(), entry, scheme,
                    known.empty() ? "nothing" : fmt::format("{}", fmt::join(known, ", "))));
  }
  Problems problems;
  const Json json = parse_strict_json(found->second, problems);
  if (!problems.empty() || !json.is_object() || !json.contains("matrices"))
    throw std::runtime_error(
        fmt::format("{}: expected the description of \"{}\" in its metadata, found text that "
                    "is none",
                    file.path(), entry));
  if (json.at("out_features") != shape.out_features || json.at("in_features") != shape.in_features)
    throw std::runtime_error(fmt::format("{}: expected \"{}\" of {} × {}, found {} × {}", file.path(), entry,
                                         shape.out_features, shape.in_features,
                                         json.at("out_features").dump(), json.at("in_features").dump()));
  return json;
}

}  // namespace

void CompressedFile::expect(const std::string& entry, const std::string& scheme, Shape shape) const {
  description_of(file_, entry, scheme, shape);
}

CompressedWeights CompressedFile::read(const std::string& entry, const std::string& scheme,
                                       const OriginalWeights& original, const std::string& calibration,
                                       Communicator& comm, int threads) const {
  CompressedWeights weights;
  const std::string digest = weights_digest(original, comm, threads);
  together(comm, [&] {
    try {
      const Json json = description_of(file_, entry, scheme, original.shape);
      weights.shape = original.shape;
      weights.rows = original.rows;
      weights.seconds = json.at("compress_s").get<double>();
      weights.peak_bytes = json.at("compress_peak_bytes").get<int64_t>();
      weights.comm_bytes = json.at("compress_comm_bytes").get<int64_t>();
      weights.warnings = json.at("warnings").get<std::vector<std::string>>();
      const auto made_of = json.at("weights_digest").get<std::string>();
      if (made_of != digest)
        throw std::runtime_error(
            fmt::format("{}: \"{}\" was made of other weights: expected the digest {}, found {}; compress "
                        "these anew",
                        file_.path(), entry, digest, made_of));
      const auto made_by = json.at("calibration").get<std::string>();
      if (made_by != calibration)
        weights.warnings.push_back(fmt::format("\"{}\" was calibrated by {}, where this row would be by {}",
                                               entry, made_by, calibration));
      if (!json.at("factors_error").is_null())
        weights.canonical.error = json.at("factors_error").get<double>();
      // Files of before have neither.
      for (const auto& [key, number] : {std::pair{"svd_error", &weights.promise.error},
                                        std::pair{"svd_error_bound", &weights.promise.bound}})
        if (json.contains(key) && !json.at(key).is_null()) *number = json.at(key).get<double>();
      const Json& matrices = json.at("matrices");
      if (matrices.empty() || matrices.size() > 3)
        throw std::runtime_error(fmt::format("expected 1 to 3 matrices, found {}", matrices.size()));
      const std::vector<std::string> names = leaf_names(matrices.size());
      for (size_t i = 0; i < matrices.size(); ++i) {
        const bool v = i > 0 && i + 1 == matrices.size();
        Leaf leaf = leaf_from(matrices[i], v ? Range{0, size_in(matrices[i], "rows")} : original.rows);
        // Of U·V the inner sizes have to agree, the others are W's.
        const bool u = matrices.size() > 1 && i + 2 == matrices.size();
        const int64_t rank = size_in(matrices.back(), "rows");
        const Shape expected{v ? rank : original.shape.out_features, u ? rank : original.shape.in_features};
        if (Shape{leaf.whole_rows, leaf.cols} != expected)
          throw std::runtime_error(fmt::format("expected a matrix of {} × {}, found {} × {}",
                                               expected.out_features, expected.in_features, leaf.whole_rows,
                                               leaf.cols));
        for_each_array(leaf, [&](auto array) {
          const auto found = file_.tensors().find(entry + "." + names[i] + array.name);
          if (found == file_.tensors().end() || leaf.rows == 0) return;
          const int64_t size = sizeof(typename decltype(array)::Number),
                        rows = array.shared ? 1 : leaf.whole_rows;
          if (found->second.dtype != array.dtype || found->second.bytes() != rows * array.columns * size)
            throw std::runtime_error(fmt::format("expected {} × {} numbers of {} in {}, found {} bytes of {}",
                                                 rows, array.columns, array.dtype, found->first,
                                                 found->second.bytes(), found->second.dtype));
          const int64_t first = array.shared ? 0 : leaf.row_begin * array.columns;
          array.values->resize(static_cast<size_t>((array.shared ? 1 : leaf.rows) * array.columns));
          file_.read(found->second.begin + first * size, static_cast<int64_t>(array.values->size()) * size,
                     array.values->data());
        });
        check_leaf(leaf);
        weights.canonical.leaves.push_back(std::move(leaf));
      }
    } catch (const Json::exception& error) {
      throw std::runtime_error(
          fmt::format("{}: expected a whole description of \"{}\" in its metadata, found: {}", file_.path(),
                      entry, error.what()));
    } catch (const std::invalid_argument& error) {
      throw std::runtime_error(fmt::format("{}: \"{}\": {}", file_.path(), entry, error.what()));
    }
  });
  // Each rank has read a file of its own, and all have to decide alike.
  comm.broadcast(&weights.promise, sizeof(weights.promise), 0);
  measure_error(weights, original.slab, comm, threads);
  return weights;
}

}  // namespace lamina
