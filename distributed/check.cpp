#include "distributed/check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "distributed/agree.hpp"
#include "distributed/gather.hpp"
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
  bool rounds = false;                     // Layer::rounds_weights(); never so over several ranks
  std::vector<ProductInput> inputs;        // distinct
  std::vector<ReferenceProduct> products;  // of each, [S × N]
  std::vector<size_t> of_rank;             // which of them a rank's input is
};

ProductInput nothing_probed(const Probe& probe, int64_t cols) {
  return {Matrix<double>(probe.rows(), cols), Matrix<double>(probe.rows(), cols),
          Matrix<double>(probe.rows(), cols)};
}

// Token `token`'s part of what is looked at.
void add_token(ProductInput& input, const Probe& probe, int64_t token, int64_t tokens, const double* row) {
  const int64_t k = input.values.cols, last = probe.rows() - 1;
  for (size_t p = 0; p < probe.tokens.size(); ++p) {
    if (probe.tokens[p] != token) continue;
    const auto at = static_cast<int64_t>(p);
    std::copy_n(row, k, input.values.row(at));
    std::transform(row, row + k, input.magnitudes.row(at), [](double v) { return std::abs(v); });
    std::transform(row, row + k, input.squares.row(at), [](double v) { return v * v; });
  }
  if (probe.signs.empty()) return;
  const double sign = probe.signs[static_cast<size_t>(token)];
  for (int64_t j = 0; j < k; ++j) {
    input.values(last, j) += sign * row[j];
    input.magnitudes(last, j) += std::abs(row[j]);
    input.squares(last, j) += static_cast<double>(tokens) * row[j] * row[j];
  }
}

// What a stage reads: all of x, or in a partial stage this rank's part and zeros.
ProductInput probe_input(const float* x, int64_t tokens, const Stage& stage, Range own, const Probe& probe) {
  const Leaf& truth = *stage.truth;
  const InputType input_type = stage.kernel->input;
  const int64_t k = truth.cols;
  std::vector<int64_t> cuts = {0, k};
  for (const Range& range : stage.cut.cols) cuts.push_back(range.end);
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());

  ProductInput input = nothing_probed(probe, k);
  for (int64_t begin = 0; begin < tokens; begin += kTokenChunk) {
    Matrix<float> chunk(std::min(kTokenChunk, tokens - begin), k);
    // What an earlier stage got wrong has already failed it; here it must not become undefined behaviour.
    std::transform(x + begin * k, x + (begin + chunk.rows) * k, chunk.data.begin(), [&](float value) {
      if (!std::isfinite(value)) return 0.0f;
      return rounded_input(value, input_type);
    });
    for (int64_t i = 0; i < chunk.rows && stage.partial; ++i) {
      std::fill(chunk.row(i), chunk.row(i) + own.begin, 0.0f);
      std::fill(chunk.row(i) + own.end, chunk.row(i) + k, 0.0f);
    }
    const Matrix<double> seen = reference_activations(chunk, truth, cuts, input_type);
    for (int64_t i = 0; i < chunk.rows; ++i) add_token(input, probe, begin + i, tokens, seen.row(i));
  }
  return input;
}

// What the stage before, whose output is `y` [tokens × features], adds to a stage's: of all ranks where these
// are summed. Collective then.
ProductInput probe_addend(const std::vector<float>& y, int64_t tokens, const Stage& stage, const Probe& probe,
                          Communicator& comm) {
  const int64_t features = stage.local_out;
  ProductInput addend = nothing_probed(probe, features);
  std::vector<double> row(static_cast<size_t>(features));
  for (int64_t t = 0; t < tokens; ++t) {
    // As above: what is not finite has failed already.
    std::transform(y.data() + t * features, y.data() + (t + 1) * features, row.data(),
                   [](float value) { return std::isfinite(value) ? static_cast<double>(value) : 0.0; });
    add_token(addend, probe, t, tokens, row.data());
  }
  if (stage.cut.reduce)
    for (auto* sums : {&addend.values, &addend.magnitudes, &addend.squares})
      comm.all_reduce(sums->data.data(), sums->data.data(), static_cast<int64_t>(sums->data.size()),
                      DType::f64, ReduceOp::sum);
  return addend;
}

// y and its bound for all N features, each rank working on rows of the truth that it holds.
ReferenceProduct expect(const Stage& stage, const ProductInput& input, bool rounds, Communicator& comm,
                        int threads) {
  const Leaf& truth = *stage.truth;
  Range rows{truth.row_begin, truth.row_begin + truth.rows};
  const Matrix<double> nothing(input.values.rows, 0);
  ReferenceProduct local{nothing, nothing, nothing, truth.cols};
  together(comm, [&] {
    if (stage.truth_whole) {
      const int64_t unit = truth.pattern.kind == PatternKind::block ? truth.pattern.block_rows : 1;
      rows = partition(truth.rows, comm.size(), unit)[static_cast<size_t>(comm.rank())];
      if (rows.size() == 0) return;
      local = reference_product(slice(truth, rows, {0, truth.cols}), input, threads, rounds);
    } else if (rows.size() > 0) {
      local = reference_product(truth, input, threads, rounds);
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

// Holds one stage's output on this rank against what was expected of its product, and `addend` [features of
// this rank] where there is one.
void compare(const Stage& stage, const float* out, int64_t tokens, const Probe& probe,
             const ReferenceProduct& expected, const ProductInput* addend, int rank, const std::string& place,
             CheckResult& worst) {
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
      double reference = expected.y(row, feature), magnitudes = expected.magnitudes(row, feature),
             squares = expected.squares(row, feature);
      if (addend != nullptr) {
        reference += addend->values(row, i);
        magnitudes += addend->magnitudes(row, i);
        squares += addend->squares(row, i);
      }
      const double difference = std::abs(y - reference);
      CheckResult element;
      element.error = std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
      // Of a combination the sizes are the kernel's own: what is far off widens its tolerance by little. The
      // smallest normal float32 on top: what underflows is not wrong.
      element.tolerance =
          stage.kernel->rounding * check_tolerance(single ? reference : sizes[static_cast<size_t>(i)],
                                                   magnitudes, squares, expected.cols) +
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
  const Range cols = layer.local_cols();
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
      const bool rounds = comm.size() == 1 && !stage.copies.empty() &&
                          stage.copies[static_cast<size_t>(copy)]->rounds_weights(tokens);
      if (stage.follows || copy == 0 || rounds != expectation.rounds) {
        ProductInput input;
        together(comm, [&] {
          input =
              probe_input(stage.follows ? outputs[s - 1].data() : x.data.data(), tokens, stage, cols, probe);
        });
        const bool same = !stage.follows && !stage.partial;
        std::vector<ProductInput> inputs = distinct_inputs(input, same, comm, expectation.of_rank);
        // Copies of one layer give the same numbers, so the product is seldom computed again.
        if (inputs != expectation.inputs || rounds != expectation.rounds) {
          expectation.rounds = rounds;
          expectation.inputs = std::move(inputs);
          expectation.products.clear();
          for (const ProductInput& each : expectation.inputs) {
            expectation.products.push_back(expect(stage, each, rounds, comm, stream.threads));
          }
        }
      }
      const float* out = s + 1 == stages.size() && !scattered ? y : outputs[s].data();
      ProductInput addend;
      if (stage.adds) addend = probe_addend(outputs[s - 1], tokens, stage, probe, comm);
      compare(stage, out, tokens, probe,
              expectation.products[expectation.of_rank[static_cast<size_t>(comm.rank())]],
              stage.adds ? &addend : nullptr, comm.rank(),
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
    std::ranges::copy(gather_tokens(layer, y_local, tokens, layer.local_out()), local.data.begin());
    return local;
  }
  std::copy_n(y_local, local.data.size(), local.data.begin());
  const bool whole = std::all_of(rows.begin(), rows.end(), [&](const std::vector<Range>& ranges) {
    return ranges.size() == 1 && ranges[0] == Range{0, n};
  });
  return whole ? local : gather_features(local, rows, n, layer.comm());
}

}  // namespace lamina
