#include "distributed/svd/gpu_slab.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "distributed/agree.hpp"
#include "distributed/exact_sum.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/panels.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cuda/factor_ops.hpp"

namespace lamina::svd {
namespace {

// Tiles of products and of the sums that they are added to: with these sides both stay in the L2 cache.
constexpr int64_t kTile = 2048;
constexpr int64_t kTileElements = int64_t{1} << 22;  // of a tall one
constexpr int64_t kPanelRows = 4 * GpuSlab::kChunk;  // that are float64 at a time for a Gram matrix

int64_t padded(int64_t rows) {
  return (rows + GpuSlab::kChunk - 1) / GpuSlab::kChunk * GpuSlab::kChunk;
}

Layout layout_along(bool long_is_rows) {
  return long_is_rows ? Layout::rows : Layout::columns;
}

}  // namespace

GpuSlab::GpuSlab(const Input& input, const SvdOptions& options, TimedCommunicator& comm)
    : shape_(input.shape),
      long_is_rows_(shape_.out_features >= shape_.in_features),
      small_(input.small_side()),
      longer_(std::max(shape_.out_features, shape_.in_features)),
      own_long_(partition(longer_, comm.size(), kRowBlock)[static_cast<size_t>(comm.rank())]),
      own_short_(partition(small_, comm.size(), kRowBlock)[static_cast<size_t>(comm.rank())]),
      rows_(padded(own_long_.size())),
      max_abs_(input.max_abs),
      comm_(comm),
      transport_(options.transport) {
  together(comm_, [&] {
    device_ = find_device("cuda");
    if (device_ == nullptr) throw DeviceError("cuda: no usable GPU; `lamina list` says why");
    stream_ = device_->stream(options.threads);
    slab_ = device_->allocate(4 * rows_ * small_);
    device_->clear(slab_.data(), slab_.bytes(), stream_);
  });
  const bool cyclic = input.distribution.layout == Layout::block_cyclic;
  const Layout layout = cyclic ? layout_along(long_is_rows_) : input.distribution.layout;
  const InLayout in(input, layout, comm_, options.threads);
  move_in(in.local(), {.layout = layout});
}

template <class Call>
void GpuSlab::communicate(int64_t bytes, Call&& call) {
  if (comm_.size() == 1) return;
  device_->synchronize();
  const auto begin = std::chrono::steady_clock::now();
  call();
  device_->synchronize();
  transport_->poll();
  comm_.add(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), bytes);
}

void GpuSlab::add_up(Buffer& numbers) {
  communicate(numbers.bytes(), [&] {
    transport_->all_reduce(numbers.data(), numbers.data(), numbers.bytes() / 8, DType::f64, ReduceOp::sum,
                           stream_);
  });
}

void GpuSlab::move_in(const Matrix<float>& part, const Distribution& distribution) {
  Buffer held;
  together(comm_, [&] {
    held = device_->allocate(static_cast<int64_t>(4 * part.data.size()));
    device_->upload(held.data(), part.data.data(), held.bytes());
  });
  if (comm_.size() == 1 || distribution.layout == layout_along(long_is_rows_)) {
    together(comm_, [&] {
      if (long_is_rows_)
        gpu::copy_rows(held.data(), 4 * small_, own_long_.size(), 4 * small_, slab_.data(), 4 * small_);
      else
        gpu::transpose(held.as<float>(), own_long_.size(), small_, own_long_.size(), slab_.as<float>(),
                       small_);
      device_->synchronize();
    });
    return;
  }
  // Every rank has some of the smaller side: to each go its places of the longer one, in blocks of one size.
  const std::vector<Range> longs = partition(longer_, comm_.size(), kRowBlock);
  const std::vector<Range> shorts = partition(small_, comm_.size(), kRowBlock);
  const int64_t height = (long_is_rows_ ? longs : shorts)[0].size();
  const int64_t width = (long_is_rows_ ? shorts : longs)[0].size(), block = height * width;
  Buffer send, received;
  together(comm_, [&] {
    send = device_->allocate(4 * block * comm_.size());
    received = device_->allocate(4 * block * comm_.size());
    for (size_t r = 0; r < longs.size(); ++r) {
      const Range to = longs[r];
      const float* from = held.as<float>() + (long_is_rows_ ? to.begin * part.cols : to.begin);
      gpu::copy_rows(from, 4 * part.cols, long_is_rows_ ? to.size() : part.rows,
                     4 * (long_is_rows_ ? part.cols : to.size()),
                     send.as<float>() + static_cast<int64_t>(r) * block, 4 * width);
    }
  });
  communicate(4 * block * comm_.size(),
              [&] { transport_->all_to_all(send.data(), received.data(), 4 * block, stream_); });
  together(comm_, [&] {
    for (size_t r = 0; r < shorts.size(); ++r) {
      const float* from = received.as<float>() + static_cast<int64_t>(r) * block;
      float* to = slab_.as<float>() + shorts[r].begin;
      if (long_is_rows_)
        gpu::copy_rows(from, 4 * width, own_long_.size(), 4 * shorts[r].size(), to, 4 * small_);
      else
        gpu::transpose(from, width, shorts[r].size(), own_long_.size(), to, small_);
    }
    device_->synchronize();
  });
}

template <class T>
std::vector<double> GpuSlab::norms(const T* tall, int64_t cols) {
  std::vector<double> most(static_cast<size_t>(cols)), sums(most), shifts(most);
  together(comm_, [&] {
    Buffer held = gpu::uploaded(most);
    gpu::largest_of_columns(tall, own_long_.size(), cols, held.as<double>());
    device_->download(most.data(), held.data(), held.bytes());
  });
  comm_.all_reduce(most.data(), most.data(), cols, DType::f64, ReduceOp::max);
  for (size_t j = 0; j < most.size(); ++j) {
    if (!std::isfinite(most[j]))
      throw AgreedError("svd: products of these weights overflow; scale them down");
    shifts[j] = exact_shift(1.01 * static_cast<double>(longer_) * most[j] * most[j]);
  }
  together(comm_, [&] {
    Buffer held = gpu::uploaded(sums);
    const Buffer grids = gpu::uploaded(shifts);
    gpu::squares_of_columns(tall, own_long_.size(), cols, grids.as<double>(), held.as<double>());
    device_->download(sums.data(), held.data(), held.bytes());
  });
  comm_.all_reduce(sums.data(), sums.data(), cols, DType::f64, ReduceOp::sum);
  for (size_t j = 0; j < most.size(); ++j) most[j] = norm_power(sums[j], most[j], longer_, shifts[j]);
  return most;
}

template <class T>
Buffer GpuSlab::gram_of(const T* tall, int64_t cols) {
  // Columns of norm at most 1 let one grid serve the whole matrix: |Σ| ≤ ‖a_i‖·‖a_j‖, in blocks too.
  const std::vector<double> powers = norms(tall, cols);
  Buffer sums;
  together(comm_, [&] {
    std::vector<double> inverse(powers);
    for (double& each : inverse) each = each > 0 ? 1 / each : 0;
    const Buffer scale = gpu::uploaded(inverse);
    const int64_t tile = std::min(kTile, cols);
    Buffer panel = device_->allocate(8 * std::min(kPanelRows, rows_) * cols);
    Buffer product = device_->allocate(8 * tile * tile);
    sums = device_->allocate(8 * cols * cols);
    device_->clear(sums.data(), sums.bytes(), stream_);
    const double shift = exact_shift(1.01);
    for (int64_t first = 0; first < rows_; first += kPanelRows) {
      const int64_t depth = std::min(kPanelRows, rows_ - first);
      gpu::widen(tall + first * cols, depth, cols, scale.as<double>(), panel.as<double>());
      for (int64_t i = 0; i < cols; i += tile) {
        for (int64_t j = i; j < cols; j += tile) {
          const int64_t height = std::min(tile, cols - i), width = std::min(tile, cols - j);
          for (int64_t k = 0; k < std::min(depth, own_long_.size() - first); k += kRowBlock) {
            const double* block = panel.as<double>() + k * cols;
            gpu::multiply(true, false, height, width, kRowBlock, 1, block + i, cols, block + j, cols, 0,
                          product.as<double>(), width);
            gpu::add_on_grid(product.as<double>(), width, height, width, shift,
                             sums.as<double>() + i * cols + j, cols);
          }
        }
      }
    }
    device_->synchronize();
  });
  add_up(sums);
  together(comm_, [&] {
    gpu::scale_columns(sums.as<double>(), cols, cols, powers);
    gpu::scale_rows(sums.as<double>(), cols, cols, powers);
  });
  return sums;
}

Buffer GpuSlab::gram() {
  return gram_of(slab_.as<float>(), small_);
}

Buffer GpuSlab::gram(const double* tall, int64_t cols) {
  return gram_of(tall, cols);
}

GpuSlab::Eigen GpuSlab::eigen(Buffer matrix, int64_t size, const ChooseRank& choose) {
  Eigen found;
  found.values.resize(static_cast<size_t>(size));
  // On one rank for all: GPUs may differ in the last bits.
  const bool solves = comm_.rank() == 0;
  together(comm_, [&] {
    if (!solves) return;
    found.values = gpu::eigen(matrix.as<double>(), size);
    std::reverse(found.values.begin(), found.values.end());
    found.count = std::clamp<int64_t>(choose(found.values), 0, size);
  });
  comm_.broadcast(&found.count, sizeof found.count, 0);
  comm_.broadcast(found.values.data(), 8 * size, 0);
  together(comm_, [&] {
    found.vectors = device_->allocate(8 * found.count * size);
    if (solves)
      gpu::reverse_rows(matrix.as<double>() + (size - found.count) * size, found.count, size,
                        found.vectors.as<double>());
    device_->synchronize();
  });
  if (found.count > 0)
    communicate(found.vectors.bytes(), [&] {
      transport_->broadcast(found.vectors.data(), found.vectors.data(), found.vectors.bytes(), 0, stream_);
    });
  return found;
}

Buffer GpuSlab::exact_forward(const double* q, bool transposed, int64_t cols) {
  Buffer y = device_->allocate(8 * rows_ * cols);
  Buffer wide = device_->allocate(8 * std::min(kChunk, rows_) * small_);
  for (int64_t first = 0; first < rows_; first += kChunk) {
    gpu::widen(slab_.as<float>() + first * small_, kChunk, small_, nullptr, wide.as<double>());
    gpu::multiply(false, transposed, kChunk, cols, small_, 1, wide.as<double>(), small_, q,
                  transposed ? small_ : cols, 0, y.as<double>() + first * cols, cols);
  }
  device_->synchronize();
  return y;
}

Buffer GpuSlab::forward(const double* q, int64_t cols, double& scale) {
  // Half of A's exponent off: as far from float32's limits as A is, both this and what comes of it.
  const double half = std::exp2(-std::ilogb(max_abs_) / 2);
  scale *= half;
  Buffer y = device_->allocate(4 * rows_ * cols), narrow = device_->allocate(4 * small_ * cols);
  gpu::narrow(q, small_ * cols, half, narrow.as<float>());
  for (int64_t first = 0; first < rows_; first += kChunk)
    gpu::multiply(false, false, kChunk, cols, small_, slab_.as<float>() + first * small_, small_,
                  narrow.as<float>(), cols, y.as<float>() + first * cols, cols);
  device_->synchronize();
  return y;
}

Buffer GpuSlab::back(float* y, int64_t cols, double& scale) {
  std::vector<double> most(static_cast<size_t>(cols));
  together(comm_, [&] {
    Buffer held = gpu::uploaded(most);
    gpu::largest_of_columns(y, own_long_.size(), cols, held.as<double>());
    device_->download(most.data(), held.data(), held.bytes());
  });
  const double largest = comm_.max(*std::max_element(most.begin(), most.end()));
  if (!std::isfinite(largest)) throw AgreedError("svd: products of these weights overflow; scale them down");
  Buffer sums;
  together(comm_, [&] {
    if (largest > 0) {
      const double power = std::exp2(-std::ilogb(largest) - std::ilogb(max_abs_) / 2);
      gpu::narrow(y, rows_ * cols, power, y);
      scale *= power;
    }
    const double bound = largest > 0 ? std::exp2(1 - std::ilogb(max_abs_) / 2) : 0;
    const double shift = exact_shift(1.01 * static_cast<double>(longer_) * max_abs_ * bound);
    const int64_t tile = std::min(small_, std::max(kRowBlock, kTileElements / cols / kRowBlock * kRowBlock));
    Buffer product = device_->allocate(4 * tile * cols);
    sums = device_->allocate(8 * small_ * cols);
    device_->clear(sums.data(), sums.bytes(), stream_);
    for (int64_t i = 0; i < small_; i += tile) {
      const int64_t height = std::min(tile, small_ - i);
      for (int64_t k = 0; k < own_long_.size(); k += kRowBlock) {
        gpu::multiply(true, false, height, cols, kRowBlock, slab_.as<float>() + k * small_ + i, small_,
                      y + k * cols, cols, product.as<float>(), cols);
        gpu::add_on_grid(product.as<float>(), cols, height, cols, shift, sums.as<double>() + i * cols, cols);
      }
    }
    device_->synchronize();
  });
  add_up(sums);
  return sums;
}

double GpuSlab::squares(const double* tall, int64_t cols) {
  std::vector<double> blocks;
  together(comm_, [&] { blocks = gpu::squares_of_blocks(tall, own_long_.size(), cols, kRowBlock); });
  return ordered_sum(blocks, comm_);
}

int64_t gpu_slab_bytes(Shape shape, int ranks) {
  const int64_t small = std::min(shape.out_features, shape.in_features);
  const int64_t longer = std::max(shape.out_features, shape.in_features);
  const int64_t share = partition(longer, ranks, kRowBlock)[0].size();
  // The part as it came, and where it lies across, what is sent and received.
  return 4 * small * (padded(share) + (ranks > 1 ? 3 : 1) * (share + kRowBlock));
}

int64_t gpu_gram_bytes(int64_t cols) {
  const int64_t tile = std::min(kTile, cols);
  const auto solving = static_cast<int64_t>(gpu::kEigenMatrices * 8 * static_cast<double>(cols * cols));
  return std::max(solving, 8 * (cols * cols + kPanelRows * cols + tile * tile));
}

}  // namespace lamina::svd
