// Factorising a matrix that is spread over ranks by rows. One file per method in svd/.
#pragma once

#include <memory>

#include "distributed/communicator.hpp"
#include "kernels/compress/scheme.hpp"

namespace lamina {

// Randomized range finder with two orthonormalised power iterations and oversampling by 16 (Halko,
// Martinsson, Tropp 2011, algorithms 4.4 and 5.1), CholeskyQR2, and the error recomputed element by element.
// A rank near the smaller side (three quarters of it, or a side up to 256) goes by that side's whole Gram
// matrix in float64 instead. For an error, the sketch doubles until it holds the least rank that meets it.
// Every reduction is exact (exact_sum.hpp) and every product of fixed shape, so that the factors do not
// depend on the rank or thread count. Throws AgreedError on all ranks for weights that are not finite, a rule
// that asks for none or several of rank, ratio and error, or a rank out of range.
std::unique_ptr<Factorizer> make_randomized_factorizer(Communicator& comm, int threads);

}  // namespace lamina
