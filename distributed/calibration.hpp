// Calibration tokens over ranks: each reads its share of them, and all see them in the same order.
#pragma once

#include <functional>
#include <memory>

#include "distributed/communicator.hpp"
#include "kernels/compress/calibrator.hpp"

namespace lamina {

// Activations that compression may look at: fills `out` with tokens [first, first + out.rows) of a stream,
// the same on every rank, K = out.cols. None that quality is measured on.
using Calibration = std::function<void(int64_t first, Matrix<float>& out)>;

// Cotangents of the layer's outputs for the same tokens: fills `out` [tokens × features.size()] with those of
// `features`, of tokens from `first` on.
using Cotangents = std::function<void(int64_t first, Range features, Matrix<float>& out)>;

// Calls visit(x, rows) on every rank with the tokens [rows × channels], chunk after chunk of kRowBlock, in
// order; chunk c is read by rank c mod P and gathered. `visit` must not throw. Collective; AgreedError where
// a token cannot be read or is not finite.
void for_each_chunk(int64_t tokens, int64_t channels, const Calibration& calibration, Communicator& comm,
                    const std::function<void(const float* x, int64_t rows)>& visit);

// That a Gram of so many tokens is singular, for the record.
std::string few_tokens_warning(int64_t tokens, int64_t channels);

// Of the inputs of a layer with `in_features` channels, over the ranks of `comm`, on `threads` threads each.
// Without `cotangents` there are no slopes.
std::unique_ptr<Calibrator> make_calibrator(int64_t in_features, Calibration calibration, Communicator& comm,
                                            int threads, Cotangents cotangents = {});

}  // namespace lamina
