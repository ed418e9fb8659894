// A layer cut over ranks: local layers and the collectives between them.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "distributed/communicator.hpp"
#include "distributed/compress.hpp"
#include "distributed/cut.hpp"
#include "distributed/transport.hpp"
#include "kernels/buffer.hpp"
#include "kernels/registry.hpp"

namespace lamina {

// Thrown on every rank when no kernel takes a leaf; what() says why.
class NoKernelError : public AgreedError {
 public:
  using AgreedError::AgreedError;
};

// Which part of a step to run. `compute` and `communicate` exist to be timed apart: their results are
// meaningless, but finite.
enum class Part { all, compute, communicate };

// One matrix product of a sharded layer: a leaf, or one factor of a chain. What the check needs to see stays
// visible. A sum is V, U after it, and Q, which adds U's output to its own: in a row shard each rank takes U
// times its own part of V·x, so that one all-reduce sums all.
struct Stage {
  const Leaf* truth = nullptr;  // compressed weights as compression left them: a slab of rows, or whole
  bool truth_whole = false;     // every rank holds all of truth (V of a chain)
  bool follows = false;         // reads the output of the stage before, not the layer's input
  bool adds = false;            // the output of the stage before to its own, before the sum over ranks
  bool partial = false;         // its output is of this rank's part of K alone
  Cut cut;
  std::vector<std::unique_ptr<Layer>> copies;  // packed local part; copies differ in address only
  std::unique_ptr<Workspace> workspace = std::make_unique<Workspace>();  // the copies' scratch
  Leaf part;  // what they are packed from, until all are
  const Kernel* kernel = nullptr;
  int64_t local_in = 0, local_out = 0;  // features this rank reads and computes
  // What its output is: float32, or bfloat16 where ranks sum it in that.
  InputType type = InputType::f32;
  // [max_tokens × local_out] of `type`, the device's; unused in the last stage, which writes y.
  Buffer output;
  Buffer unscattered;  // [ranks × share(max_tokens) × local_out], where sums are scattered: before that
  Buffer payload;  // as large, where the stage reduces: what Part::communicate sums, the same at every call
  Buffer wide;     // as many float32, where the stage sums in bfloat16: its product, and its sums again
};

struct ShardedOptions {
  Shard shard = Shard::none;
  std::string kernel = "auto";
  std::string device = "cpu";
  int64_t max_tokens = 1;
  int threads = 1;
  int64_t halves = 1;
  // Cuts K here instead of evenly (`mlp`: the down projection follows the gate_up's cut). Empty: make_cut's.
  std::vector<Range> row_cut = {};
  // Likewise cuts N, within each half, in a column shard.
  std::vector<Range> column_cut = {};
  // Chunks of tokens into which a product that is summed over ranks falls: each is summed on a second stream
  // while the next is computed. More than 1 on a GPU only.
  int overlap = 1;
  // Tokens are cut over ranks where features are whole (sequence parallelism, Korthikanti et al. 2022,
  // "Reducing activation recomputation in large transformer models"): a column shard starts with an
  // all-gather of them, a row shard ends in a reduce-scatter.
  bool sequence = false;
  // Sums over ranks are sent and added in bfloat16, in place of float32: each rank rounds its part, and the
  // output of a stage that reduces stays bfloat16, as the layers of a model hand it on.
  bool bf16_sums = false;
  // Who moves its data; must outlive the layer. Null: one of its own, made where it needs any.
  Transport* transport = nullptr;
};

class ShardedLayer {
 public:
  // Collective: redistributes the canonical weights to the shard and packs them once. `weights` must outlive
  // the layer. Throws NoKernelError.
  ShardedLayer(const CompressedWeights& weights, const ShardedOptions& options, const Registry& registry,
               Communicator& comm);
  // Collective: packs them again until there are `copies`, and lets go of what they were packed from. Only
  // the first call does anything.
  void replicate(int copies);

  // x: [in_rows(tokens) × local_in()] of input_type(), y: [out_rows(tokens) × local_out()] of output_type(),
  // whatever their own types say, in the device's memory. In a row shard y is whole on every rank, unless it
  // is cut by tokens: then their last rows are beyond the tokens where these do not divide.
  void forward(int copy, const float* x, float* y, int64_t tokens, Stream& stream, Part part = Part::all);

  Device& device() const { return *device_; }
  // What x is: what all stages that read it want, or float32, which each rounds for itself.
  InputType input_type() const;
  InputType output_type() const { return stages_.back().type; }
  int copies() const { return copies_; }
  int64_t local_in() const;
  int64_t local_out() const;
  Range local_cols() const;  // the features of x this rank reads
  // Where tokens are cut over ranks: those of this rank, at most as many as it has rows.
  Range own_tokens(int64_t tokens) const;
  int64_t in_rows(int64_t tokens) const { return gathers_ ? share(tokens) : tokens; }
  int64_t out_rows(int64_t tokens) const { return scatters_ ? share(tokens) : tokens; }
  bool gathers() const { return gathers_; }      // x is of this rank's tokens alone
  bool scatters() const { return scatters_; }    // y is, from the stage that sums on
  const std::vector<Range>& local_rows() const;  // the features of y this rank computes, in order

  Cost cost(int64_t tokens) const;  // this rank's, all stages
  int64_t weight_bytes() const;     // this rank's, one copy
  int64_t comm_bytes(int64_t tokens)
      const;  // payload of all collectives of one forward (the reduced or gathered vectors' bytes)
  int collectives() const;  // how many a forward runs
  // Tokens of the first product, where those of a stage that reduces fall into chunks: the rest of
  // later_chunk()'s. Nothing goes beside it, and sums may go beside all after it.
  int64_t first_chunk(const Stage& stage, int64_t tokens) const;
  const std::vector<Stage>& stages() const { return stages_; }
  std::vector<Stage>& mutable_stages() { return stages_; }  // fault injection in tests
  std::string kernel_name() const;  // of the first stage ("native"), or "native+openblas" where they differ
  std::string isa() const;
  Communicator& comm() { return comm_; }
  Transport* transport() const { return transport_; }  // null where it moves nothing between ranks

 private:
  bool reduces(const Stage& stage) const { return stage.cut.reduce && comm_.size() > 1; }
  bool narrow(const Stage& stage) const { return stage.type != InputType::f32; }
  // Whether the stage's input is float32 that its kernel does not read as it is.
  bool rounds(size_t stage) const;
  // A stage's product of tokens, into `out`; x as Layer::forward_rounding() reads it where it rounds().
  void product(size_t stage, int copy, const float* x, float* out, int64_t tokens, Stream& stream);
  // The same with what the stage adds, of the tokens from `begin` on; `out` is of the stage's type.
  void compute(size_t stage, int copy, const float* x, std::byte* out, int64_t tokens, int64_t begin,
               Stream& stream);
  // The last one's sum goes beside nothing: as short as the finest of what was tried that pays.
  int64_t later_chunk(int64_t tokens) const {
    constexpr int kFinest = 4;
    const int parts = std::max(overlap_, kFinest);
    return (tokens + parts - 1) / parts;
  }
  int64_t share(int64_t tokens) const { return (tokens + comm_.size() - 1) / comm_.size(); }
  // `out` are the tokens from `begin` on.
  void sum(size_t stage, std::byte* out, int64_t tokens, Part part, int64_t begin, Stream& stream);
  void overlapped(size_t stage, int copy, const float* x, std::byte* out, int64_t tokens, Part part,
                  Stream& stream);

  std::vector<Stage> stages_;
  Communicator& comm_;
  std::unique_ptr<Transport> own_transport_;
  Transport* transport_ = nullptr;
  LayerOptions options_;
  Device* device_ = nullptr;
  bool gathers_ = false, scatters_ = false;
  Buffer gathered_;                   // x of all tokens, [ranks × share(max_tokens) × local_in]
  std::unique_ptr<SideStream> side_;  // where products and sums overlap
  int overlap_ = 1;
  int copies_ = 1;
  bool replicated_ = false;
};

}  // namespace lamina
