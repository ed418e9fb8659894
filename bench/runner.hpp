// `lamina run`: from a config to a folder of records.
#pragma once

#include <string>
#include <vector>

#include "distributed/communicator.hpp"
#include "kernels/registry.hpp"

namespace lamina {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;  // a case failed, was invalid or timed out
// Of a comparison.
inline constexpr int kExitRegression = 10;    // a row is slower, or its quality worse
inline constexpr int kExitMissing = 11;       // a row is missing or invalid
inline constexpr int kExitInconclusive = 12;  // a row cannot be judged
inline constexpr int kExitUsage = 64;         // bad usage or bad config, or nothing that compares

struct RunOptions {
  std::string config_path;
  std::string config_text;  // read by rank 0, the same on every rank
  std::vector<std::string> overrides;
  std::string out_dir;  // empty: runs/<name>-<UTC time>
  std::string filter;   // ECMAScript regular expression on case names; empty: all
  bool dry_run = false;
  bool resume = false;
  bool many = false;  // --yes: more than kMaxCases cases
  std::vector<std::string> command_line;
};

// Collective over the launch; the same exit code on every rank. Rank 0 prints.
int run(const RunOptions& options, const Registry& registry, Communicator& world);

}  // namespace lamina
