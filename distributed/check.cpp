#include "distributed/check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "kernels/reference.hpp"

namespace lamina {
namespace {

constexpr int64_t kProbedTokens = 8;
constexpr int64_t kTokenChunk = 16;  // tokens whose float64 activations are held at once
constexpr int64_t kGuard = 64;       // floats beside y that a kernel must leave alone
constexpr float kGuardValue = 12345.678f;

// A counter-based draw: the same on every rank (splitmix64's finaliser).
uint64_t draw(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + (counter + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// What is looked at: some tokens singly, and where there are more, all of them added up with random signs.
struct Probe {
  std::vector<int64_t> tokens;
  std::vector<double> signs;  // of every token; empty when all of them are probed singly
  int64_t rows() const { return static_cast<int64_t>(tokens.size()) + (signs.empty() ? 0 : 1); }
};

Probe make_probe(int64_t tokens, uint64_t seed) {
  Probe probe;
  if (tokens <= kProbedTokens) {
    for (int64_t t = 0; t < tokens; ++t) probe.tokens.push_back(t);
    return probe;
  }
  probe.tokens = {0, tokens - 1};
  for (uint64_t counter = 0; static_cast<int64_t>(probe.tokens.size()) < kProbedTokens; ++counter) {
    const int64_t t = static_cast<int64_t>(draw(seed, counter) % static_cast<uint64_t>(tokens));
    if (std::find(probe.tokens.begin(), probe.tokens.end(), t) == probe.tokens.end())
      probe.tokens.push_back(t);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    probe.signs.push_back(draw(~seed, static_cast<uint64_t>(t)) & 1 ? 1.0 : -1.0);
  }
  return probe;
}

// A stage's inputs and what they should give. Most often one input, the same on every rank; but a stage is
// held against the very numbers that its own rank fed it.
struct Expectation {
  std::vector<ProductInput> inputs;        // distinct
  std::vector<ReferenceProduct> products;  // of each, [S × N]
  std::vector<size_t> of_rank;             // which of them a rank's input is
};

// Every rank's columns [S × its features] as [S × n] on every rank; `rows` are the features of each rank, in
// order.
template <class T>
Matrix<T> gather_features(const Matrix<T>& local, const std::vector<std::vector<Range>>& rows, int64_t n,
                          Communicator& comm) {
  const int64_t s = local.rows;
  std::vector<int64_t> bytes;
  int64_t total = 0;
  for (const auto& ranges : rows) {
    int64_t features = 0;
    for (const Range& range : ranges) features += range.size();
    bytes.push_back(s * features * static_cast<int64_t>(sizeof(T)));
    total += s * features;
  }
  std::vector<T> all(static_cast<size_t>(total));
  comm.all_gather(local.data.data(), all.data(), bytes);
  Matrix<T> whole(s, n);
  const T* from = all.data();
  for (const auto& ranges : rows) {
    for (int64_t i = 0; i < s; ++i) {
      for (const Range& range : ranges) {
        std::copy_n(from, range.size(), whole.row(i) + range.begin);
        from += range.size();
      }
    }
  }
  return whole;
}

// One range of rows a rank, from each rank's own.
std::vector<std::vector<Range>> gather_ranges(Range own, Communicator& comm) {
  std::vector<Range> all(static_cast<size_t>(comm.size()));
  comm.all_gather(&own, all.data(), std::vector<int64_t>(all.size(), sizeof(Range)));
  std::vector<std::vector<Range>> ranges;
  for (const Range& range : all) ranges.push_back({range});
  return ranges;
}

ProductInput probe_input(const float* x, int64_t tokens, const Stage& stage, const Probe& probe) {
  const Leaf& truth = *stage.truth;
  const InputType input_type = stage.kernel->input;
  const int64_t k = truth.cols;
  std::vector<int64_t> cuts = {0, k};
  if (stage.cut.reduce) {
    for (const Range& range : stage.cut.cols) cuts.push_back(range.end);
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());

  ProductInput input{Matrix<double>(probe.rows(), k), Matrix<double>(probe.rows(), k),
                     Matrix<double>(probe.rows(), k)};
  const int64_t last = probe.rows() - 1;
  for (int64_t begin = 0; begin < tokens; begin += kTokenChunk) {
    Matrix<float> chunk(std::min(kTokenChunk, tokens - begin), k);
    // What an earlier stage got wrong has already failed it; here it must not become undefined behaviour.
    std::transform(x + begin * k, x + (begin + chunk.rows) * k, chunk.data.begin(), [&](float value) {
      if (!std::isfinite(value)) return 0.0f;
      return rounded_input(value, input_type);
    });
    const Matrix<double> seen = reference_activations(chunk, truth, cuts);
    for (int64_t i = 0; i < chunk.rows; ++i) {
      const double* row = seen.row(i);
      for (size_t p = 0; p < probe.tokens.size(); ++p) {
        if (probe.tokens[p] != begin + i) continue;
        std::copy_n(row, k, input.values.row(static_cast<int64_t>(p)));
        std::transform(row, row + k, input.magnitudes.row(static_cast<int64_t>(p)),
                       [](double v) { return std::abs(v); });
        std::transform(row, row + k, input.squares.row(static_cast<int64_t>(p)),
                       [](double v) { return v * v; });
      }
      if (probe.signs.empty()) continue;
      const double sign = probe.signs[static_cast<size_t>(begin + i)];
      for (int64_t j = 0; j < k; ++j) {
        input.values(last, j) += sign * row[j];
        input.magnitudes(last, j) += std::abs(row[j]);
        input.squares(last, j) += static_cast<double>(tokens) * row[j] * row[j];
      }
    }
  }
  return input;
}

// y and its bound for all N features, each rank working on rows of the truth that it holds.
ReferenceProduct expect(const Stage& stage, const ProductInput& input, Communicator& comm, int threads) {
  const Leaf& truth = *stage.truth;
  Range rows{truth.row_begin, truth.row_begin + truth.rows};
  const Matrix<double> nothing(input.values.rows, 0);
  ReferenceProduct local{nothing, nothing, nothing, truth.cols};
  together(comm, [&] {
    if (stage.truth_whole) {
      const int64_t unit = truth.pattern.kind == PatternKind::block ? truth.pattern.block_rows : 1;
      rows = partition(truth.rows, comm.size(), unit)[static_cast<size_t>(comm.rank())];
      if (rows.size() == 0) return;
      local = reference_product(slice(truth, rows, {0, truth.cols}), input, threads);
    } else if (rows.size() > 0) {
      local = reference_product(truth, input, threads);
    }
  });
  const auto all = gather_ranges(rows, comm);
  int64_t n = 0;
  for (const auto& ranges : all) n = std::max(n, ranges[0].end);
  return {gather_features(local.y, all, n, comm), gather_features(local.magnitudes, all, n, comm),
          gather_features(local.squares, all, n, comm), truth.cols};
}

// The distinct inputs over ranks; `same` when every rank is known to have the same.
std::vector<ProductInput> distinct_inputs(const ProductInput& own, bool same, Communicator& comm,
                                          std::vector<size_t>& of_rank) {
  of_rank.assign(static_cast<size_t>(comm.size()), 0);
  std::vector<ProductInput> distinct;
  if (same || comm.size() == 1) return {own};
  const int64_t count = static_cast<int64_t>(own.values.data.size());
  const std::vector<int64_t> bytes(of_rank.size(), count * static_cast<int64_t>(sizeof(double)));
  const auto gathered = [&](const Matrix<double>& part) {
    std::vector<double> all(of_rank.size() * static_cast<size_t>(count));
    comm.all_gather(part.data.data(), all.data(), bytes);
    return all;
  };
  const auto values = gathered(own.values), magnitudes = gathered(own.magnitudes),
             squares = gathered(own.squares);
  for (size_t r = 0; r < of_rank.size(); ++r) {
    ProductInput input = own;
    const int64_t first = static_cast<int64_t>(r) * count;
    std::copy_n(values.begin() + first, count, input.values.data.begin());
    std::copy_n(magnitudes.begin() + first, count, input.magnitudes.data.begin());
    std::copy_n(squares.begin() + first, count, input.squares.data.begin());
    const auto found = std::find(distinct.begin(), distinct.end(), input);
    of_rank[r] = static_cast<size_t>(found - distinct.begin());
    if (found == distinct.end()) distinct.push_back(std::move(input));
  }
  return distinct;
}

// Holds one stage's output on this rank against what was expected.
void compare(const Stage& stage, const float* out, int64_t tokens, const Probe& probe,
             const ReferenceProduct& expected, int rank, const std::string& place, CheckResult& worst) {
  const int64_t features = stage.local_out;
  std::vector<int64_t> global;
  for (const Range& range : stage.cut.rows[static_cast<size_t>(rank)]) {
    for (int64_t i = range.begin; i < range.end; ++i) global.push_back(i);
  }
  std::vector<double> combined(probe.signs.empty() ? 0 : static_cast<size_t>(features), 0.0);
  std::vector<double> sizes(combined.size(), 0.0);  // of the outputs, for the combination's tolerance
  for (int64_t t = 0; t < tokens && !combined.empty(); ++t) {
    const double sign = probe.signs[static_cast<size_t>(t)];
    for (int64_t i = 0; i < features; ++i) {
      combined[static_cast<size_t>(i)] += sign * out[t * features + i];
      sizes[static_cast<size_t>(i)] += std::abs(static_cast<double>(out[t * features + i]));
    }
  }
  for (int64_t row = 0; row < probe.rows(); ++row) {
    const bool single = row < static_cast<int64_t>(probe.tokens.size());
    const int64_t token = single ? probe.tokens[static_cast<size_t>(row)] : -1;
    for (int64_t i = 0; i < features; ++i) {
      const int64_t feature = global[static_cast<size_t>(i)];
      const double y = single ? out[token * features + i] : combined[static_cast<size_t>(i)];
      const double difference = std::abs(y - expected.y(row, feature));
      CheckResult element;
      element.error = std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
      // Of a combination the sizes are the kernel's own: what is far off widens its tolerance by little. The
      // smallest normal float32 on top: what underflows is not wrong.
      element.tolerance =
          stage.kernel->rounding *
              check_tolerance(single ? expected.y(row, feature) : sizes[static_cast<size_t>(i)],
                              expected.magnitudes(row, feature), expected.squares(row, feature),
                              expected.cols) +
          std::numeric_limits<float>::min();
      element.passed = element.error <= element.tolerance;
      if (!worst.where.empty() && element.error / element.tolerance <= worst.error / worst.tolerance)
        continue;
      element.where = fmt::format("{}, {}, feature {}", place,
                                  single ? fmt::format("token {}", token) : "all tokens combined", feature);
      worst = element;
    }
  }
}

// Every rank's rows, of its own tokens, as [tokens × features] on every rank.
std::vector<float> gather_tokens(ShardedLayer& layer, const float* local, int64_t tokens, int64_t features) {
  Communicator& comm = layer.comm();
  const int64_t rows = layer.out_rows(tokens);
  std::vector<float> all(static_cast<size_t>(rows * comm.size() * features));
  const std::vector<int64_t> bytes(static_cast<size_t>(comm.size()), 4 * rows * features);
  comm.all_gather(local, all.data(), bytes);
  all.resize(static_cast<size_t>(tokens * features));
  return all;
}

// The worst rank's result, on every rank.
CheckResult merge_ranks(const CheckResult& own, Communicator& comm) {
  struct Numbers {
    double error, tolerance, failed;
  };
  const Numbers mine{own.error, own.tolerance, own.passed ? 0.0 : 1.0};
  std::vector<Numbers> all(static_cast<size_t>(comm.size()));
  comm.all_gather(&mine, all.data(), std::vector<int64_t>(all.size(), sizeof(Numbers)));
  CheckResult result;
  int worst = 0;
  for (size_t r = 0; r < all.size(); ++r) {
    CheckResult each{all[r].failed == 0, all[r].error, all[r].tolerance, fmt::format("{}", r)};
    result.merge(each);
    if (result.where == each.where) worst = static_cast<int>(r);
  }
  result.where = comm.broadcast_text(own.where, worst);
  return result;
}

}  // namespace

void CheckResult::merge(const CheckResult& other) {
  if (other.where.empty() && other.passed) return;  // nothing was compared there
  const auto ratio = [](const CheckResult& result) {
    return result.tolerance > 0 ? result.error / result.tolerance : 0;
  };
  const bool take = where.empty() || (passed != other.passed ? passed : ratio(other) > ratio(*this));
  if (take) *this = other;
}

Matrix<float> local_input(const ShardedLayer& layer, const Matrix<float>& x, Range tokens) {
  const Range cols = layer.local_cols();
  const Range own = layer.gathers() ? layer.own_tokens(tokens.size()) : Range{0, tokens.size()};
  Matrix<float> local(layer.in_rows(tokens.size()), cols.size());
  for (int64_t t = 0; t < own.size(); ++t) {
    const float* row = x.row(tokens.begin + own.begin + t);
    std::copy(row + cols.begin, row + cols.end, local.row(t));
  }
  return local;
}

CheckResult check_layer(ShardedLayer& layer, const Matrix<float>& x, Stream& stream, uint64_t seed) {
  Communicator& comm = layer.comm();
  const int64_t tokens = x.rows;
  std::vector<Stage>& stages = layer.mutable_stages();
  const Probe probe = make_probe(tokens, seed);
  Device& device = layer.device();
  const int64_t y_count = layer.out_rows(tokens) * layer.local_out();
  std::vector<float> guarded_y;
  Buffer x_in, y_out;  // the device's
  together(comm, [&] {
    if (tokens < 1 || x.cols != stages.front().truth->cols) {
      throw std::invalid_argument(fmt::format("check: expected tokens of {} features, found {} tokens of {}",
                                              stages.front().truth->cols, tokens, x.cols));
    }
    guarded_y.resize(static_cast<size_t>(y_count + 2 * kGuard));
    const Matrix<float> local_x = local_input(layer, x, {0, tokens});
    x_in = place_activations(device, local_x.data.data(), local_x.rows * local_x.cols, layer.input_type());
    y_out = device.allocate((y_count + 2 * kGuard) * 4);
  });
  float* const y = guarded_y.data() + kGuard;

  CheckResult own;
  std::vector<Expectation> known(stages.size());
  for (int copy = 0; copy < layer.copies(); ++copy) {
    const auto poison = std::bit_cast<uint32_t>(std::numeric_limits<float>::quiet_NaN());
    std::vector<std::vector<float>> outputs;  // of all stages; the last's is empty
    together(comm, [&] {
      device.fill(y_out.data(), std::bit_cast<uint32_t>(kGuardValue), y_out.bytes());
      device.fill(y_out.as<float>() + kGuard, poison, 4 * y_count);
      for (Stage& stage : stages) device.fill(stage.output.data(), poison, stage.output.bytes());
    });
    layer.forward(copy, x_in.as<float>(), y_out.as<float>() + kGuard, tokens, stream);
    together(comm, [&] {
      device.synchronize();
      device.download(guarded_y.data(), y_out.data(), y_out.bytes());
      for (const Stage& stage : stages) {
        auto& output = outputs.emplace_back(static_cast<size_t>(stage.output.bytes() / 4));
        device.download(output.data(), stage.output.data(), stage.output.bytes());
      }
    });
    // From the stage on whose sums are scattered, each rank has its own tokens: all of them for the
    // comparison.
    bool scattered = false;
    for (size_t s = 0; s < stages.size(); ++s) {
      scattered = scattered || (layer.scatters() && stages[s].cut.reduce);
      if (!scattered) continue;
      const bool last = s + 1 == stages.size();
      outputs[s] = gather_tokens(layer, last ? y : outputs[s].data(), tokens, stages[s].local_out);
    }

    for (size_t s = 0; s < stages.size(); ++s) {
      const Stage& stage = stages[s];
      Expectation& expectation = known[s];
      if (s > 0 || copy == 0) {
        ProductInput input;
        together(comm, [&] {
          input = probe_input(s == 0 ? x.data.data() : outputs[s - 1].data(), tokens, stage, probe);
        });
        std::vector<ProductInput> inputs = distinct_inputs(input, s == 0, comm, expectation.of_rank);
        // Copies of one layer give the same numbers, so the product is seldom computed again.
        if (inputs != expectation.inputs) {
          expectation.inputs = std::move(inputs);
          expectation.products.clear();
          for (const ProductInput& each : expectation.inputs) {
            expectation.products.push_back(expect(stage, each, comm, stream.threads));
          }
        }
      }
      const float* out = s + 1 == stages.size() && !scattered ? y : outputs[s].data();
      compare(stage, out, tokens, probe,
              expectation.products[expectation.of_rank[static_cast<size_t>(comm.rank())]], comm.rank(),
              fmt::format("copy {}, rank {}, stage {}", copy, comm.rank(), s), own);
    }
    const auto untouched = [](const float* from) {
      return std::all_of(from, from + kGuard, [](float value) { return value == kGuardValue; });
    };
    if (!untouched(guarded_y.data()) || !untouched(y + y_count)) {
      own = {false, std::numeric_limits<double>::infinity(), std::numeric_limits<float>::min(),
             fmt::format("copy {}, rank {}: wrote outside its output", copy, comm.rank())};
    }
  }
  return merge_ranks(own, comm);
}

Matrix<float> gather_output(ShardedLayer& layer, const float* y_local, int64_t tokens) {
  const auto& rows = layer.stages().back().cut.rows;
  int64_t n = 0;
  for (const auto& ranges : rows) {
    for (const Range& range : ranges) n = std::max(n, range.end);
  }
  Matrix<float> local(tokens, layer.local_out());
  if (layer.scatters()) {
    local.data = gather_tokens(layer, y_local, tokens, layer.local_out());
    return local;
  }
  std::copy_n(y_local, local.data.size(), local.data.begin());
  const bool whole = std::all_of(rows.begin(), rows.end(), [&](const std::vector<Range>& ranges) {
    return ranges.size() == 1 && ranges[0] == Range{0, n};
  });
  return whole ? local : gather_features(local, rows, n, layer.comm());
}

Quality compare_quality(const Matrix<float>& y, const Matrix<double>& y0) {
  if (y.rows != y0.rows || y.cols != y0.cols) {
    throw std::invalid_argument(
        fmt::format("quality: expected {} × {} outputs, found {} × {}", y0.rows, y0.cols, y.rows, y.cols));
  }
  double error = 0, power = 0, power0 = 0, product = 0;
  Quality quality;
  for (size_t i = 0; i < y.data.size(); ++i) {
    const double a = y.data[i], b = y0.data[i];
    error += (a - b) * (a - b);
    power += a * a;
    power0 += b * b;
    product += a * b;
    quality.max_abs = std::max(quality.max_abs, std::abs(a - b));
  }
  // Two zero vectors agree; a zero one against another does not point anywhere.
  quality.nmse = power0 > 0 ? error / power0 : (error > 0 ? std::numeric_limits<double>::infinity() : 0);
  quality.cosine = power > 0 && power0 > 0 ? product / std::sqrt(power * power0) : (power == power0 ? 1 : 0);
  return quality;
}

Matrix<double> original_product(const OriginalWeights& weights, const Matrix<float>& x, Communicator& comm,
                                int threads) {
  Matrix<double> local(x.rows, weights.rows.size());
  together(comm, [&] {
    if (x.cols != weights.shape.in_features) {
      throw std::invalid_argument(fmt::format("quality: expected tokens of {} features, found {}",
                                              weights.shape.in_features, x.cols));
    }
    if (weights.rows.size() == 0) return;
    Matrix<double> wide(x.rows, x.cols);
    std::copy(x.data.begin(), x.data.end(), wide.data.begin());
    local = reference_product(weights.slab, wide, threads);
  });
  return gather_features(local, gather_ranges(weights.rows, comm), weights.shape.out_features, comm);
}

}  // namespace lamina
