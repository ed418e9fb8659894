#include "distributed/compress.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/peak_memory.hpp"
#include "distributed/svd.hpp"
#include "distributed/timed_communicator.hpp"
#include "kernels/digest.hpp"

namespace lamina {
namespace {

template <class Numbers>
int64_t bytes_of(const Numbers& values) {
  return static_cast<int64_t>(values.size() * sizeof(values[0]));
}

int64_t leaf_bytes(const Leaf& leaf) {
  return bytes_of(leaf.values) + bytes_of(leaf.codes) + bytes_of(leaf.scales) + bytes_of(leaf.zero_points) +
         bytes_of(leaf.input_scales) + bytes_of(leaf.mask);
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Factorises what was not factorised before. Ranks remember alike, so they decide alike.
class RememberingFactorizer final : public Factorizer {
 public:
  RememberingFactorizer(Factorizer& inner, FactorMemory& memory, const TimedCommunicator& counted)
      : inner_(inner), memory_(memory), counted_(counted) {}

  Factors factorize(const RowSlab& slab, const FactorRequest& request, uint64_t seed) override {
    if (slab.remainder) return heard(fresh(slab, request, seed));
    for (const FactorMemory::Known& known : memory_.known) {
      if (known.request != request || known.seed != seed) continue;
      saved_s_ += known.seconds;
      saved_bytes_ = std::max(saved_bytes_, known.peak_bytes);
      saved_comm_bytes_ += known.comm_bytes;
      return heard(known.factors);
    }
    const PeakMemory peak;
    const auto begin = std::chrono::steady_clock::now();
    const int64_t sent = counted_.bytes();
    Factors factors = fresh(slab, request, seed);
    memory_.known.push_back({request, seed, factors, seconds_since(begin) - factors.verify_s, peak.bytes(),
                             counted_.bytes() - sent});
    return heard(std::move(factors));
  }
  const std::vector<std::string>& warnings() const { return warnings_; }
  const Promise& promise() const { return promise_; }
  double saved_s() const { return saved_s_; }
  double verify_s() const { return verify_s_; }
  int64_t saved_bytes() const { return saved_bytes_; }
  int64_t saved_comm_bytes() const { return saved_comm_bytes_; }

 private:
  Factors fresh(const RowSlab& slab, const FactorRequest& request, uint64_t seed) {
    Factors factors = inner_.factorize(slab, request, seed);
    verify_s_ += factors.verify_s;
    return factors;
  }
  // Keeps what factors promise and warn of, which does not end up in the weights.
  Factors heard(Factors factors) {
    promise_.merge(factors.promise);
    for (const std::string& warning : factors.warnings)
      if (std::find(warnings_.begin(), warnings_.end(), warning) == warnings_.end())
        warnings_.push_back(warning);
    return factors;
  }

  Factorizer& inner_;
  FactorMemory& memory_;
  std::vector<std::string> warnings_;
  Promise promise_;
  const TimedCommunicator& counted_;
  double saved_s_ = 0, verify_s_ = 0;
  int64_t saved_bytes_ = 0, saved_comm_bytes_ = 0;
};

// Names the first weight that is not finite, by its place in the whole matrix.
void expect_finite(const Matrix<float>& slab, int64_t row_begin, const std::string& source) {
  for (int64_t i = 0; i < slab.rows; ++i) {
    const float* row = slab.row(i);
    bool finite = true;
    for (int64_t j = 0; j < slab.cols; ++j) finite &= std::abs(row[j]) <= std::numeric_limits<float>::max();
    if (finite) continue;
    const int64_t j = std::find_if(row, row + slab.cols, [](float w) { return !std::isfinite(w); }) - row;
    throw std::runtime_error(fmt::format("{}: expected finite weights, found {} at row {}, column {}", source,
                                         row[j], row_begin + i, j));
  }
}

}  // namespace

std::string failure_of(const Promise& promise) {
  return fmt::format(
      "the factors are wrong: their error is {:.6g}, past the {:.6g} that their method promises",
      promise.error, promise.bound);
}

void measure_error(CompressedWeights& result, const Matrix<float>& slab, Communicator& comm, int threads) {
  const Leaf& leaf = result.canonical.leaves.front();
  const bool chain = result.canonical.is_chain();
  const int64_t cols = slab.cols;
  Matrix<double> buffers;
  together(comm, [&] { buffers = Matrix<double>(threads, cols); });
  double norm = 0, error = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : norm, error)
  for (int64_t i = 0; i < slab.rows; ++i) {
    const float* w = slab.row(i);
    double* stored = buffers.row(omp_get_thread_num());
    if (!chain) dequantize_row(leaf, i, stored);
    for (int64_t j = 0; j < cols; ++j) {
      const double original = w[j], difference = chain ? 0 : original - stored[j];
      norm += original * original;
      error += difference * difference;
    }
  }
  result.norm_squared = comm.sum(norm);
  const double relative = result.canonical.error;
  result.error_squared = chain ? relative * relative * result.norm_squared : comm.sum(error);
  if (result.canonical.is_sum()) result.error_squared *= relative * relative;
}

namespace {

// A leaf like this one, with no rows or no columns.
Leaf empty_like(const Leaf& leaf, Range cols) {
  Leaf empty = leaf;
  empty.values.clear();
  empty.scales.clear();
  empty.input_scales.clear();
  empty.codes.clear();
  empty.zero_points.clear();
  empty.mask.clear();
  empty.rows = 0;
  empty.cols = cols.size();
  empty.col_begin = leaf.col_begin + cols.begin;
  if (empty.group > 0 && (empty.per_channel || empty.cols == 0)) empty.group = empty.cols;
  if (!leaf.input_scales.empty()) {
    empty.input_scales.assign(leaf.input_scales.begin() + cols.begin, leaf.input_scales.begin() + cols.end);
  }
  return empty;
}

Range intersect(Range a, Range b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

// Every rank's list of numbers.
std::vector<std::vector<int64_t>> gather_lists(const std::vector<int64_t>& own, Communicator& comm) {
  const size_t ranks = static_cast<size_t>(comm.size());
  int64_t count = static_cast<int64_t>(own.size());
  std::vector<int64_t> counts(ranks), bytes(ranks, sizeof(int64_t));
  comm.all_gather(&count, counts.data(), bytes);
  int64_t total = 0;
  for (size_t r = 0; r < ranks; ++r) {
    bytes[r] = counts[r] * static_cast<int64_t>(sizeof(int64_t));
    total += counts[r];
  }
  std::vector<int64_t> all(static_cast<size_t>(total));
  comm.all_gather(own.data(), all.data(), bytes);
  std::vector<std::vector<int64_t>> lists;
  auto from = all.begin();
  for (size_t r = 0; r < ranks; ++r) {
    lists.emplace_back(from, from + counts[r]);
    from += counts[r];
  }
  return lists;
}

// What one rank holds and wants, as it travels.
struct Wish {
  Range held;
  Range cols;
  std::vector<Range> rows;
};

std::vector<int64_t> encode(const Wish& wish) {
  std::vector<int64_t> list = {wish.held.begin, wish.held.end, wish.cols.begin, wish.cols.end};
  for (const Range& rows : wish.rows) list.insert(list.end(), {rows.begin, rows.end});
  return list;
}

Wish decode(const std::vector<int64_t>& list) {
  Wish wish{{list[0], list[1]}, {list[2], list[3]}, {}};
  for (size_t i = 4; i + 1 < list.size(); i += 2) wish.rows.push_back({list[i], list[i + 1]});
  return wish;
}

// The parts of `leaf` that `wish` asks for, in the order of its ranges.
std::vector<Leaf> parts_for(const Leaf& leaf, const Wish& wish) {
  std::vector<Leaf> parts;
  if (wish.cols.size() == 0) return parts;
  for (const Range& wanted : wish.rows) {
    const Range rows = intersect(wanted, {leaf.row_begin, leaf.row_begin + leaf.rows});
    if (rows.size() > 0)
      parts.push_back(slice(leaf, {rows.begin - leaf.row_begin, rows.end - leaf.row_begin}, wish.cols));
  }
  return parts;
}

}  // namespace

Range slab_rows(int64_t out_features, const Communicator& comm) {
  return partition(out_features, comm.size(), kRowBlock)[static_cast<size_t>(comm.rank())];
}

OriginalWeights load_weights(const WeightSource& source, Communicator& comm, int threads) {
  OriginalWeights weights;
  together(comm, [&] {
    weights.shape = source.shape();
    weights.source = source.describe();
    weights.rows = slab_rows(weights.shape.out_features, comm);
    weights.slab = Matrix<float>(weights.rows.size(), weights.shape.in_features);
    if (weights.rows.size() == 0) return;
    source.read_rows(weights.rows, weights.slab.data.data(), threads);
    expect_finite(weights.slab, weights.rows.begin, weights.source);
  });
  return weights;
}

std::string weights_digest(const OriginalWeights& weights, Communicator& comm, int threads) {
  const int64_t rows = weights.slab.rows, cols = weights.slab.cols;
  std::vector<int64_t> own(static_cast<size_t>((rows + kRowBlock - 1) / kRowBlock));
#pragma omp parallel for schedule(dynamic) num_threads(std::max(1, threads))
  for (size_t block = 0; block < own.size(); ++block) {
    const int64_t first = static_cast<int64_t>(block) * kRowBlock,
                  count = std::min(kRowBlock, rows - first) * cols;
    own[block] =
        static_cast<int64_t>(digest_of(weights.slab.row(first), count * static_cast<int64_t>(sizeof(float))));
  }
  std::vector<int64_t> all = {weights.shape.out_features, weights.shape.in_features};
  for (const auto& blocks : gather_lists(own, comm)) all.insert(all.end(), blocks.begin(), blocks.end());
  return fmt::format("{:016x}", digest_of(all.data(), bytes_of(all)));
}

CompressedWeights compress(const Scheme& scheme, const OriginalWeights& weights, Communicator& comm,
                           uint64_t seed, int threads, FactorMemory* memory, const Calibration& calibration,
                           const Cotangents& cotangents) {
  CompressedWeights result;
  FactorMemory own_memory;
  result.shape = weights.shape;
  result.rows = weights.rows;
  const PeakMemory peak;
  const auto begin = std::chrono::steady_clock::now();
  TimedCommunicator counted(comm);
  FactorMemory& shared = memory != nullptr ? *memory : own_memory;
  const auto factorizer = make_factorizer(counted, {.threads = threads}, calibration, shared.gpus);
  RememberingFactorizer remembering(*factorizer, shared, counted);
  const auto calibrator =
      make_calibrator(weights.shape.in_features, calibration, counted, threads, cotangents);
  together(comm, [&] {
    const int64_t unit = scheme.units().rows;
    if (comm.size() > 1 && (unit < 1 || kRowBlock % unit != 0)) {
      throw std::runtime_error(fmt::format(
          "{}: expected blocks of rows that divide {}, so that ranks can compress whole ones, found {}",
          scheme.name(), kRowBlock, unit));
    }
    CompressContext context{remembering, seed, calibrator.get()};
    const RowSlab slab{weights.slab, weights.rows.begin, weights.shape};
    result.canonical = scheme.compress(slab, context);
    if (result.canonical.leaves.empty() || result.canonical.leaves.size() > 3) {
      throw std::runtime_error(
          fmt::format("{}: expected one leaf, two of a chain or three of a sum, found {}", scheme.name(),
                      result.canonical.leaves.size()));
    }
    if (result.canonical.leaves[0].rows != weights.rows.size()) {
      throw std::runtime_error(fmt::format("{}: expected {} compressed rows, found {}", scheme.name(),
                                           weights.rows.size(), result.canonical.leaves[0].rows));
    }
  });
  const double elapsed = seconds_since(begin) + remembering.saved_s() - remembering.verify_s();
  int64_t own_bytes = remembering.saved_bytes();
  int64_t canonical_bytes = 0;
  for (const Leaf& leaf : result.canonical.leaves) canonical_bytes += leaf_bytes(leaf);
  own_bytes = std::max({own_bytes, canonical_bytes, peak.bytes()});
  comm.all_reduce(&own_bytes, &result.peak_bytes, 1, DType::i64, ReduceOp::max);
  result.seconds = comm.max(elapsed);
  const int64_t sent = comm.size() > 1 ? counted.bytes() + remembering.saved_comm_bytes() : 0;
  comm.all_reduce(&sent, &result.comm_bytes, 1, DType::i64, ReduceOp::max);
  result.promise = remembering.promise();
  result.warnings = calibrator->warnings();
  for (const std::string& warning : remembering.warnings())
    if (std::find(result.warnings.begin(), result.warnings.end(), warning) == result.warnings.end())
      result.warnings.push_back(warning);
  measure_error(result, weights.slab, comm, threads);
  return result;
}

Leaf redistribute(const Leaf& leaf, const std::vector<Range>& wanted_rows, Range wanted_cols,
                  Communicator& comm) {
  const size_t own = static_cast<size_t>(comm.rank());
  const Wish wish{{leaf.row_begin, leaf.row_begin + leaf.rows}, wanted_cols, wanted_rows};
  std::vector<Wish> wishes;
  for (const auto& list : gather_lists(encode(wish), comm)) wishes.push_back(decode(list));

  Messages send(wishes.size());
  std::vector<Leaf> kept;
  together(comm, [&] {
    if (wanted_cols.begin < 0 || wanted_cols.end < wanted_cols.begin || wanted_cols.end > leaf.cols) {
      throw std::invalid_argument(fmt::format("redistribute: expected columns within [0, {}), found [{}, {})",
                                              leaf.cols, wanted_cols.begin, wanted_cols.end));
    }
    for (size_t r = 0; r < wishes.size(); ++r) {
      std::vector<Leaf> parts = parts_for(leaf, wishes[r]);
      if (r == own) {
        kept = std::move(parts);  // no copy of what stays
        continue;
      }
      for (const Leaf& part : parts) {
        const std::vector<std::byte> image = serialize(part);
        const int64_t bytes = static_cast<int64_t>(image.size());
        const auto* prefix = reinterpret_cast<const std::byte*>(&bytes);
        send[r].insert(send[r].end(), prefix, prefix + sizeof(bytes));
        send[r].insert(send[r].end(), image.begin(), image.end());
      }
    }
  });
  const Messages received = comm.all_to_all(send);
  send.clear();

  Leaf result;
  together(comm, [&] {
    std::vector<size_t> place(received.size(), 0);  // read so far of each rank's message (or of `kept`)
    std::vector<Leaf> parts;
    for (const Range& wanted : wanted_rows) {
      int64_t next = wanted.begin;
      // Slabs lie in rank order, so ranks in order give the rows in order.
      for (size_t r = 0; r < wishes.size() && wanted_cols.size() > 0; ++r) {
        const Range rows = intersect(wanted, wishes[r].held);
        if (rows.size() == 0) continue;
        if (rows.begin != next) break;
        next = rows.end;
        if (r == own) {
          parts.push_back(std::move(kept[place[r]++]));
          continue;
        }
        int64_t bytes = 0;
        std::memcpy(&bytes, received[r].data() + place[r], sizeof(bytes));
        parts.push_back(deserialize(received[r].data() + place[r] + sizeof(bytes), bytes));
        place[r] += sizeof(bytes) + static_cast<size_t>(bytes);
      }
      if (wanted_cols.size() > 0 && wanted.size() > 0 && next != wanted.end) {
        throw std::invalid_argument(
            fmt::format("redistribute: expected rows [{}, {}) spread over ranks in order, found none at {}",
                        wanted.begin, wanted.end, next));
      }
    }
    result = parts.empty()       ? empty_like(leaf, wanted_cols)
             : parts.size() == 1 ? std::move(parts[0])
                                 : stack_rows(parts);
  });
  return result;
}

}  // namespace lamina
