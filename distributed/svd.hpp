// Factorising a matrix that is spread over ranks by rows. One file per method in svd/.
#pragma once

#include <memory>

#include "distributed/communicator.hpp"
#include "kernels/compress/scheme.hpp"

namespace lamina {

// Randomized range finder with power iterations, CholeskyQR2 and an exact a-posteriori error
// (Halko, Martinsson, Tropp 2011, algorithms 4.3 and 5.1). Every reduction is exact (fixed point), so that
// the factors do not depend on the rank count.
std::unique_ptr<Factorizer> make_randomized_factorizer(Communicator& comm, int threads);

}  // namespace lamina
