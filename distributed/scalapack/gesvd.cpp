// The reference: ScaLAPACK's psgesvd and pdgesvd, 2D block-cyclic.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "distributed/agree.hpp"
#include "distributed/scalapack.hpp"
#include "distributed/scalapack/layout.hpp"
#include "kernels/cpu/blas_threads.hpp"

extern "C" {
void psgesvd_(const char* job_u, const char* job_vt, const int* m, const int* n, float* a, const int* ia,
              const int* ja, const int* desc_a, float* s, float* u, const int* iu, const int* ju,
              const int* desc_u, float* vt, const int* ivt, const int* jvt, const int* desc_vt, float* work,
              const int* lwork, int* info);
void pdgesvd_(const char* job_u, const char* job_vt, const int* m, const int* n, double* a, const int* ia,
              const int* ja, const int* desc_a, double* s, double* u, const int* iu, const int* ju,
              const int* desc_u, double* vt, const int* ivt, const int* jvt, const int* desc_vt, double* work,
              const int* lwork, int* info);
}

namespace lamina::svd {

std::string scalapack_absent() {
  return "";
}

SpreadMatrix scalapack_redistribute(Shape shape, const Distribution& from, const Matrix<float>& local,
                                    const Distribution& to, Communicator& comm, int /*threads*/) {
  for (const Distribution& each : {from, to}) {
    if (each.layout == Layout::block_cyclic) expect_grid(each, comm);
  }
  SpreadMatrix result{shape, to, {}};
  together(comm, [&] {
    const Shape part = local_shape(shape, to, comm.size(), comm.rank());
    result.local = Matrix<float>(part.out_features, part.in_features);
  });
  move({shape, from, local.data.data()}, View<float>{shape, to, result.local.data.data()}, shape, comm);
  return result;
}

namespace {

constexpr int64_t kLibraryBytes = int64_t{1} << 19;  // BLAS's packed panels, BLACS's buffers: as measured

constexpr auto gesvd_f32 = psgesvd_;
constexpr auto gesvd_f64 = pdgesvd_;

Distribution grid_for(const SvdOptions& options, int ranks) {
  int rows = options.grid_rows, cols = options.grid_cols;
  if (rows == 0 && cols == 0) {
    rows = static_cast<int>(std::sqrt(static_cast<double>(ranks)));
    while (ranks % rows != 0) --rows;
  }
  if (rows == 0) rows = cols > 0 ? ranks / cols : 0;
  if (cols == 0) cols = rows > 0 ? ranks / rows : 0;
  return {Layout::block_cyclic, rows, cols, options.block};
}

// Numbers of workspace on the first rank, which needs the most. By the documentation, as the routine's own
// answer comes in the matrix's type and is summed up in 32 bits; `wanted` vectors on both sides.
int64_t work_numbers(Shape shape, const Distribution& d) {
  // ScaLAPACK sees the transpose.
  const int64_t m = shape.in_features, n = shape.out_features, small = std::min(m, n), large = std::max(m, n);
  const int64_t block = d.block, ranks = int64_t{d.grid_rows} * d.grid_cols;
  const int64_t mp = cyclic_size(m, block, 0, d.grid_cols), nq = cyclic_size(n, block, 0, d.grid_rows);
  const int64_t size_p = cyclic_size(small, block, 0, d.grid_cols);
  const int64_t size_q = cyclic_size(small, block, 0, d.grid_rows);
  const int64_t rows = (m + ranks - 1) / ranks, cols = (n + ranks - 1) / ranks;  // of 1D cyclic U and Vᵀ
  const int64_t to_bidiagonal = std::max({block * (mp + nq + 1) + nq, mp, nq});
  const int64_t triangle = block * (block - 1) / 2;
  const int64_t back = std::max({triangle, (size_q + mp) * block, (size_p + nq) * block}) + block * block;
  const int64_t to_values = small * (rows + cols) + std::max({int64_t{1}, 4 * small, back});
  return 1 + 6 * large + std::max(to_bidiagonal, to_values);
}

template <class T>
Matrix<T> widened(Matrix<float> from) {
  if constexpr (std::is_same_v<T, float>) return from;
  Matrix<T> to(from.rows, from.cols);
  std::copy(from.data.begin(), from.data.end(), to.data.begin());
  return to;
}

template <class T, auto gesvd>
SvdResult run(const Input& input, const SvdOptions& options, TimedCommunicator& comm) {
  const Shape shape = input.shape;
  const int64_t small = input.small_side();
  const Distribution d = grid_for(options, comm.size());
  expect_grid(d, comm);
  const int m = to_int(shape.in_features, "columns"), n = to_int(shape.out_features, "rows"), one = 1;
  const int64_t work_size = work_numbers(shape, d);
  to_int(work_size, "workspace");
  to_int(cyclic_size(m, d.block, 0, d.grid_cols) * cyclic_size(n, d.block, 0, d.grid_rows),
         "elements of a part");

  SvdResult result;
  SpreadMatrix blocks;
  {
    const Phase phase(result.phases.communicate_s, comm);
    blocks = scalapack_redistribute(shape, input.distribution, input.local, d, comm, options.threads);
  }
  const Grid grid = grid_of(comm, 0, d.grid_cols, d.grid_rows);
  // As it sees them: A's right vectors are its U [m × small], A's left ones its Vᵀ [small × n].
  const Shape right_shape{small, m}, left_shape{n, small};
  const Shape right_part = local_shape(right_shape, d, comm.size(), comm.rank());
  const Shape left_part = local_shape(left_shape, d, comm.size(), comm.rank());
  const Descriptor desc_a = describe(grid, m, n, d.block, d.block, blocks.local.cols);
  const Descriptor desc_u = describe(grid, m, small, d.block, d.block, right_part.in_features);
  const Descriptor desc_vt = describe(grid, small, n, d.block, d.block, left_part.in_features);
  Matrix<T> a, right, left;
  std::vector<T> sigma, work;
  together(comm, [&] {
    a = widened<T>(std::move(blocks.local));
    right = Matrix<T>(right_part.out_features, right_part.in_features);
    left = Matrix<T>(left_part.out_features, left_part.in_features);
    sigma.resize(static_cast<size_t>(small));
  });
  const auto call = [&](int lwork) {
    int info = 0;
    gesvd("V", "V", &m, &n, a.data.data(), &one, &one, desc_a.data(), sigma.data(), right.data.data(), &one,
          &one, desc_u.data(), left.data.data(), &one, &one, desc_vt.data(), work.data(), &lwork, &info);
    return info;
  };
  int info = 0;
  {
    const Phase phase(result.phases.eigensolve_s, comm);
    const BlasThreads blas(options.threads);
    together(comm, [&] { work.resize(4); });
    call(-1);
    // The larger of both, and more where the answer was rounded to its type: counts past 2^24 in float32.
    const double asked = static_cast<double>(work[0]) * (1 + std::numeric_limits<T>::epsilon());
    const double most = comm.max(std::max(static_cast<double>(work_size), std::ceil(asked)));
    const int lwork =
        to_int(most < 0x1p62 ? static_cast<int64_t>(most) : std::numeric_limits<int64_t>::max(), "workspace");
    together(comm, [&] { work.resize(static_cast<size_t>(lwork)); });
    info = call(lwork);
  }
  work = {};
  a = {};
  comm.require(info == 0 ? ""
               : info == small + 1
                   ? "ScaLAPACK's gesvd found other singular values on other ranks: their processors differ"
                   : fmt::format("ScaLAPACK's gesvd failed on a {} × {} matrix (info {})", n, m, info));
  // Every rank found them; the first one's count, where last bits should differ.
  comm.broadcast(sigma.data(), small * static_cast<int64_t>(sizeof(T)), 0);

  std::vector<double> squares;
  for (const T value : sigma) squares.push_back(static_cast<double>(value) * static_cast<double>(value));
  // As LAPACK's, backward stable: an error of p·ε·‖A‖, where p grows slowly with the size.
  const double own = static_cast<double>(std::max(m, n)) * std::numeric_limits<T>::epsilon() / 2;
  const double rounding = std::is_same_v<T, float> ? own : own + kFactorRounding;
  const int64_t rank = choose_rank(
      squares, input, [&](double rho, int64_t) { return std::sqrt(std::max(0.0, rho)) + rounding; });
  double rest = 0;
  for (size_t i = static_cast<size_t>(rank); i < squares.size(); ++i) rest += squares[i];
  result.optimal_error = std::sqrt(rest / input.norm_squared);
  result.error_bound = result.optimal_error + rounding;
  result.singular_values.assign(sigma.begin(), sigma.begin() + rank);

  const Phase phase(result.phases.communicate_s, comm);
  const Distribution by_columns{.layout = Layout::columns};
  Matrix<T> u, vt;
  together(comm, [&] {
    u = Matrix<T>(local_shape({n, rank}, {}, comm.size(), comm.rank()).out_features, rank);
    vt = Matrix<T>(rank, local_shape({rank, m}, by_columns, comm.size(), comm.rank()).in_features);
  });
  move({left_shape, d, left.data.data()}, View<T>{{n, rank}, {}, u.data.data()}, {n, rank}, comm);
  left = {};
  move({right_shape, d, right.data.data()}, View<T>{{rank, m}, by_columns, vt.data.data()}, {rank, m}, comm);
  right = {};
  together(comm, [&] {
    result.u = Matrix<float>(u.rows, rank);
    std::transform(u.data.begin(), u.data.end(), result.u.data.begin(),
                   [](T x) { return static_cast<float>(x); });
    result.v = Matrix<float>(vt.cols, rank);
    for (int64_t j = 0; j < rank; ++j) {
      for (int64_t i = 0; i < vt.cols; ++i) result.v(i, j) = static_cast<float>(vt(j, i));
    }
  });
  return result;
}

template <class T>
int64_t memory_bytes(Shape shape, Layout, int64_t rank, int ranks, const SvdOptions& options) {
  const Distribution d = grid_for(options, ranks);
  if (d.grid_rows < 1 || d.grid_cols < 1 || d.block < 1) return 0;
  const int64_t n = shape.out_features, k = shape.in_features, small = std::min(n, k);
  const auto part = [&](int64_t rows, int64_t cols) {
    return cyclic_size(rows, d.block, 0, d.grid_rows) * cyclic_size(cols, d.block, 0, d.grid_cols);
  };
  const int64_t type = sizeof(T), vectors = part(n, small) + part(small, k);
  const int64_t floats = 4 * part(n, k);
  const int64_t move_in =
      floats + std::max(std::min(kMoveBytes, 2 * floats), type > 4 ? type * part(n, k) : 0);
  // Inside, Vᵀ goes from 1D to 2D by p?gemr2d, with buffers for both ways.
  const int64_t moved = 2 * (n * k / ranks);
  const int64_t solve = kLibraryBytes + type * (part(n, k) + vectors + work_numbers(shape, d) + moved);
  const int64_t slab = kRowBlock;
  const int64_t results = rank * (n / ranks + k / ranks + 2 * slab);
  const int64_t move_out =
      type * (vectors + results) + std::max(std::min(kMoveBytes, type * 2 * vectors), 4 * results);
  return std::max({move_in, solve, move_out});
}

}  // namespace

Method scalapack_method() {
  return {{"scalapack", "ScaLAPACK's psgesvd, float32, 2D block-cyclic", "", false, memory_bytes<float>},
          run<float, gesvd_f32>};
}

Method scalapack_f64_method() {
  return {{"scalapack-f64", "ScaLAPACK's pdgesvd, float64, 2D block-cyclic", "", false, memory_bytes<double>},
          run<double, gesvd_f64>};
}

}  // namespace lamina::svd
