// Activation-aware factorisation: what a low rank loses is counted in the layer's outputs on calibration
// tokens, not in its weights. With XᵀX = L·Lᵀ, ‖(W − Ŵ)·Xᵀ‖ = ‖(W − Ŵ)·L‖, so the truncated SVD of W·L, with
// L taken back from its right factor, loses least of the outputs (SVD-LLM: Wang, Zheng, Wan, Zhang 2024). The
// diagonal variant scales each input channel by its root mean square (ASVD: Yuan et al. 2023).
#pragma once

#include <string>
#include <vector>

#include "distributed/communicator.hpp"
#include "distributed/compress.hpp"
#include "kernels/compress/scheme.hpp"
#include "kernels/matrix.hpp"

namespace lamina {

// Adds Xᵀ·X of `count` tokens, rows of x [… × K], to the block rows of its lower triangle that belong to this
// rank, block mod ranks: rows[block] is [its kRowBlock rows × columns up to their end]. The Gram's cost,
// K²·count operations in all.
void add_gram(const Matrix<double>& x, int64_t count, int rank, int ranks, int threads,
              std::vector<Matrix<double>>& rows);

// A square root L of the damped mean Gram of calibration tokens, XᵀX/tokens + damping·mean(diagonal)·I,
// lower triangular [K × K] in float64, spread over ranks by rows: blocks of kRowBlock dealt out in turn, so
// that every rank has as much of the triangle. Every product has a fixed shape and place and every sum a
// fixed order: L, and what is made with it, is bitwise the same for any number of ranks and threads.
class Whitening {
 public:
  // Each rank reads its share of the tokens and all gather them, tokens·K floats in place of an all-reduce of
  // K² doubles; each sums its own rows of the Gram. Collective; `threads` a rank. AgreedError where a token
  // cannot be read or is not finite, or the Gram is not positive definite (too little damping). Where all
  // tokens are 0, L is the identity, and warnings() says so.
  Whitening(Whiten kind, double damping, int64_t in_features, int64_t tokens, const Calibration& calibration,
            Communicator& comm, int threads);

  // W·L, for this rank's rows of W [rows × K], in float32. Collective.
  Matrix<float> apply(const Matrix<float>& slab);
  // L⁻ᵀ·V for V [K × r] of which `v` holds this rank's rows, partition(K, ranks, kRowBlock). Collective.
  void undo(Matrix<float>& v);
  // Of Whiten::cholesky: block row `block` of L on every rank, its columns up to the diagonal's end, until
  // the next call. Collective.
  const Matrix<double>& share(int64_t block);
  // What the tokens lack.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  void add_tokens(int64_t tokens, const Calibration& calibration);
  void factorize(double damping);

  int64_t size_;
  Whiten kind_;
  Communicator& comm_;
  int threads_;
  std::vector<double> diagonal_;      // Whiten::diagonal: L's
  std::vector<Matrix<double>> rows_;  // [block]: [its rows × columns up to their end], on its owner
  Matrix<double> shared_;
  std::vector<std::string> warnings_;
};

}  // namespace lamina
