// lamina_bare [--device cpu|cuda] [--thread-level single|funneled] [--iterations N] [--repeats N] BYTES...
// A JSON object a line and size to stdout, a table to stderr.
#include <fmt/format.h>
#include <mpi.h>
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <random>

#include "distributed/mpi/bare/bare.hpp"

namespace bare {
namespace {

constexpr int kExitUsage = 64, kExitAbsent = 69;
constexpr double kRepeatMicroseconds = 1000;
constexpr int kWarmUps = 5;
constexpr size_t kLine = 64, kHugePage = size_t{2} << 20;

int rank() {
  int own = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &own);
  return own;
}

int ranks() {
  int all = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &all);
  return all;
}

// As Lamina's own lie: on huge pages from 4 MiB on. MPI moves what lies on small ones a quarter more slowly.
std::unique_ptr<float, void (*)(void*)> buffer(int64_t bytes) {
  const size_t alignment = static_cast<size_t>(bytes) >= 2 * kHugePage ? kHugePage : kLine;
  const size_t rounded = (static_cast<size_t>(bytes) / alignment + 1) * alignment;
  auto* data = static_cast<float*>(std::aligned_alloc(alignment, rounded));
  if (data == nullptr) throw std::bad_alloc();
  if (alignment == kHugePage) madvise(data, rounded, MADV_HUGEPAGE);
  fill_random(data, static_cast<int64_t>(rounded / sizeof(float)), rank());
  return {data, std::free};
}

// The shortest of a few repeats.
double lasts(int iterations, const std::function<void()>& calls) {
  const std::vector<double> us = time_repeats(3, iterations, calls);
  return *std::min_element(us.begin(), us.end()) * iterations;
}

// MPI's errors end the job, as it does unless told otherwise.
std::vector<Row> time_mpi(const Options& options) {
  const int64_t most = *std::max_element(options.bytes.begin(), options.bytes.end());
  const auto in = buffer(most), out = buffer(most);
  std::vector<Row> rows;
  for (const int64_t bytes : options.bytes) {
    const auto call = [&, count = static_cast<int>(bytes / static_cast<int64_t>(sizeof(float)))] {
      MPI_Allreduce(in.get(), out.get(), count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    };
    for (int i = 0; i < kWarmUps; ++i) call();
    Row row{"mpi", false, false, bytes, std::max(options.iterations, 1), {}};
    const auto calls = [&] {
      for (int i = 0; i < row.iterations; ++i) call();
    };
    // The mean over ranks is the same on all of them, and so is what follows from it.
    while (options.iterations == 0 && lasts(row.iterations, calls) < kRepeatMicroseconds) row.iterations *= 2;
    row.us = time_repeats(options.repeats, row.iterations, calls);
    rows.push_back(std::move(row));
  }
  return rows;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

void print(const std::vector<Row>& rows, const std::string& level) {
  fmt::print(stderr, "{:>8} {:>8} {:>12} {:>10} {:>10} {:>10}\n", "", "", "bytes", "calls", "min us",
             "median us");
  for (const Row& row : rows) {
    const double least = *std::min_element(row.us.begin(), row.us.end()), middle = median(row.us);
    const char* graph = !row.on_gpu ? "null" : row.graph ? "true" : "false";
    fmt::print(stderr, "{:>8} {:>8} {:>12} {:>10} {:>10.3f} {:>10.3f}\n", row.communicator,
               !row.on_gpu ? ""
               : row.graph ? "graph"
                           : "no graph",
               row.bytes, row.iterations, least, middle);
    fmt::print(
        R"({{"collective": "all_reduce", "communicator": "{}", "device": "{}", "dtype": "f32", "graph": {}, "thread_level": "{}", "ranks": {}, )"
        R"("message_bytes": {}, "iterations": {}, "repeats": {}, "us_min": {:.4f}, "us_median": {:.4f}}})"
        "\n",
        row.communicator, row.on_gpu ? "cuda" : "cpu", graph, level, ranks(), row.bytes, row.iterations,
        row.us.size(), least, middle);
  }
}

int run(int argc, char** argv) {
  CLI::App app("Loops of all-reduces without Lamina, float32, out of place", "lamina_bare");
  Options options;
  std::string device = "cpu", level = "funneled";
  app.add_option("--device", device, "whose memory: cpu (MPI_Allreduce), cuda (ncclAllReduce)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  // Lamina asks for funneled, as MPI wants it of programs with threads of their own; both other programs for
  // none.
  app.add_option("--thread-level", level, "that MPI is asked for: single, funneled")
      ->check(CLI::IsMember({"single", "funneled"}))
      ->capture_default_str();
  app.add_option("--iterations", options.iterations,
                 "calls a repeat; by default 20 on GPUs, else a millisecond's")
      ->check(CLI::Range(1, 1000000));
  options.repeats = 50;
  app.add_option("--repeats", options.repeats, "of each size")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("BYTES", options.bytes, "message sizes, multiples of 4")
      ->required()
      ->check(CLI::Range(int64_t{4}, int64_t{4} << 30));
  std::unique_ptr<CLI::ParseError> wrong;
  try {
    app.parse(argc, argv);
    for (const int64_t bytes : options.bytes)
      if (bytes % 4 != 0)
        throw CLI::ValidationError("BYTES", fmt::format("expected a multiple of 4, found {}", bytes));
  } catch (const CLI::ParseError& e) {
    wrong = std::make_unique<CLI::ParseError>(e);
  }
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, level == "single" ? MPI_THREAD_SINGLE : MPI_THREAD_FUNNELED, &provided);
  if (level != "single" && provided < MPI_THREAD_FUNNELED) level = "single";  // rows say what it is
  if (wrong) {
    if (rank() == 0) app.exit(*wrong);
    return wrong->get_exit_code() == 0 ? 0 : kExitUsage;
  }
  if (device == "cuda" && !gpu_absence().empty()) {
    fmt::print(stderr, "lamina_bare: rank {}: {}\n", rank(), gpu_absence());
    MPI_Abort(MPI_COMM_WORLD, kExitAbsent);  // other ranks may have what this one lacks
  }
  const std::vector<Row> rows = device == "cuda" ? time_nccl(options) : time_mpi(options);
  if (rank() == 0) print(rows, level);
  return 0;
}

}  // namespace

std::vector<double> time_repeats(int repeats, int iterations, const std::function<void()>& calls) {
  std::vector<double> us(static_cast<size_t>(repeats));
  for (double& one : us) {
    MPI_Barrier(MPI_COMM_WORLD);
    const auto begin = std::chrono::steady_clock::now();
    calls();
    one = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() /
          iterations;
  }
  MPI_Allreduce(MPI_IN_PLACE, us.data(), repeats, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  for (double& one : us) one /= ranks();
  return us;
}

void fill_random(float* data, int64_t count, int rank) {
  std::minstd_rand random(static_cast<unsigned>(rank) + 1);
  for (int64_t i = 0; i < count; ++i) data[i] = static_cast<float>(random() % 65536) / 65536 - 0.5f;
}

}  // namespace bare

int main(int argc, char** argv) {
  try {
    const int exit_code = bare::run(argc, argv);
    MPI_Finalize();
    return exit_code;
  } catch (const std::exception& e) {
    fmt::print(stderr, "lamina_bare: {}\n", e.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
}
