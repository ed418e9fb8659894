#include "distributed/svd/panels.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "distributed/agree.hpp"
#include "distributed/exact_sum.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/orthonormal.hpp"
#include "distributed/svd/tall.hpp"
#include "distributed/svd/transpose.hpp"
#include "kernels/cpu/blas_threads.hpp"
#include "kernels/wide.hpp"

extern "C" {
void dsyrk_(const char*, const char*, const int*, const int*, const double*, const double*, const int*,
            const double*, double*, const int*);
}

namespace lamina::svd {
namespace {

constexpr int64_t kPanelBytes = int64_t{8} << 20;     // about, of a float64 panel
constexpr int64_t kSummedNumbers = int64_t{1} << 19;  // of the Gram matrix by one all-reduce, 4 MB

int64_t panel_depth(int64_t small, int64_t longest_share) {
  const int64_t blocks = std::clamp<int64_t>(kPanelBytes / (8 * small * kRowBlock), 4, 64);
  return std::min(blocks * kRowBlock, (longest_share + kRowBlock - 1) / kRowBlock * kRowBlock);
}

LAMINA_WIDE void times(float* to, const double* factors, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(to[i] * factors[i]);
}

// to(k, at + i) = from[i·stride + k]·scale[at + i], for i < small, k < depth: a line of each at a time.
constexpr int64_t kDeep = 16;
void widen_transposed(const float* from, int64_t stride, int64_t small, int64_t depth, int64_t at,
                      const std::vector<double>& scale, Matrix<float>& to, int threads) {
#pragma omp parallel for num_threads(threads)
  for (int64_t k0 = 0; k0 < depth; k0 += kDeep) {
    const int64_t k1 = std::min(depth, k0 + kDeep);
    transpose(from + k0, stride, small, k1 - k0, to.row(k0) + at, to.cols);
    if (scale.empty()) continue;
    for (int64_t k = k0; k < k1; ++k) times(to.row(k) + at, scale.data() + at, small);
  }
}
void widen_transposed(const float* from, int64_t stride, int64_t small, int64_t depth, int64_t at,
                      const std::vector<double>& scale, Matrix<double>& to, int threads) {
  constexpr int64_t kSmall = 8;
#pragma omp parallel for num_threads(threads)
  for (int64_t k0 = 0; k0 < depth; k0 += kDeep) {
    const int64_t k1 = std::min(depth, k0 + kDeep);
    for (int64_t i0 = 0; i0 < small; i0 += kSmall) {
      const int64_t i1 = std::min(small, i0 + kSmall);
      for (int64_t k = k0; k < k1; ++k) {
        double* out = to.row(k) + at;
        if (scale.empty()) {
          for (int64_t i = i0; i < i1; ++i) out[i] = from[i * stride + k];
        } else {
          const double* factor = scale.data() + at;
          for (int64_t i = i0; i < i1; ++i) out[i] = from[i * stride + k] * factor[i];
        }
      }
    }
  }
}

// to(k, at + i) = from[k·stride + i]·scale[at + i].
template <class T>
void widen(const float* from, int64_t stride, int64_t small, int64_t depth, int64_t at,
           const std::vector<double>& scale, Matrix<T>& to, int threads) {
#pragma omp parallel for num_threads(threads)
  for (int64_t k = 0; k < depth; ++k) {
    const float* in = from + k * stride;
    T* out = to.row(k) + at;
    if (scale.empty()) {
      std::copy_n(in, small, out);
    } else {
      const double* factor = scale.data() + at;
      for (int64_t i = 0; i < small; ++i) out[i] = static_cast<T>(in[i] * factor[i]);
    }
  }
}

void syrk(int n, int k, const double* a, int ld, double* c) {
  const double one = 1, zero = 0;
  dsyrk_("L", "N", &n, &k, &one, a, &ld, &zero, c, &n);
}

}  // namespace

Sides::Sides(Shape shape, Layout layout)
    : long_is_rows(shape.out_features > shape.in_features ||
                   (shape.out_features == shape.in_features && layout != Layout::columns)),
      small(std::min(shape.out_features, shape.in_features)),
      longer(std::max(shape.out_features, shape.in_features)) {}

template <class T>
void for_each_panel(const Input& input, const std::vector<double>& scale, TimedCommunicator& comm,
                    int threads, const PanelWork<T>& work) {
  const Sides sides(input);
  const std::vector<Range> shares = partition(sides.longer, comm.size(), kRowBlock);
  const std::vector<Range> smalls = partition(sides.small, comm.size(), kRowBlock);
  const size_t own = static_cast<size_t>(comm.rank());
  const int64_t step = panel_depth(sides.small, shares[0].size());
  const Matrix<float>& a = input.local;
  const bool in_place = comm.size() == 1 || sides.lie_apart(input.distribution.layout);
  Matrix<T> panel;
  together(comm, [&] { panel = Matrix<T>(step, sides.small); });
  Messages send(static_cast<size_t>(comm.size())),
      received;  // outside: new memory would be cleared each time
  for (int64_t first = 0; first < shares[0].size(); first += step) {
    const auto chunk = [&](size_t r) {  // of rank r's share
      return Range{std::min(first, shares[r].size()), std::min(first + step, shares[r].size())};
    };
    const int64_t depth = chunk(own).size();
    if (in_place) {
      if (sides.long_is_rows) {
        widen(a.data.data() + std::min(first, a.rows) * a.cols, a.cols, sides.small, depth, 0, scale, panel,
              threads);
      } else {
        widen_transposed(a.data.data() + std::min(first, a.cols), a.cols, sides.small, depth, 0, scale, panel,
                         threads);
      }
    } else {
      for (size_t to = 0; to < send.size(); ++to) {
        const Range wanted = chunk(to);
        const int64_t begin = shares[to].begin + wanted.begin;
        if (sides.long_is_rows) {  // A by columns: whole pieces of rows
          send[to].resize(static_cast<size_t>(4 * wanted.size() * a.cols));
          if (!send[to].empty()) std::memcpy(send[to].data(), a.row(begin), send[to].size());
        } else {  // A by rows: a stretch of each
          const size_t bytes = static_cast<size_t>(4 * wanted.size());
          send[to].resize(bytes * static_cast<size_t>(a.rows));
          for (int64_t i = 0; i < a.rows && bytes > 0; ++i)
            std::memcpy(send[to].data() + static_cast<size_t>(i) * bytes, a.row(i) + begin, bytes);
        }
      }
      comm.all_to_all(send, received);
      for (size_t r = 0; r < received.size(); ++r) {
        const auto* from = reinterpret_cast<const float*>(received[r].data());
        if (sides.long_is_rows) {
          widen(from, smalls[r].size(), smalls[r].size(), depth, smalls[r].begin, scale, panel, threads);
        } else {
          widen_transposed(from, depth, smalls[r].size(), depth, smalls[r].begin, scale, panel, threads);
        }
      }
    }
    work(first, depth, panel);
  }
}
template void for_each_panel<float>(const Input&, const std::vector<double>&, TimedCommunicator&, int,
                                    const PanelWork<float>&);
template void for_each_panel<double>(const Input&, const std::vector<double>&, TimedCommunicator&, int,
                                     const PanelWork<double>&);

int64_t panel_bytes(const Shape& shape, int ranks, int64_t number_bytes) {
  const int64_t small = std::min(shape.out_features, shape.in_features);
  const int64_t longer = std::max(shape.out_features, shape.in_features);
  const int64_t elements = small * panel_depth(small, partition(longer, ranks, kRowBlock)[0].size());
  // What is sent and what comes is float32.
  return elements * (number_bytes + (ranks > 1 ? 2 * 4 : 0));
}

double norm_power(double squares, double most, int64_t count, double shift) {
  if (!(most > 0)) return 0;
  // The sum may lack half a grid a term, and is at least the largest term.
  const double bound = 1.01 * std::max(squares, most * most) + 0x1p-50 * static_cast<double>(count) * shift;
  return std::exp2(std::ilogb(std::sqrt(bound)) + 1);
}

std::vector<double> small_side_norms(const Input& input, TimedCommunicator& comm) {
  const Sides sides(input);
  const Matrix<float>& a = input.local;
  const bool by_columns = comm.size() > 1 && input.distribution.layout == Layout::columns;
  const std::vector<Range> ranges =
      partition(by_columns ? input.shape.in_features : input.shape.out_features, comm.size(), kRowBlock);
  const Range own = ranges[static_cast<size_t>(comm.rank())];
  // Where this rank's part begins on the smaller side.
  const int64_t at = by_columns != sides.long_is_rows ? 0 : own.begin;
  const auto size = static_cast<size_t>(sides.small);
  std::vector<double> norms(size, 0.0), sums(size, 0.0), shifts(size);
  for (int64_t i = 0; i < a.rows; ++i) {
    const float* row = a.row(i);
    if (sides.long_is_rows) {
      double* most = norms.data() + at;
      for (int64_t j = 0; j < a.cols; ++j) most[j] = std::max(most[j], std::abs(static_cast<double>(row[j])));
    } else {
      float most = 0;
#pragma omp simd reduction(max : most)
      for (int64_t j = 0; j < a.cols; ++j) most = std::max(most, std::abs(row[j]));
      norms[static_cast<size_t>(at + i)] = most;
    }
  }
  comm.all_reduce(norms.data(), norms.data(), sides.small, DType::f64, ReduceOp::max);
  for (size_t i = 0; i < size; ++i)
    shifts[i] = exact_shift(1.01 * static_cast<double>(sides.longer) * norms[i] * norms[i]);
  for (int64_t i = 0; i < a.rows; ++i) {
    const float* row = a.row(i);
    if (sides.long_is_rows) {
      double* to = sums.data() + at;
      const double* shift = shifts.data() + at;
      for (int64_t j = 0; j < a.cols; ++j) to[j] += on_grid(static_cast<double>(row[j]) * row[j], shift[j]);
    } else {
      const double shift = shifts[static_cast<size_t>(at + i)];
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < a.cols; ++j) sum += on_grid(static_cast<double>(row[j]) * row[j], shift);
      sums[static_cast<size_t>(at + i)] = sum;
    }
  }
  comm.all_reduce(sums.data(), sums.data(), sides.small, DType::f64, ReduceOp::sum);
  for (size_t i = 0; i < norms.size(); ++i) norms[i] = norm_power(sums[i], norms[i], sides.longer, shifts[i]);
  return norms;
}

SymmetricTiles gram_tiles(const Input& input, TimedCommunicator& comm, int threads) {
  const Sides sides(input);
  constexpr int64_t kSide = SymmetricTiles::kSide;
  // Columns of norm at most 1 let one grid serve the whole matrix: |Σ| ≤ ‖a_i‖·‖a_j‖, in blocks too.
  std::vector<double> norms = small_side_norms(input, comm), scale(norms);
  for (double& each : scale) each = each > 0 ? 1 / each : 0;
  SymmetricTiles result;
  std::vector<std::vector<double>> scratch(static_cast<size_t>(threads));
  std::vector<std::pair<int64_t, int64_t>> places;
  together(comm, [&] {
    result = SymmetricTiles(sides.small);
    for (std::vector<double>& each : scratch) each.resize(static_cast<size_t>(kSide * kSide));
    for (int64_t row = 0; row < result.tiles(); ++row) {
      for (int64_t col = row; col < result.tiles(); ++col) places.emplace_back(row, col);
    }
  });
  // Blocks of at most kRowBlock terms, whose magnitudes sum to at most Σ|a_ki·a_kj| ≤ 1 over all of them.
  const double shift = exact_shift(1.01);
  const auto add_panel = [&](int64_t, int64_t depth, const Matrix<double>& panel) {
    const BlasThreads single(1);
    const auto count = static_cast<int64_t>(places.size());
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t place = 0; place < count; ++place) {
      const auto [row, col] = places[static_cast<size_t>(place)];
      const int64_t height = result.side(row), width = result.side(col);
      double* to = result.tile(row, col);
      double* product = scratch[static_cast<size_t>(omp_get_thread_num())].data();
      for (int64_t begin = 0; begin < depth; begin += kRowBlock) {
        const int64_t deep = std::min(kRowBlock, depth - begin);
        const double* block = panel.row(begin);
        if (row == col) {
          // Row-major upper is column-major lower; the other half stays what it was.
          syrk(static_cast<int>(width), static_cast<int>(deep), block + col * kSide,
               static_cast<int>(panel.cols), product);
          for (int64_t i = 0; i < height; ++i)
            add_on_grid(to + i * width + i, product + i * width + i, width - i, shift);
          continue;
        }
        multiply(true, false, height, width, deep, block + row * kSide, panel.cols, block + col * kSide,
                 panel.cols, product, width);
        add_on_grid(to, product, height * width, shift);
      }
    }
  };
  for_each_panel<double>(input, scale, comm, threads, add_panel);
  // Some at a time: MPI's own buffers are as long as what it sums, or a good part of it.
  const auto size = static_cast<int64_t>(result.data.size());
  for (int64_t first = 0; first < size; first += kSummedNumbers) {
    double* some = result.data.data() + first;
    comm.all_reduce(some, some, std::min(kSummedNumbers, size - first), DType::f64, ReduceOp::sum);
  }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (size_t place = 0; place < places.size(); ++place) {
    const auto [row, col] = places[place];
    double* to = result.tile(row, col);
    for (int64_t i = 0; i < result.side(row); ++i) {
      for (int64_t j = 0; j < result.side(col); ++j)
        *to++ *= norms[static_cast<size_t>(row * kSide + i)] * norms[static_cast<size_t>(col * kSide + j)];
    }
  }
  return result;
}

}  // namespace lamina::svd
