// The randomized method's matrices in the ranks' own memory.
#include <algorithm>
#include <cmath>

#include "distributed/agree.hpp"
#include "distributed/svd/basis.hpp"
#include "distributed/svd/digits.hpp"
#include "distributed/svd/products.hpp"
#include "distributed/svd/sketch_eigen.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/sketch.hpp"

namespace lamina::svd {
namespace {

// Of a share to be reached: below, what digits lose would cost columns.
constexpr double kLeastRest = 1e-2;

void append(Matrix<double>& to, Matrix<double> columns) {
  if (to.cols == 0) {
    to = std::move(columns);
    return;
  }
  Matrix<double> both(to.rows, to.cols + columns.cols);
  for (int64_t i = 0; i < to.rows; ++i) {
    std::copy_n(to.row(i), to.cols, both.row(i));
    std::copy_n(columns.row(i), columns.cols, both.row(i) + to.cols);
  }
  to = std::move(both);
}

class HostBasis final : public Basis {
 public:
  HostBasis(const Input& input, const SvdOptions& options, TimedCommunicator& comm)
      : options_(options),
        comm_(comm),
        a_([&] {
          const Phase phase(phases_.communicate_s, comm);
          return Products(input, comm, options.threads);
        }()),
        norm_squared_(input.norm_squared),
        digits_may_do_(input.tiles && (input.rank > 0 || input.rest >= kLeastRest)) {}

  int64_t columns() const override { return q_.cols; }

  bool take_coarse(bool wanted) override { return coarse_ = wanted && a_.can_be_coarse(); }

  void start(int64_t count) override {
    const Phase phase(phases_.multiply_s, comm_);
    const Range rows = a_.own_long();
    const int64_t first = columns();
    Matrix<float> omega;
    together(comm_, [&] { omega = Matrix<float>(rows.size(), count); });
#pragma omp parallel for num_threads(options_.threads)
    for (int64_t i = 0; i < omega.rows; ++i) {
      for (int64_t j = 0; j < count; ++j)
        omega(i, j) = sketch_number(options_.seed, static_cast<uint64_t>(rows.begin + i),
                                    static_cast<uint64_t>(first + j));
    }
    double scale = 1;
    z_ = a_.back(omega, scale, coarse_);
  }

  double iterate(bool careful, double shift) override {
    double scale = 1;
    Matrix<float> y;
    {
      const Phase phase(phases_.multiply_s, comm_);
      y = a_.forward(z_, scale, coarse_);
    }
    if (careful) {
      const Phase phase(phases_.orthogonalize_s, comm_);
      Matrix<double> wide;
      together(comm_, [&] {
        wide = Matrix<double>(y.rows, y.cols);
        std::copy(y.data.begin(), y.data.end(), wide.data.begin());
      });
      lamina::svd::orthonormalize(wide, comm_, options_.threads, 1);
      std::transform(wide.data.begin(), wide.data.end(), y.data.begin(),
                     [](double x) { return static_cast<float>(x); });
    }
    const Phase phase(phases_.multiply_s, comm_);
    Matrix<double> next = a_.back(y, scale, coarse_);
    if (shift > 0) {
      for (size_t i = 0; i < next.data.size(); ++i) next.data[i] -= scale * shift * z_.data[i];
    }
    z_ = std::move(next);
    return scale;
  }

  Orthonormalized orthonormalize(int steps, bool want_least) override {
    const Phase phase(phases_.orthogonalize_s, comm_);
    return orthonormalize_beside(q_, z_, comm_, options_.threads, steps, want_least);
  }

  double project() override {
    const Phase phase(phases_.multiply_s, comm_);
    a_.let_go();
    Matrix<double> products;
    double captured = 0;
    if (digits_may_do_) {
      double lost = 0;
      products = a_.digit_forward(z_, lost);
      captured = squares(products, comm_);
      const double left = std::max(0.0, 1 - (captured_ + captured) / norm_squared_);
      digits_may_do_ = is_sharp((lost_ + lost) / std::sqrt(norm_squared_), left);
      if (digits_may_do_) lost_ += lost;
    }
    if (!digits_may_do_) {
      products = a_.exact_forward(z_);
      captured = squares(products, comm_);
    }
    captured_ += captured;
    together(comm_, [&] {
      append(q_, std::move(z_));
      append(b_, std::move(products));
    });
    return captured;
  }

  Eigenpairs decompose(const ChooseRank& choose) override {
    SymmetricTiles tiles;
    {
      const Phase phase(phases_.orthogonalize_s, comm_);
      tiles = gram(b_, comm_, options_.threads);
    }
    const Phase phase(phases_.eigensolve_s, comm_);
    return sketch_eigen(std::move(tiles), choose, comm_);
  }

  double lost() const override {
    return lost_;
  }

  Matrix<float> along_short(const Matrix<double>& w, int64_t r) override {
    return factor_of(q_, w, r, false);
  }
  Matrix<float> along_long(const Matrix<double>& w, int64_t r, bool orthonormal) override {
    return factor_of(b_, w, r, orthonormal);
  }

 private:
  // T·W in float32, with zero columns up to r, its other columns made orthonormal before on request. Takes T.
  Matrix<float> factor_of(Matrix<double>& tall, const Matrix<double>& w, int64_t r, bool orthonormal) {
    Matrix<float> factor;
    std::vector<Matrix<double>> scratch(static_cast<size_t>(options_.threads));
    together(comm_, [&] {
      factor = Matrix<float>(tall.rows, r);
      for (auto& each : scratch) each = Matrix<double>(kRowBlock, w.cols);
    });
    const auto round = [&](const double* from, int64_t begin, int64_t rows) {
      for (int64_t i = 0; i < rows; ++i) {
        std::transform(from + i * w.cols, from + (i + 1) * w.cols, factor.row(begin + i),
                       [](double x) { return static_cast<float>(x); });
      }
    };
    if (orthonormal) {
      const Phase phase(phases_.orthogonalize_s, comm_);
      together(comm_, [&] { tall = times_small(tall, w, options_.threads); });
      lamina::svd::orthonormalize(tall, comm_, options_.threads);
      round(tall.data.data(), 0, tall.rows);
    } else {
      const Phase phase(phases_.multiply_s, comm_);
      for_each_block(tall.rows, options_.threads, [&](int64_t begin, int64_t rows, int thread) {
        double* product = scratch[static_cast<size_t>(thread)].data.data();
        multiply(false, false, rows, w.cols, w.rows, tall.row(begin), tall.cols, w.data.data(), w.cols,
                 product, w.cols);
        round(product, begin, rows);
      });
    }
    tall = {};
    return factor;
  }

  const SvdOptions& options_;
  TimedCommunicator& comm_;
  Products a_;
  bool coarse_ = false;
  double norm_squared_;
  bool digits_may_do_;
  double captured_ = 0, lost_ = 0;  // ‖L·Q‖², and what its root may be off by
  Matrix<double> z_;                // [own short × …]
  Matrix<double> q_;                // [own short × l]
  Matrix<double> b_;                // [own long × l]: L·Q
};

}  // namespace

std::unique_ptr<Basis> make_host_basis(const Input& input, const SvdOptions& options,
                                       TimedCommunicator& comm) {
  return std::make_unique<HostBasis>(input, options, comm);
}

}  // namespace lamina::svd
