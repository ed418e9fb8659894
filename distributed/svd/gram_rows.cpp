#include "distributed/svd/gram_rows.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/coarse.hpp"
#include "distributed/svd/tall.hpp"
#include "distributed/svd/transpose.hpp"
#include "kernels/cpu/blas_threads.hpp"
#include "kernels/wide.hpp"

namespace lamina::svd {
namespace {

constexpr int64_t kTokens = 32;         // rows of a block that coarse products make together
constexpr int64_t kMostColumns = 1152;  // of a strip at a time: sums, products and factors fit the L2 cache

// to[i] += from[i], |from[i]| ≤ 1.01, in multiples of 2^-30: any sum of magnitudes to 1 fits.
LAMINA_WIDE void add_fixed(int32_t* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    to[i] += static_cast<int32_t>(from[i] * 0x1p30f + (from[i] < 0 ? -0.5f : 0.5f));
}

LAMINA_WIDE void add_numbers(int32_t* to, const int32_t* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// A symmetric matrix by strips: a block of rows by itself and the blocks that follow it, round to the first
// ones again, half of them all, so that each pair of blocks is in one strip and strips are alike.
class Strips {
 public:
  explicit Strips(int64_t size) : size_(size), blocks_((size + kRowBlock - 1) / kRowBlock) {}
  int64_t blocks() const { return blocks_; }
  int64_t begin(int64_t block) const { return block * kRowBlock; }
  int64_t height(int64_t block) const { return std::min(kRowBlock, size_ - begin(block)); }
  int64_t count(int64_t block) const {
    return 1 + (blocks_ - 1) / 2 + (blocks_ % 2 == 0 && block < blocks_ / 2 ? 1 : 0);
  }
  // Its columns: to the last, and round from the first.
  Range straight(int64_t block) const {
    return {begin(block), std::min(size_, (block + count(block)) * kRowBlock)};
  }
  Range round(int64_t block) const {
    return {0, std::max<int64_t>(0, block + count(block) - blocks_) * kRowBlock};
  }
  int64_t width(int64_t block) const { return straight(block).size() + round(block).size(); }
  // Of column blocks from the strip's own on.
  int64_t other(int64_t block, int64_t step) const { return (block + step) % blocks_; }

 private:
  int64_t size_, blocks_;
};

// What one thread adds to its strips, some columns at a time, of one panel.
class StripProducts {
 public:
  StripProducts(const Matrix<float>& panel, int64_t depth, const CoarseTall* coarse, float* scratch)
      : panel_(panel), depth_(depth), coarse_(coarse), scratch_(scratch) {}

  // to[i·stride + j] += the product of columns rows.begin + i and columns.begin + j.
  void add(Range rows, Range columns, int32_t* to, int64_t stride) const {
    if (columns.size() == 0) return;
    const int64_t parts = (columns.size() + kMostColumns - 1) / kMostColumns;
    const int64_t step = ((columns.size() + parts - 1) / parts + kRowBlock - 1) / kRowBlock * kRowBlock;
    for (int64_t first = columns.begin; first < columns.end; first += step) {
      const Range some{first, std::min(columns.end, first + step)};
      for (int64_t begin = 0; begin < depth_; begin += kRowBlock)
        add_block(begin, std::min(kRowBlock, depth_ - begin), rows, some, to + (first - columns.begin),
                  stride);
    }
  }

 private:
  void add_block(int64_t begin, int64_t deep, Range rows, Range columns, int32_t* to, int64_t stride) const {
    const int64_t together = coarse_ != nullptr ? kTokens : kRowBlock;
    for (int64_t row = rows.begin; row < rows.end; row += together) {
      const int64_t some = std::min(together, rows.end - row);
      if (coarse_ != nullptr) {
        coarse_->multiply({panel_.row(begin) + row, 1, panel_.cols}, some, begin, deep, columns, scratch_,
                          false);
      } else {
        multiply(true, false, some, columns.size(), deep, panel_.row(begin) + row, panel_.cols,
                 panel_.row(begin) + columns.begin, panel_.cols, scratch_, columns.size());
      }
      for (int64_t i = 0; i < some; ++i)
        add_fixed(to + (row - rows.begin + i) * stride, scratch_ + i * columns.size(), columns.size());
    }
  }

  const Matrix<float>& panel_;
  int64_t depth_;
  const CoarseTall* coarse_;
  float* scratch_;
};

}  // namespace

Matrix<float> gram_rows(const Input& input, TimedCommunicator& comm, int threads, bool coarse) {
  const Sides sides(input);
  const Strips strips(sides.small);
  const std::vector<Range> shares = partition(sides.small, comm.size(), kRowBlock);
  const size_t ranks = shares.size(), own = static_cast<size_t>(comm.rank());
  // Columns of norm at most 1 let one grid serve the whole matrix: |Σ| ≤ ‖a_i‖·‖a_j‖, in blocks too.
  std::vector<double> norms = small_side_norms(input, comm), scale(norms);
  for (double& each : scale) each = each > 0 ? 1 / each : 0;
  const double largest = *std::max_element(norms.begin(), norms.end());

  // Each rank's share of the sums lies where it will be sent from.
  Messages sums(ranks);
  std::vector<int32_t*> strip_of(static_cast<size_t>(strips.blocks()));
  std::vector<std::vector<float>> scratch(static_cast<size_t>(threads));
  const auto blocks_of = [&](size_t r) {
    // Ranks without rows begin where the last block ends.
    return Range{(shares[r].begin + kRowBlock - 1) / kRowBlock, (shares[r].end + kRowBlock - 1) / kRowBlock};
  };
  together(comm, [&] {
    for (size_t r = 0; r < ranks; ++r) {
      int64_t total = 0;
      const Range blocks = blocks_of(r);
      for (int64_t b = blocks.begin; b < blocks.end; ++b) total += strips.height(b) * strips.width(b);
      sums[r].resize(static_cast<size_t>(total) * sizeof(int32_t));
      auto* to = reinterpret_cast<int32_t*>(sums[r].data());
      for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        strip_of[static_cast<size_t>(b)] = to;
        to += strips.height(b) * strips.width(b);
      }
    }
    for (auto& each : scratch) each.resize(static_cast<size_t>(kRowBlock * (kMostColumns + kRowBlock)));
  });
  for_each_panel<float>(input, scale, comm, threads, [&](int64_t, int64_t depth, const Matrix<float>& panel) {
    std::optional<CoarseTall> packed;
    together(comm, [&] {
      if (coarse && depth > 0) packed.emplace(panel, threads);
    });
    if (depth == 0) return;
    const BlasThreads single(1);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t b = 0; b < strips.blocks(); ++b) {
      const StripProducts products(panel, depth, packed ? &*packed : nullptr,
                                   scratch[static_cast<size_t>(omp_get_thread_num())].data());
      const Range rows{strips.begin(b), strips.begin(b) + strips.height(b)};
      int32_t* to = strip_of[static_cast<size_t>(b)];
      products.add(rows, strips.straight(b), to, strips.width(b));
      products.add(rows, strips.round(b), to + strips.straight(b).size(), strips.width(b));
    }
  });
  scratch.clear();

  Message mine = std::exchange(sums[own], {});  // needs no sending
  Messages received = comm.all_to_all(sums);
  sums.clear();
  auto* total = reinterpret_cast<int32_t*>(mine.data());
  const auto count = static_cast<int64_t>(mine.size() / sizeof(int32_t));
  constexpr int64_t kSome = 1 << 14;
#pragma omp parallel for num_threads(threads)
  for (int64_t first = 0; first < count; first += kSome) {
    for (size_t r = 0; r < ranks; ++r) {
      if (r != own)
        add_numbers(total + first, reinterpret_cast<const int32_t*>(received[r].data()) + first,
                    std::min(kSome, count - first));
    }
  }

  for (double& each : norms) each /= largest;
  Matrix<float> result;
  Messages others(ranks);
  const auto owner = [&](int64_t block) {
    size_t r = 0;
    while (strips.begin(block) >= shares[r].end) ++r;
    return r;
  };
  const Range blocks = blocks_of(own);
  together(comm, [&] {
    result = Matrix<float>(shares[own].size(), sides.small);
    const int32_t* from = total;
    std::vector<float> turned(static_cast<size_t>(kRowBlock * kRowBlock));
    // All of it beforehand: a message that grew would lie in memory twice.
    std::vector<size_t> lengths(ranks);
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      for (int64_t step = 1; step < strips.count(b); ++step) {
        const int64_t other = strips.other(b, step);
        lengths[owner(other)] += static_cast<size_t>(strips.height(b) * strips.height(other)) * sizeof(float);
      }
    }
    for (size_t r = 0; r < ranks; ++r)
      if (r != own) others[r].reserve(lengths[r]);
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const int64_t width = strips.width(b), height = strips.height(b);
      int64_t at = 0;
      for (int64_t step = 0; step < strips.count(b); ++step) {
        const int64_t other = strips.other(b, step), wide = strips.height(other), col = strips.begin(other);
        for (int64_t i = 0; i < height; ++i) {
          const double norm = norms[static_cast<size_t>(strips.begin(b) + i)] * 0x1p-30;
          float* row = result.row(strips.begin(b) - shares[own].begin + i) + col;
          for (int64_t j = 0; j < wide; ++j) {
            const double each = from[i * width + at + j] * norm;
            row[j] = static_cast<float>(each * norms[static_cast<size_t>(col + j)]);
          }
        }
        const float* block = result.row(strips.begin(b) - shares[own].begin) + col;
        const size_t to_rank = owner(other);
        if (step > 0 && to_rank == own) {
          transpose(block, sides.small, height, wide, result.row(col - shares[own].begin) + strips.begin(b),
                    sides.small);
        } else if (step > 0) {
          transpose(block, sides.small, height, wide, turned.data(), height);
          const auto* bytes = reinterpret_cast<const std::byte*>(turned.data());
          Message& to = others[to_rank];
          to.insert(to.end(), bytes, bytes + wide * height * static_cast<int64_t>(sizeof(float)));
        }
        at += wide;
      }
      from += height * width;
    }
  });
  received = comm.all_to_all(others);
  for (size_t r = 0; r < ranks; ++r) {
    const auto* from = reinterpret_cast<const float*>(received[r].data());
    if (r == own) continue;
    const Range theirs = blocks_of(r);
    for (int64_t b = theirs.begin; b < theirs.end; ++b) {
      for (int64_t step = 1; step < strips.count(b); ++step) {
        const int64_t other = strips.other(b, step);
        if (owner(other) != own) continue;
        for (int64_t i = 0; i < strips.height(other); ++i, from += strips.height(b))
          std::copy_n(from, strips.height(b),
                      result.row(strips.begin(other) - shares[own].begin + i) + strips.begin(b));
      }
    }
  }
  return result;
}

// Where A lies along the longer side.
int64_t gram_rows_bytes(Shape shape, int ranks, int threads, bool coarse) {
  const int64_t small = std::min(shape.out_features, shape.in_features);
  const int64_t half = 2 * small * (small + kRowBlock), own = partition(small, ranks, kRowBlock)[0].size();
  const int64_t summing = half + panel_bytes(shape, 1, 4 + (coarse ? 2 : 0)) +
                          4 * kRowBlock * (kMostColumns + kRowBlock) * threads;
  // Each rank's part comes as it goes; then own rows, and those halves of them whose other half is with other
  // ranks, which go and come.
  const int64_t moving = ranks > 1 ? 2 * half : half;
  const int64_t turning = half + 4 * own * (2 * small - own);
  return std::max({summing, moving, turning});
}

}  // namespace lamina::svd
