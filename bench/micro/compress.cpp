#include "bench/micro/compress.hpp"

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "distributed/svd/whiten.hpp"
#include "kernels/cpu/blas_threads.hpp"
#include "kernels/weights/source.hpp"
#include "kernels/wide.hpp"

extern "C" {
void dsyrk_(const char*, const char*, const int*, const int*, const double*, const double*, const int*,
            const double*, double*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*,
            const int*, const double*, const int*, const double*, double*, const int*);
}

namespace lamina {
namespace {

using benchmark::Counter;

// Of llama-3-8b's down_proj: 235 MB of float32, more than caches of most machines hold.
constexpr Shape kDown{4096, 14336};

class NoFactors final : public Factorizer {
 public:
  Factors factorize(const RowSlab&, const FactorRequest&, uint64_t) override {
    throw std::logic_error("the micro-benchmarks factorise nothing");
  }
};

const Matrix<float>& down_weights() {
  static const Matrix<float> weights = [] {
    Matrix<float> made(kDown.out_features, kDown.in_features);
    make_synthetic_weights(kDown, 1, "down_proj", {})
        ->read_rows({0, made.rows}, made.data.data(), static_cast<int>(std::thread::hardware_concurrency()));
    return made;
  }();
  return weights;
}

void count_bytes(benchmark::State& state, double written) {
  const double read = 4.0 * static_cast<double>(kDown.out_features) * static_cast<double>(kDown.in_features);
  const auto iterations = static_cast<double>(state.iterations());
  state.counters["read_GB/s"] = Counter(read * iterations * 1e-9, Counter::kIsRate);
  state.counters["read+write_GB/s"] = Counter((read + written) * iterations * 1e-9, Counter::kIsRate);
}

LAMINA_WIDE uint32_t largest_bits(const float* weights, int64_t count) {
  uint32_t largest = 0;
  for (int64_t j = 0; j < count; ++j) {
    uint32_t bits = 0;
    std::memcpy(&bits, weights + j, sizeof(bits));
    largest = std::max(largest, bits & 0x7fffffffu);
  }
  return largest;
}

LAMINA_WIDE void top_bytes(const float* weights, int64_t count, int8_t* bytes) {
  for (int64_t j = 0; j < count; ++j) {
    uint32_t bits = 0;
    std::memcpy(&bits, weights + j, sizeof(bits));
    bytes[j] = static_cast<int8_t>(bits >> 24);
  }
}

// Every weight looked at once.
void run_read(benchmark::State& state, int threads) {
  const Matrix<float>& weights = down_weights();
  for (auto _ : state) {
    uint32_t largest = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(max : largest)
    for (int64_t i = 0; i < weights.rows; ++i)
      largest = std::max(largest, largest_bits(weights.row(i), weights.cols));
    benchmark::DoNotOptimize(largest);
  }
  count_bytes(state, 0);
}

// And a byte of each written into memory as fresh as codes are: no rounding to bytes can be faster.
void run_narrow(benchmark::State& state, int threads) {
  const Matrix<float>& weights = down_weights();
  for (auto _ : state) {
    Codes codes;
    codes.resize(weights.data.size());
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < weights.rows; ++i)
      top_bytes(weights.row(i), weights.cols, codes.data() + i * weights.cols);
    benchmark::DoNotOptimize(codes.data());
  }
  count_bytes(state, static_cast<double>(weights.data.size()));
}

void run_scheme(benchmark::State& state, const Scheme& scheme, int threads) {
  const Matrix<float>& weights = down_weights();
  NoFactors factorizer;
  CompressContext context{factorizer, 1};
  omp_set_num_threads(threads);
  for (auto _ : state) {
    const Canonical canonical = scheme.compress({weights, 0, kDown}, context);
    benchmark::DoNotOptimize(canonical.leaves.front().codes.data());
  }
  count_bytes(state, static_cast<double>(scheme.estimated_canonical_bytes(kDown)));
}

// Tokens that whitening holds at a time.
constexpr int kTokens = 512;

enum class GramBy { ours, dsyrk, dgemm };

void run_gram(benchmark::State& state, GramBy by, int channels, int threads) {
  Matrix<double> x(kTokens, channels), gram;
  std::mt19937 generator(1);
  std::normal_distribution<double> normal;
  for (double& each : x.data) each = normal(generator);
  std::vector<Matrix<double>> rows;
  if (by == GramBy::ours) {
    for (int64_t begin = 0; begin < channels; begin += kRowBlock)
      rows.emplace_back(std::min<int64_t>(kRowBlock, channels - begin),
                        std::min<int64_t>(begin + kRowBlock, channels));
  } else {
    gram = Matrix<double>(channels, channels);
  }
  const double one = 1;
  const BlasThreads team(threads);
  for (auto _ : state) {
    // Row-major X is the BLAS's Xᵀ.
    if (by == GramBy::ours)
      add_gram(x, kTokens, 0, 1, threads, rows);
    else if (by == GramBy::dsyrk)
      dsyrk_("U", "N", &channels, &kTokens, &one, x.data.data(), &channels, &one, gram.data.data(),
             &channels);
    else
      dgemm_("N", "T", &channels, &channels, &kTokens, &one, x.data.data(), &channels, x.data.data(),
             &channels, &one, gram.data.data(), &channels);
    benchmark::ClobberMemory();
  }
  // Of one triangle; dgemm makes both.
  const double operations =
      (by == GramBy::dgemm ? 2.0 : 1.0) * kTokens * static_cast<double>(channels) * channels;
  state.counters["GFLOP/s"] =
      Counter(operations * static_cast<double>(state.iterations()) * 1e-9, Counter::kIsRate);
}

template <class Run>
void add(const std::string& name, Run run) {
  benchmark::RegisterBenchmark(("compress/" + name).c_str(), run)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

}  // namespace

void register_compression(const Registry& registry) {
  std::set<int> thread_counts = {1, static_cast<int>(std::thread::hardware_concurrency())};
  thread_counts.erase(0);
  struct Named {
    const char* type;
    int64_t group;
    bool asymmetric;
  };
  for (const int threads : thread_counts) {
    add(fmt::format("read/down_proj/t{}", threads),
        [=](benchmark::State& state) { run_read(state, threads); });
    add(fmt::format("narrow/down_proj/t{}", threads),
        [=](benchmark::State& state) { run_narrow(state, threads); });
    for (const Named& named : {Named{"int8", 0, false}, Named{"int4", 128, false}, Named{"int4", 32, false},
                               Named{"int4", 128, true}, Named{"fp8", 0, false}}) {
      Problems problems;
      Params params("", &problems);
      if (named.group > 0) params.set("group", named.group);
      if (named.asymmetric) params.set("asymmetric", true);
      const std::shared_ptr<const Scheme> scheme =
          registry.find_scheme(named.type)->make(params, kDown, registry);
      add(fmt::format("{}/down_proj/t{}", scheme->name(), threads),
          [=](benchmark::State& state) { run_scheme(state, *scheme, threads); });
    }
    for (const int channels : {4096, 14336}) {
      for (const auto& [name, by] :
           {std::pair{"gram", GramBy::ours}, {"dsyrk", GramBy::dsyrk}, {"dgemm", GramBy::dgemm}})
        add(fmt::format("{}/k{}/t{}", name, channels, threads),
            [=, by = by](benchmark::State& state) { run_gram(state, by, channels, threads); });
    }
  }
}

}  // namespace lamina
