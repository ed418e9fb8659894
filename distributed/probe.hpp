// What the check looks at of a product's many tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "distributed/communicator.hpp"
#include "kernels/reference.hpp"

namespace lamina {

// What is looked at: some tokens singly, and where there are more, all of them added up with random signs.
struct Probe {
  std::vector<int64_t> tokens;
  std::vector<double> signs;  // of every token; empty when all of them are probed singly
  int64_t rows() const { return static_cast<int64_t>(tokens.size()) + (signs.empty() ? 0 : 1); }
};
// Up to 8 tokens: all of them; beyond: the first, the last and seeded others.
Probe make_probe(int64_t tokens, uint64_t seed);

// Zeros, [probe.rows() × cols].
ProductInput nothing_probed(const Probe& probe, int64_t cols);
// Adds token `token`'s part, `row` [cols], of what is looked at.
void add_token(ProductInput& input, const Probe& probe, int64_t token, int64_t tokens, const double* row);

// How far sums over ranks in bfloat16 may be off for their own rounding, [probe.rows() × features]. Each of P
// ranks rounds its part, p, and P−1 additions round again. A token's sum: P·u·Σ|p|, as of any sum of P
// numbers (verify.hpp), u being half of a last place. Of all tokens with random signs: roundings that are
// independent add up by their squares, so λ·u·√Σ(P·Σp² + (P−1)·y²), sums under way being about as large as y
// or the parts together. `part` [tokens × features] is this rank's own as the kernel gave it: where that is
// wrong, it widens this by P·u of what it is off, and what is not finite by nothing. Collective.
Matrix<double> rounding_of_sums(const std::vector<float>& part, const float* out, int64_t tokens,
                                int64_t features, const Probe& probe, Communicator& comm);

}  // namespace lamina
