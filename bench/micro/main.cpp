// Google Benchmark over the kernel registry: one benchmark per kernel, scheme, shape, tokens and threads,
// named KERNEL/SCHEME/LAYER/mTOKENS/tTHREADS; and compression's own, compress/…. For work on one kernel;
// `lamina run` is what compares and publishes.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/micro/compress.hpp"
#include "kernels/registry.hpp"
#include "kernels/weights/source.hpp"

namespace {

using namespace lamina;

struct NamedShape {
  std::string name;
  Shape shape;
};

// llama-3-8b's layers, the thin factors of a low-rank one, and two small ones that stay in the caches.
const std::vector<NamedShape> kShapes = {{"o_proj", {4096, 4096}},   {"down_proj", {4096, 14336}},
                                         {"qkv_proj", {6144, 4096}}, {"factor_v", {512, 4096}},
                                         {"factor_u", {4096, 512}},  {"small", {512, 512}},
                                         {"medium", {2048, 2048}}};
const std::vector<int64_t> kTokens = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};

using Keys = std::vector<std::pair<std::string, Value>>;
struct SchemeKeys {
  std::string type;
  Keys keys;
};

// Low-rank layers are two of these layers one after the other: their factors are timed by themselves.
class OneMatrix final : public Factorizer {
 public:
  Factors factorize(const RowSlab&, const FactorRequest&, uint64_t) override {
    throw std::logic_error("the micro-benchmarks time single matrices");
  }
};

// Every registered scheme with its own defaults, and the variants worth a look.
std::vector<SchemeKeys> schemes(const Registry& registry) {
  const Value block = std::string("block"), two_of_four = std::string("2:4"), bf16 = std::string("bf16");
  const auto nested = [](const Keys& keys) -> Value {
    auto params = std::make_shared<Params>("", nullptr);
    for (const auto& [key, value] : keys) params->set(key, value);
    return params;
  };
  const Value bf16_values = nested({{"type", std::string("dense")}, {"dtype", bf16}});
  const Value int8_values = nested({{"type", std::string("int8")}});
  std::vector<SchemeKeys> all = {{"dense", {}},
                                 {"dense", {{"dtype", bf16}}},
                                 {"dense", {{"dtype", bf16}, {"activations", bf16}}},
                                 {"int8", {}},
                                 {"int4", {}},
                                 {"int4", {{"activations", std::string("int8")}}},
                                 {"int4", {{"group", int64_t{32}}}},
                                 {"pruned", {}},
                                 {"pruned", {{"sparsity", 0.75}}},
                                 {"pruned", {{"sparsity", 0.9}}},
                                 {"pruned", {{"pattern", two_of_four}}},
                                 {"pruned", {{"pattern", two_of_four}, {"values", bf16_values}}},
                                 {"pruned", {{"pattern", two_of_four}, {"values", int8_values}}},
                                 {"pruned", {{"pattern", block}}},
                                 {"pruned", {{"pattern", block}, {"block", int64_t{32}}}}};
  for (const SchemeType& type : registry.schemes()) {
    if (std::none_of(all.begin(), all.end(), [&](const SchemeKeys& keys) { return keys.type == type.type; }))
      all.push_back({type.type, {}});
  }
  return all;
}

std::unique_ptr<Scheme> make_scheme(const Registry& registry, const SchemeKeys& keys, Shape shape) {
  Problems problems;
  Params params("", &problems);
  for (const auto& [key, value] : keys.keys) params.set(key, value);
  const SchemeType* type = registry.find_scheme(keys.type);
  if (type == nullptr) return nullptr;
  auto scheme = type->make(params, shape, registry);
  return problems.empty() ? std::move(scheme) : nullptr;
}

// What says how a leaf is stored, without its data: enough for Kernel::refuses().
Leaf description_of(const Registry& registry, const SchemeKeys& keys) {
  const Shape tiny{128, 128};
  Matrix<float> ones(tiny.out_features, tiny.in_features);
  for (float& value : ones.data) value = 1;
  OneMatrix factorizer;
  CompressContext context{factorizer, 1};
  return make_scheme(registry, keys, tiny)->compress({ones, 0, tiny}, context).leaves.front();
}

// The packed layer of the benchmark that runs: made when first asked for, kept for the next one that wants
// the same.
struct Workbench {
  const Registry& registry;
  std::string weights_key, leaf_key;
  Matrix<float> weights;
  Canonical canonical;

  const Leaf& leaf(const SchemeKeys& keys, const NamedShape& shape, const std::string& scheme_name) {
    if (weights_key != shape.name) {
      weights = Matrix<float>(shape.shape.out_features, shape.shape.in_features);
      make_synthetic_weights(shape.shape, 1, shape.name, {})
          ->read_rows({0, shape.shape.out_features}, weights.data.data(),
                      static_cast<int>(std::thread::hardware_concurrency()));
      weights_key = shape.name;
    }
    const std::string key = shape.name + "/" + scheme_name;
    if (leaf_key != key) {
      OneMatrix factorizer;
      CompressContext context{factorizer, 1};
      canonical = make_scheme(registry, keys, shape.shape)->compress({weights, 0, shape.shape}, context);
      leaf_key = key;
    }
    return canonical.leaves.front();
  }
};

// Enough copies to pass the caches, taken in turn: weights come from memory, as between the layers of a
// model.
constexpr int64_t kColdBytes = int64_t{256} << 20;
constexpr int64_t kMaxCopies = 64;

void run(benchmark::State& state, Workbench& bench, const Kernel& kernel, const SchemeKeys& keys,
         const NamedShape& shape, const std::string& scheme_name, int64_t tokens, int threads) {
  const Leaf& leaf = bench.leaf(keys, shape, scheme_name);
  LayerOptions options;
  options.max_tokens = tokens;
  options.threads = threads;
  Workspace workspace;
  options.workspace = &workspace;
  std::vector<std::unique_ptr<Layer>> copies;
  copies.push_back(kernel.make(leaf, options));
  const int64_t bytes = copies.front()->weight_bytes();
  while (static_cast<int64_t>(copies.size()) < kMaxCopies &&
         static_cast<int64_t>(copies.size()) * bytes < kColdBytes)
    copies.push_back(kernel.make(leaf, options));

  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(tokens * leaf.cols)), y(static_cast<size_t>(tokens * leaf.rows));
  for (float& value : x) value = normal(generator);
  Stream stream{threads};
  for (auto& copy : copies) copy->forward(x.data(), y.data(), tokens, stream);

  size_t next = 0;
  for (auto _ : state) {
    copies[next]->forward(x.data(), y.data(), tokens, stream);
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
    next = (next + 1) % copies.size();
  }
  using benchmark::Counter;
  const Cost cost = copies.front()->cost(tokens);
  const auto iterations = static_cast<double>(state.iterations());
  state.counters["weights_GB/s"] = Counter(static_cast<double>(bytes) * iterations * 1e-9, Counter::kIsRate);
  state.counters["GFLOP/s"] = Counter(cost.operations.total() * iterations * 1e-9, Counter::kIsRate);
  state.counters["tokens/s"] = Counter(static_cast<double>(tokens) * iterations, Counter::kIsRate);
  state.SetLabel(kernel.isa);
}

void register_all(const Registry& registry, Workbench& bench) {
  std::set<int> thread_counts = {1, static_cast<int>(std::thread::hardware_concurrency())};
  thread_counts.erase(0);
  for (const SchemeKeys& keys : schemes(registry)) {
    if (make_scheme(registry, keys, {128, 128}) == nullptr) continue;  // has keys that must be given
    const Leaf description = description_of(registry, keys);
    for (const Kernel* kernel : registry.kernels("cpu")) {
      if (kernel->name == "reference" || !kernel->absent.empty() || !kernel->refuses(description).empty())
        continue;
      for (const NamedShape& shape : kShapes) {
        const auto scheme = make_scheme(registry, keys, shape.shape);
        if (scheme == nullptr) continue;
        const std::string scheme_name = scheme->name();
        for (int64_t tokens : kTokens) {
          for (int threads : thread_counts) {
            const std::string name =
                fmt::format("{}/{}/{}/m{}/t{}", kernel->name, scheme_name, shape.name, tokens, threads);
            benchmark::RegisterBenchmark(
                name.c_str(),
                [&bench, kernel, keys, shape, scheme_name, tokens, threads](benchmark::State& state) {
                  run(state, bench, *kernel, keys, shape, scheme_name, tokens, threads);
                })
                ->UseRealTime()
                ->Unit(benchmark::kMicrosecond);
          }
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  try {
    Registry registry;
    register_kernels(registry);
    Workbench bench{registry, {}, {}, {}, {}};
    register_all(registry, bench);
    register_compression(registry);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
  } catch (const std::exception& error) {
    fmt::print(stderr, "lamina_micro: {}\n", error.what());
    return 1;
  }
  return 0;
}
