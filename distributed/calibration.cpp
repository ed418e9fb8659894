#include "distributed/calibration.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "distributed/agree.hpp"
#include "distributed/compress.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/tall.hpp"
#include "distributed/svd/whiten.hpp"

namespace lamina {
namespace {

static_assert(kRowBlock == GramRoot::kBlock);

class IdentityRoot final : public GramRoot {
 public:
  explicit IdentityRoot(int64_t size) : size_(size) {}
  const Matrix<double>& rows(int64_t block) override {
    const int64_t begin = block * kBlock, end = std::min(size_, begin + kBlock);
    rows_ = Matrix<double>(end - begin, end);
    for (int64_t i = 0; i < rows_.rows; ++i) rows_(i, begin + i) = 1;
    return rows_;
  }

 private:
  int64_t size_;
  Matrix<double> rows_;
};

class CholeskyRoot final : public GramRoot {
 public:
  CholeskyRoot(double damping, int64_t size, int64_t tokens, const Calibration& calibration,
               Communicator& comm, int threads)
      : whitening_(Whiten::cholesky, damping, size, tokens, calibration, comm, threads) {}
  const Matrix<double>& rows(int64_t block) override { return whitening_.share(block); }

 private:
  Whitening whitening_;
};

class TokenCalibrator final : public Calibrator {
 public:
  TokenCalibrator(int64_t in_features, Calibration calibration, Cotangents cotangents, Communicator& comm,
                  int threads)
      : size_(in_features),
        calibration_(std::move(calibration)),
        cotangents_(std::move(cotangents)),
        comm_(comm),
        threads_(threads) {}

  ChannelStatistics channels(int64_t tokens) override {
    comm_.require("");
    if (tokens > 0 && tokens == counted_) return statistics_;
    ChannelStatistics statistics;
    together(comm_, [&] {
      if (tokens < 1 || !calibration_)
        throw std::invalid_argument(fmt::format("calibration: expected tokens, found {}", tokens));
      for (auto* each : {&statistics.mean_square, &statistics.mean_magnitude, &statistics.largest})
        each->assign(static_cast<size_t>(size_), 0.0);
    });
    for_each_chunk(tokens, size_, calibration_, comm_, [&](const float* x, int64_t rows) {
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t k = 0; k < size_; ++k) {
          const double each = x[t * size_ + k];
          statistics.mean_square[static_cast<size_t>(k)] += each * each;
          statistics.mean_magnitude[static_cast<size_t>(k)] += std::fabs(each);
          double& largest = statistics.largest[static_cast<size_t>(k)];
          largest = std::max(largest, std::fabs(each));
        }
    });
    for (auto* sums : {&statistics.mean_square, &statistics.mean_magnitude})
      for (double& each : *sums) each /= static_cast<double>(tokens);
    const int64_t silent = std::count(statistics.mean_square.begin(), statistics.mean_square.end(), 0.0);
    if (silent > 0)
      warn(fmt::format("{} of {} input channels are 0 in all calibration tokens", silent, size_));
    statistics_ = statistics;
    counted_ = tokens;
    return statistics;
  }

  std::unique_ptr<GramRoot> root(const std::vector<int64_t>& order, int64_t tokens, double damping) override {
    together(comm_, [&] {
      if (static_cast<int64_t>(order.size()) != size_ || !(damping > 0))
        throw std::invalid_argument(fmt::format(
            "calibration: expected {} channels and damping, found {} and {}", size_, order.size(), damping));
    });
    const std::vector<double> squares = channels(tokens).mean_square;
    if (std::all_of(squares.begin(), squares.end(), [](double each) { return each == 0; })) {
      warn("all calibration tokens are 0: nothing is compensated");
      return std::make_unique<IdentityRoot>(size_);
    }
    if (tokens < size_) warn(few_tokens_warning(tokens, size_));
    const Calibration ordered = [&](int64_t first, Matrix<float>& out) {
      Matrix<float> x(out.rows, out.cols);
      calibration_(first, x);
      for (int64_t t = 0; t < out.rows; ++t)
        for (int64_t k = 0; k < out.cols; ++k) out(t, k) = x(t, order[static_cast<size_t>(k)]);
    };
    return std::make_unique<CholeskyRoot>(damping, size_, tokens, ordered, comm_, threads_);
  }

  // Products of fixed shapes and places, tokens in order: the same bits whichever rank has the rows.
  Matrix<double> slopes(Range rows, int64_t tokens) override {
    Matrix<double> slopes, squares, deltas;
    together(comm_, [&] {
      if (tokens < 1 || !calibration_ || !cotangents_)
        throw std::invalid_argument(
            fmt::format("calibration: expected tokens and cotangents, found {} tokens", tokens));
      slopes = Matrix<double>(rows.size(), size_);
      squares = Matrix<double>(std::min(tokens, kRowBlock), size_);
      deltas = Matrix<double>(squares.rows, rows.size());
    });
    channels(tokens);  // warns of what the tokens lack
    std::string failure;
    int64_t first = 0;
    for_each_chunk(tokens, size_, calibration_, comm_, [&](const float* x, int64_t count) {
      failure = read_cotangents(first, count, rows, deltas, failure);
      for (int64_t i = 0; i < count * size_; ++i)
        squares.data[static_cast<size_t>(i)] = static_cast<double>(x[i]) * x[i];
      for_each_block(rows.size(), threads_, [&](int64_t begin, int64_t some, int) {
        multiply(true, false, some, size_, count, deltas.data.data() + begin, deltas.cols,
                 squares.data.data(), size_, slopes.row(begin), size_, true);
      });
      first += count;
    });
    comm_.require(failure);
    for (double& each : slopes.data) each /= static_cast<double>(tokens);
    return slopes;
  }

  std::vector<int64_t> total(std::vector<int64_t> counts) override {
    comm_.require("");
    std::vector<int64_t> sums(counts.size());
    comm_.all_reduce(counts.data(), sums.data(), static_cast<int64_t>(counts.size()), DType::i64,
                     ReduceOp::sum);
    return sums;
  }

  std::vector<double> sum(const Matrix<double>& parts) override {
    comm_.require("");
    std::vector<double> sums, column(static_cast<size_t>(parts.rows));
    for (int64_t j = 0; j < parts.cols; ++j) {
      for (int64_t i = 0; i < parts.rows; ++i) column[static_cast<size_t>(i)] = parts(i, j);
      sums.push_back(ordered_sum(column, comm_));
    }
    return sums;
  }

  std::vector<double> largest(std::vector<double> values) override {
    comm_.require("");
    std::vector<double> result(values.size());
    comm_.all_reduce(values.data(), result.data(), static_cast<int64_t>(values.size()), DType::f64,
                     ReduceOp::max);
    return result;
  }

 private:
  // Squares of cotangents into `deltas`; what went wrong first.
  std::string read_cotangents(int64_t first, int64_t count, Range rows, Matrix<double>& deltas,
                              std::string failure) {
    if (!failure.empty() || rows.size() == 0) return failure;
    try {
      Matrix<float> read(count, rows.size());
      cotangents_(first, rows, read);
      for (size_t i = 0; i < read.data.size(); ++i) {
        if (!std::isfinite(read.data[i]))
          return fmt::format("calibration: expected finite cotangents, found {} in tokens {} to {}",
                             read.data[i], first, first + count - 1);
        deltas.data[i] = static_cast<double>(read.data[i]) * read.data[i];
      }
    } catch (const std::exception& error) {
      failure = error.what();
    }
    return failure;
  }

  void warn(std::string text) {
    if (std::find(warnings_.begin(), warnings_.end(), text) == warnings_.end())
      warnings_.push_back(std::move(text));
  }

  int64_t size_;
  Calibration calibration_;
  Cotangents cotangents_;
  Communicator& comm_;
  int threads_;
  int64_t counted_ = 0;           // tokens that statistics_ are of
  ChannelStatistics statistics_;  // the last asked for; a root asks for its scheme's once more
};

}  // namespace

void for_each_chunk(int64_t tokens, int64_t channels, const Calibration& calibration, Communicator& comm,
                    const std::function<void(const float* x, int64_t rows)>& visit) {
  const int64_t chunks = (tokens + kRowBlock - 1) / kRowBlock, ranks = comm.size();
  const auto rows_of = [&](int64_t chunk) {
    return std::clamp<int64_t>(tokens - chunk * kRowBlock, 0, kRowBlock);
  };
  for (int64_t first = 0; first < chunks; first += ranks) {
    Matrix<float> own, all;
    std::vector<int64_t> bytes;
    int64_t gathered = 0;
    together(comm, [&] {
      const int64_t mine = first + comm.rank();
      own = Matrix<float>(rows_of(mine), channels);
      if (own.rows > 0) calibration(mine * kRowBlock, own);
      for (const float x : own.data)
        if (!std::isfinite(x))
          throw std::runtime_error(
              fmt::format("calibration: expected finite tokens, found {} in tokens {} to {}", x,
                          mine * kRowBlock, mine * kRowBlock + own.rows - 1));
      for (int64_t r = 0; r < ranks; ++r) {
        bytes.push_back(rows_of(first + r) * channels * static_cast<int64_t>(sizeof(float)));
        gathered += rows_of(first + r);
      }
      all = Matrix<float>(gathered, channels);
    });
    comm.all_gather(own.data.data(), all.data.data(), bytes);
    for (int64_t begin = 0; begin < gathered; begin += kRowBlock)
      visit(all.row(begin), std::min(kRowBlock, gathered - begin));
  }
}

std::string few_tokens_warning(int64_t tokens, int64_t channels) {
  return fmt::format(
      "{} calibration tokens for {} input channels: their Gram is singular without its damping", tokens,
      channels);
}

std::unique_ptr<Calibrator> make_calibrator(int64_t in_features, Calibration calibration, Communicator& comm,
                                            int threads, Cotangents cotangents) {
  return std::make_unique<TokenCalibrator>(in_features, std::move(calibration), std::move(cotangents), comm,
                                           std::max(1, threads));
}

}  // namespace lamina
