// Compressed weights in a .safetensors file: what `lamina compress` writes and `lamina run` reads again, bit
// for bit. docs/compress.md has the format.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "distributed/compress.hpp"
#include "kernels/weights/safetensors_file.hpp"

namespace lamina {

// Tensors of a layer as they are stacked make an entry's name: "a" or "a,b".
std::string entry_name(const std::vector<std::string>& tensors);

// Makes the file, collectively: each rank writes the rows that it has of every matrix into one temporary
// beside it, which finish() gives its name. Where finish() is not reached the temporary goes and `path` is as
// before.
class CompressedWriter {
 public:
  // Rank 0 makes the temporary and the others open it: all see one file system. There is room for `entries`.
  // AgreedError where it cannot be made, or `path` is something else than a regular file or nothing.
  CompressedWriter(std::string path, int64_t entries, Communicator& comm);
  ~CompressedWriter();
  CompressedWriter(const CompressedWriter&) = delete;
  CompressedWriter& operator=(const CompressedWriter&) = delete;

  // Adds one matrix by its entry's name and the scheme's, with the digest of the weights and the text of the
  // calibration (LayerRef::calibrated_by) that it was made of. Collective; AgreedError where it cannot be
  // written.
  void add(const std::string& entry, const std::string& scheme, const CompressedWeights& weights,
           const std::string& digest, const std::string& calibration);
  // Writes the header, syncs and renames. Collective.
  void finish();

 private:
  struct Described;
  std::string path_, temporary_;
  Communicator& comm_;
  int file_ = -1;
  int64_t header_bytes_ = 0, data_bytes_ = 0;
  std::unique_ptr<Described> described_;
};

class CompressedFile {
 public:
  // Throws std::runtime_error, naming the file and what is wrong, unless `lamina compress` wrote it.
  explicit CompressedFile(const std::string& path);
  // Throws std::runtime_error unless it has this matrix by this scheme.
  void expect(const std::string& entry, const std::string& scheme, Shape shape) const;
  // The matrix as compress() left it: this rank's rows of Q and U, all of V; but for `error_squared` and
  // `norm_squared`, which are of `original`, and a warning where it was calibrated by something else than
  // `calibration` says. Collective; AgreedError where it cannot be read, or was made of other weights.
  CompressedWeights read(const std::string& entry, const std::string& scheme, const OriginalWeights& original,
                         const std::string& calibration, Communicator& comm, int threads) const;

 private:
  SafetensorsFile file_;
};

}  // namespace lamina
