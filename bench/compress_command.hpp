// `lamina compress`: weights of a .safetensors file compressed once, for `lamina run` to read again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "distributed/communicator.hpp"
#include "kernels/registry.hpp"

namespace CLI {
class App;
}

namespace lamina {

struct CompressOptions {
  std::string model_path;
  std::string scheme;                // JSON, or a type alone
  std::vector<std::string> tensors;  // each "a" or "a,b", stacked by rows; none: every matrix of the file
  std::string inputs, cotangents;    // recorded ones, by the tensors' names; empty: synthetic
  std::string out_file;
  int64_t seed = 1;
  bool force = false;
};

// The command of `app` that reads them.
CLI::App* add_compress(CLI::App& app, CompressOptions& options);

// Collective over the launch; the same exit code on every rank. Rank 0 prints.
int compress_file(const CompressOptions& options, const Registry& registry, Communicator& world);

}  // namespace lamina
