// The randomized method's matrices in the memory of the ranks' GPUs: those along the longer side spread,
// those along the smaller one whole on each.
#include <algorithm>
#include <limits>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/gpu_methods.hpp"
#include "distributed/svd/gpu_slab.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cuda/factor_ops.hpp"

namespace lamina::svd {
namespace {

// Row-major, in the GPU's memory.
struct Tall {
  Buffer data;
  int64_t rows = 0, cols = 0;
  double* numbers() { return data.as<double>(); }
};

class GpuBasis final : public Basis {
 public:
  GpuBasis(const Input& input, const SvdOptions& options, TimedCommunicator& comm)
      : options_(options), comm_(comm) {
    const Phase phase(phases_.multiply_s, comm_);
    slab_ = std::make_unique<GpuSlab>(input, options, comm);
  }

  int64_t columns() const override { return q_.cols; }

  void start(int64_t count) override {
    const Phase phase(phases_.multiply_s, comm_);
    Buffer omega;
    together(comm_, [&] {
      omega = device().allocate(4 * slab_->rows() * count);
      gpu::fill_sketch(options_.seed, slab_->own_long().begin, slab_->rows(), columns(), count,
                       omega.as<float>());
    });
    double scale = 1;
    z_ = {slab_->back(omega.as<float>(), count, scale), slab_->small(), count};
  }

  double iterate(bool careful, double shift) override {
    double scale = 1;
    const int64_t cols = z_.cols;
    Buffer y;
    {
      const Phase phase(phases_.multiply_s, comm_);
      together(comm_, [&] { y = slab_->forward(z_.numbers(), cols, scale); });
    }
    if (careful) {
      const Phase phase(phases_.orthogonalize_s, comm_);
      orthonormalize_along(y, cols);
    }
    const Phase phase(phases_.multiply_s, comm_);
    Buffer next = slab_->back(y.as<float>(), cols, scale);
    together(comm_, [&] {
      if (shift > 0) gpu::add_scaled(-scale * shift, z_.numbers(), z_.rows * cols, next.as<double>());
      device().synchronize();
    });
    z_.data = std::move(next);
    return scale;
  }

  Orthonormalized orthonormalize(int steps, bool want_least) override {
    const Phase phase(phases_.orthogonalize_s, comm_);
    Orthonormalized outcome;
    const auto gram = [&] {
      Buffer g;
      together(comm_, [&] {
        g = device().allocate(8 * z_.cols * z_.cols);
        gpu::gram(z_.numbers(), z_.rows, z_.cols, g.as<double>());
      });
      return g;
    };
    remove_span();
    bool good = cholesky_steps(z_, gram, q_.cols == 0 ? steps : 1, want_least, &outcome);
    // As orthonormalize_beside(): what rounding left of Q's span has become longer with small rests.
    for (int again = 0; again < 2 && good && q_.cols > 0; ++again) {
      remove_span();
      good = cholesky_steps(z_, gram, again == 0 ? 1 : steps, false, nullptr);
    }
    if (!good) {
      on_host(steps);
      outcome.by_tsqr = true;
    }
    return outcome;
  }

  double project() override {
    const Phase phase(phases_.multiply_s, comm_);
    Tall products{{}, slab_->rows(), z_.cols};
    together(comm_, [&] { products.data = slab_->exact_forward(z_.numbers(), false, z_.cols); });
    const double captured = slab_->squares(products.numbers(), products.cols);
    together(comm_, [&] {
      append(q_, std::move(z_));
      append(b_, std::move(products));
    });
    return captured;
  }

  Eigenpairs decompose(const ChooseRank& choose) override {
    Buffer gram;
    {
      const Phase phase(phases_.orthogonalize_s, comm_);
      gram = slab_->gram(b_.numbers(), b_.cols);
    }
    const Phase phase(phases_.eigensolve_s, comm_);
    GpuSlab::Eigen found = slab_->eigen(std::move(gram), b_.cols, choose);
    Eigenpairs pairs;
    together(comm_, [&] {
      pairs.vectors = Matrix<double>(found.count, b_.cols);
      device().download(pairs.vectors.data.data(), found.vectors.data(), found.vectors.bytes());
    });
    pairs.values = std::move(found.values);
    return pairs;
  }

  Matrix<float> along_short(const Matrix<double>& w, int64_t r) override {
    const Phase phase(phases_.multiply_s, comm_);
    const Tall product = times(q_, w);
    return rounded(product, slab_->own_short(), r);
  }

  Matrix<float> along_long(const Matrix<double>& w, int64_t r, bool orthonormal) override {
    Tall product;
    {
      const Phase phase(phases_.multiply_s, comm_);
      product = times(b_, w);
    }
    const Range own{0, slab_->own_long().size()};
    if (!orthonormal) {
      const Phase phase(phases_.multiply_s, comm_);
      return rounded(product, own, r);
    }
    const Phase phase(phases_.orthogonalize_s, comm_);
    Matrix<double> host = downloaded(product, own);
    product = {};
    lamina::svd::orthonormalize(host, comm_, options_.threads);
    Matrix<float> factor;
    together(comm_, [&] { factor = Matrix<float>(host.rows, r); });
    for (int64_t i = 0; i < host.rows; ++i)
      std::transform(host.row(i), host.row(i) + host.cols, factor.row(i),
                     [](double x) { return static_cast<float>(x); });
    return factor;
  }

 private:
  Device& device() { return slab_->device(); }

  // Z − Q·(QᵀZ).
  void remove_span() {
    if (q_.cols == 0) return;
    together(comm_, [&] {
      Buffer inner = device().allocate(8 * q_.cols * z_.cols);
      gpu::multiply(true, false, q_.cols, z_.cols, q_.rows, 1, q_.numbers(), q_.cols, z_.numbers(), z_.cols,
                    0, inner.as<double>(), z_.cols);
      gpu::multiply(false, false, q_.rows, z_.cols, q_.cols, -1, q_.numbers(), q_.cols, inner.as<double>(),
                    z_.cols, 1, z_.numbers(), z_.cols);
      device().synchronize();
    });
  }

  // CholeskyQR, as lamina::svd::orthonormalize(), but for its last resort: false where it will not do, with
  // T's span what it was. `gram` gives TᵀT, of all ranks' rows where T is spread.
  template <class Gram>
  bool cholesky_steps(Tall& tall, Gram&& gram, int steps, bool want_least, Orthonormalized* outcome) {
    const int64_t l = tall.cols;
    for (int step = 0; step < steps; ++step) {
      Buffer r = gram();
      // Of rank 0 for all: GPUs may differ in the last bits, and what follows may not.
      struct {
        double condition = 0, least = 0;  // 0: a failure
      } head;
      std::vector<double> scale;
      together(comm_, [&] {
        if (step > 0 && !nearly_identity(downloaded_square(r, l))) return;
        scale = alike_lengths(gpu::diagonal(r.as<double>(), l));
        if (scale.empty()) return;
        gpu::scale_columns(r.as<double>(), l, l, scale);
        gpu::scale_rows(r.as<double>(), l, l, scale);
        if (!gpu::cholesky(r.as<double>(), l)) return;
        head.condition = spread_of(gpu::diagonal(r.as<double>(), l));
        if (step == 0 && want_least) head.least = least_singular_value(downloaded_square(r, l), scale);
        if (!(head.condition <= kWorstCondition)) head.condition = 0;
      });
      comm_.broadcast(&head, sizeof head, 0);
      if (step == 0 && outcome != nullptr)
        *outcome = {head.condition > 0 ? head.condition : std::numeric_limits<double>::infinity(), head.least,
                    false};
      if (head.condition == 0) return false;
      together(comm_, [&] {
        if (scale.empty()) throw DeviceError("cuda: Cholesky failed on this GPU and not on rank 0's");
        gpu::scale_columns(tall.numbers(), tall.rows, l, scale);
        gpu::divide_by_triangle(tall.numbers(), tall.rows, l, r.as<double>());
        device().synchronize();
      });
    }
    return true;
  }

  // Where Cholesky will not do, Z's columns are made orthonormal beside Q's on the host.
  void on_host(int steps) {
    Matrix<double> q = downloaded(q_, slab_->own_short()), z = downloaded(z_, slab_->own_short());
    orthonormalize_beside(q, z, comm_, options_.threads, steps);
    Matrix<double> all;
    std::vector<int64_t> bytes;
    for (const Range& share : partition(slab_->small(), comm_.size(), kRowBlock))
      bytes.push_back(8 * share.size() * z.cols);
    together(comm_, [&] { all = Matrix<double>(slab_->small(), z.cols); });
    comm_.all_gather(z.data.data(), all.data.data(), bytes);
    together(comm_, [&] { device().upload(z_.data.data(), all.data.data(), z_.data.bytes()); });
  }

  // Of float32 products along the longer side, in one step.
  void orthonormalize_along(Buffer& y, int64_t cols) {
    Tall wide{{}, slab_->rows(), cols};
    together(comm_, [&] {
      wide.data = device().allocate(8 * wide.rows * cols);
      gpu::widen(y.as<float>(), wide.rows, cols, nullptr, wide.numbers());
    });
    const Range own{0, slab_->own_long().size()};
    if (!cholesky_steps(
            wide, [&] { return slab_->gram(wide.numbers(), cols); }, 1, false, nullptr)) {
      Matrix<double> host = downloaded(wide, own);
      lamina::svd::orthonormalize(host, comm_, options_.threads, 1);
      together(comm_, [&] {
        device().upload(wide.data.data(), host.data.data(), static_cast<int64_t>(8 * host.data.size()));
      });
    }
    together(comm_, [&] { gpu::narrow(wide.numbers(), wide.rows * cols, 1, y.as<float>()); });
    device().synchronize();  // before `wide` goes
  }

  void append(Tall& to, Tall columns) {
    if (to.cols > 0) {
      const int64_t cols = to.cols + columns.cols;
      Tall both{device().allocate(8 * to.rows * cols), to.rows, cols};
      gpu::copy_rows(to.numbers(), 8 * to.cols, to.rows, 8 * to.cols, both.numbers(), 8 * cols);
      gpu::copy_rows(columns.numbers(), 8 * columns.cols, to.rows, 8 * columns.cols, both.numbers() + to.cols,
                     8 * cols);
      device().synchronize();
      to = std::move(both);
    } else {
      to = std::move(columns);
    }
  }

  // T·W, in calls of kChunk rows where T is spread.
  Tall times(Tall& tall, const Matrix<double>& w) {
    Tall product{{}, tall.rows, w.cols};
    together(comm_, [&] {
      const Buffer held = gpu::uploaded(w.data);
      product.data = device().allocate(8 * tall.rows * w.cols);
      const int64_t step = &tall == &b_ ? GpuSlab::kChunk : tall.rows;
      for (int64_t first = 0; first < tall.rows; first += step)
        gpu::multiply(false, false, step, w.cols, w.rows, 1, tall.numbers() + first * tall.cols, tall.cols,
                      held.as<double>(), w.cols, 0, product.numbers() + first * w.cols, w.cols);
      device().synchronize();
    });
    tall = {};
    return product;
  }

  // Some rows in float32, with zero columns up to r.
  Matrix<float> rounded(const Tall& tall, Range rows, int64_t r) {
    Matrix<float> factor;
    together(comm_, [&] {
      factor = Matrix<float>(rows.size(), r);
      Buffer narrow = device().allocate(4 * rows.size() * tall.cols);
      gpu::narrow(tall.data.as<double>() + rows.begin * tall.cols, rows.size() * tall.cols, 1,
                  narrow.as<float>());
      Matrix<float> dense(rows.size(), tall.cols);
      device().download(dense.data.data(), narrow.data(), narrow.bytes());
      for (int64_t i = 0; i < rows.size(); ++i) std::copy_n(dense.row(i), tall.cols, factor.row(i));
    });
    return factor;
  }

  Matrix<double> downloaded(const Tall& tall, Range rows) {
    Matrix<double> host;
    together(comm_, [&] {
      host = Matrix<double>(tall.cols > 0 ? rows.size() : 0, tall.cols);
      device().download(host.data.data(), tall.data.as<double>() + rows.begin * tall.cols,
                        static_cast<int64_t>(8 * host.data.size()));
    });
    return host;
  }

  Matrix<double> downloaded_square(const Buffer& square, int64_t size) {
    Matrix<double> host(size, size);
    device().download(host.data.data(), square.data(), 8 * size * size);
    return host;
  }

  const SvdOptions& options_;
  TimedCommunicator& comm_;
  std::unique_ptr<GpuSlab> slab_;
  Tall z_;  // [smaller side × …]
  Tall q_;  // [smaller side × l]
  Tall b_;  // [rows × l]: L·Q
};

}  // namespace

std::unique_ptr<Basis> make_gpu_basis(const Input& input, const SvdOptions& options,
                                      TimedCommunicator& comm) {
  return std::make_unique<GpuBasis>(input, options, comm);
}

int64_t gpu_basis_bytes(Shape shape, int64_t columns, int64_t rank, int ranks) {
  const int64_t small = std::min(shape.out_features, shape.in_features);
  const int64_t longer = std::max(shape.out_features, shape.in_features);
  const int64_t rows = partition(longer, ranks, kRowBlock)[0].size() + GpuSlab::kChunk;
  const int64_t basis = 8 * small * columns, products = 8 * rows * columns;
  const int64_t iterate = 4 * rows * columns + 2 * basis;
  const int64_t project = basis + products + 8 * GpuSlab::kChunk * small;
  const int64_t finish = basis + products + std::max(gpu_gram_bytes(columns), 12 * rows * rank);
  return gpu_slab_bytes(shape, ranks) + 16 * columns * columns + std::max({iterate, project, finish});
}

}  // namespace lamina::svd
