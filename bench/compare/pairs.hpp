// Launches of two builds in turn, in a folder that can be gone on with.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "bench/compare/command.hpp"
#include "bench/compare/launches.hpp"
#include "bench/compare/side.hpp"

namespace lamina::compare {

// Of `lamina ab`, and of `lamina selftest` with one build twice.
struct AbOptions {
  std::string base_binary, new_binary;
  std::vector<std::string> slow_binaries;  // of selftest: slower builds, launched beside each pair
  Start start;                             // but for its binary
  int64_t launches = 0;
  std::string out_dir;  // empty: runs/ab-<UTC time>
  bool resume = false;
  Options report;  // settings and format
};

struct Pairs {
  std::string path;
  int64_t count = 0;         // at most
  std::vector<Start> start;  // of BASE and NEW, and of the slower builds
  std::vector<std::string> folder;
  std::mt19937_64 random;  // of the order within each pair
  int64_t made = 0;        // by this process
  std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();

  // Whether all launches of a pair are whole.
  bool has(int64_t number) const;
};

// Makes the folder, or goes on with one of the same plan. Throws std::runtime_error with what to do.
Pairs open_pairs(const AbOptions& options);

// Measures pair `number`, counted from 1 and one after the other, in an order drawn anew; false where it was
// there. Throws std::runtime_error where a launch failed.
bool make_pair(Pairs& pairs, int64_t number);

// For the pairs after `number`, going by those that were made.
double seconds_left(const Pairs& pairs, int64_t number);

// Opens the pairs for `command` and runs `work`, whose exit code it returns. What cannot begin is said, and
// is bad usage; what breaks off is said with how to go on, and has failed.
int with_pairs(const std::string& command, const AbOptions& options,
               const std::function<int(Pairs& pairs)>& work);

// The first launches of a side (0: BASE, 1: NEW, from 2 on: the slower builds).
Side read_launches(const Pairs& pairs, size_t side, int64_t count, std::vector<std::string>& warnings);

}  // namespace lamina::compare
