// Factorising a matrix that is spread over ranks, where it lies: no rank ever holds it whole. One file per
// method in svd/ (and scalapack/); factorize() checks the input, chooses the rank and bounds the error.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "distributed/communicator.hpp"
#include "distributed/compress.hpp"
#include "distributed/transport.hpp"
#include "kernels/compress/scheme.hpp"

namespace lamina {

// How a matrix lies over the ranks of a communicator. Rows and columns are cut in whole blocks of kRowBlock:
// partition(size, ranks, kRowBlock). Block-cyclic: ranks stand row by row on a grid of grid_rows × grid_cols,
// and square blocks of `block` are dealt out to it in turn (ScaLAPACK's layout, first block on the first
// rank).
enum class Layout { rows, columns, block_cyclic };
struct Distribution {
  Layout layout = Layout::rows;
  int grid_rows = 1, grid_cols = 1;
  int64_t block = 64;
};

// This rank's part of A [shape.out_features × shape.in_features], row-major in `local`. By rows: its rows
// whole. By columns: all rows of its columns. Block-cyclic: its blocks, packed together in order.
struct SpreadMatrix {
  Shape shape;
  Distribution distribution;
  Matrix<float> local;
};

// Rows and columns of the part that `rank` of `ranks` holds.
Shape local_shape(Shape shape, const Distribution& distribution, int ranks, int rank);

// The same matrix in another layout. Rows ↔ columns by all_to_all; to and from block-cyclic by ScaLAPACK's
// psgemr2d. Collective; AgreedError where ScaLAPACK is needed and was not built, or the grid does not fit the
// ranks.
SpreadMatrix redistribute(const SpreadMatrix& a, const Distribution& to, Communicator& comm, int threads);

struct SvdOptions {
  std::string method = "gram";       // a name of svd_methods()
  std::string eigensolver = "auto";  // gram: auto, lapack, scalapack, elpa
  int64_t oversampling = 16;         // randomized: columns of the sketch beyond the rank
  int power_iterations = 2;          // randomized
  int grid_rows = 0, grid_cols = 0;  // scalapack: 0 chooses the squarest grid of all ranks
  int64_t block = 64;                // scalapack: side of its blocks
  uint64_t seed = 1;                 // of test matrices
  int threads = 1;
  // Factors bitwise the same for any number of ranks and threads: no distributed eigensolver (auto takes
  // lapack), no method whose sums depend on the ranks. On GPUs of one model they always are.
  bool same_for_any_ranks = false;
  // "cuda": on the ranks' GPUs, one each, whose memory `transport` moves; it may be null on one rank.
  std::string device = "cpu";
  Transport* transport = nullptr;
};

// Wall-clock seconds of this rank, which sum to about the whole. Waiting for other ranks counts as
// communication.
struct SvdPhases {
  double multiply_s = 0, communicate_s = 0, eigensolve_s = 0, orthogonalize_s = 0;
};

// A ≈ U·diag(σ)·Vᵀ. Columns of U and V are orthonormal to float32's precision; where A has no more directions
// than rounding leaves, σ is 0 and so are both columns.
struct SvdResult {
  Matrix<float> u;                      // [this rank's rows × r], by rows
  Matrix<float> v;                      // [this rank's columns × r], by columns of A
  std::vector<double> singular_values;  // r, largest first, the same on every rank
  double norm = 0;                      // ‖A‖ (Frobenius)
  // Relative Frobenius errors, the same on every rank. `error_bound` holds for the float32 factors as they
  // are returned: what the method proves (√(‖A‖² − Σσ²)/‖A‖ for orthonormal projections) and rounding.
  double error_bound = 0;
  double optimal_error = 0;  // least error of any factors of this rank; NaN where the method does not know it
  SvdPhases phases;
  // The method that made it: randomized leaves to gram what a sketch would be nearly the whole of.
  std::string computed_by;
  // Of gram: who found the eigenvectors, "filters" or an eigensolver; "cusolver" on a GPU.
  std::string solved_by;
};

struct SvdMethod {
  std::string name, help;
  std::string absent;     // why it cannot run in this build; empty when it can
  bool one_rank = false;  // a peer that knows no ranks
  // The host's bytes beyond this rank's part of A at the most, results included; of gram by filters, where
  // these do not give up.
  int64_t (*memory_bytes)(Shape shape, Layout layout, int64_t rank, int ranks,
                          const SvdOptions& options) = nullptr;
  // Of a rank's GPU, at the most; null where the method does not run on one.
  int64_t (*gpu_bytes)(Shape shape, int64_t rank, int ranks, const SvdOptions& options) = nullptr;
};
// Why no method runs on this process's GPU, and what brings one; empty: some do.
std::string gpu_svd_absent();
// gram, randomized, scalapack, scalapack-f64, lapack.
const std::vector<SvdMethod>& svd_methods();
const SvdMethod* find_svd_method(std::string_view name);

// Collective. Any layout; the same result for each. Throws AgreedError, the same on every rank, for a matrix
// that is not finite, a rule that asks for none or several of its fields, a rank out of [1, min(m, n)], a
// method that is absent, takes one rank only or does not run on the device, or sizes past its library's
// 32-bit counts. A zero matrix gives zero factors and error 0.
SvdResult factorize(const SpreadMatrix& a, const RankRule& rule, const SvdOptions& options,
                    Communicator& comm);

namespace svd {
// Whether gram looks for a few eigenvectors alone, and so does not know the least error.
bool gram_by_filters(int64_t rank, Shape shape, const SvdOptions& options);
// Who finds the eigenvectors of a Gram matrix of `side` on so many ranks otherwise: lapack, scalapack or
// elpa.
std::string gram_eigensolver(const SvdOptions& options, int64_t side, int ranks);
}  // namespace svd

// What a reader of factors should know: that another method made them than the one asked for, or that their
// rank is whole because float32 factors cannot be shown to meet the rule. `bound` is what is promised of
// them.
std::vector<std::string> svd_warnings(const SvdResult& result, const std::string& method,
                                      const RankRule& rule, double bound);

// Bytes that recomputing the error of factors takes on a rank, beside them.
int64_t residual_bytes(int64_t rank, int threads);

// ‖A − U·diag(σ)·Vᵀ‖/‖A‖ in float64, element by element, whatever the method promised. Collective.
double residual(const SpreadMatrix& a, const SvdResult& factors, Communicator& comm, int threads);

// Bytes that whitening adds on a rank to what the method takes: the matrix whitened, and its share of L.
int64_t whitening_bytes(Shape shape, int64_t rank, int ranks, Whiten whiten, int threads);

// For schemes, which name the method and the seed: U and V with √σ in each (whitened, of columns as long in
// the one as in the other), V whole on every rank, the error of the weights recomputed in float64. Always
// same_for_any_ranks. `calibration` is needed where a request is whitened, `gpus` where ranks factorise one
// on their GPUs.
std::unique_ptr<Factorizer> make_factorizer(Communicator& comm, SvdOptions options,
                                            Calibration calibration = {}, GpuTransport gpus = {});

}  // namespace lamina
