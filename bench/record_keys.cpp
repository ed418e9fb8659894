// The table of keys: what a record holds, in what order, and what each value means.
#include <unordered_map>

#include "bench/record.hpp"

namespace lamina {

const std::vector<RecordKey>& record_keys() {
  static const std::string matrices = "layer,mlp,svd";
  static const std::string forwards = "layer,mlp";
  static const std::string lossy = "layer,mlp,collective";
  static const std::vector<RecordKey> keys = {
      // Identity.
      {"schema_version", Unit::count, "version of this table of keys"},
      {"run_id", Unit::text, "of the run; a resumed run keeps it"},
      {"launch_id", Unit::text, "of the processes that measured the row; a resumed run has several"},
      {"case", Unit::text, "the point of the sweep: readable, stable from run to run, unique in the run"},
      {"workload", Unit::text, "what was run: layer, mlp, …"},
      {"model", Unit::text, "whose shapes were taken; null when the config gave sizes", matrices},
      {"layer", Unit::text, "which linear layer of the model", matrices},
      {"tokens", Unit::count, "rows M of the activations X", forwards},
      {"in_features", Unit::count, "columns K of W", matrices},
      {"out_features", Unit::count, "rows N of W", matrices},
      {"intermediate_features", Unit::count, "width between the two products of an MLP", "mlp"},
      {"scheme", Unit::text,
       "how W is stored, short, its type first: int4-g128; scheme_* keys hold its settings", forwards},
      {"weight_dtype", Unit::text, "type of the stored weights", forwards},
      {"activation_dtype", Unit::text, "type the kernel multiplies activations in", forwards},
      {"weights_source", Unit::text, "synthetic, or the file the weights were read from", matrices},
      {"device", Unit::text, "cpu, cuda"},
      {"kernel", Unit::text, "who computed it: native, openblas, …", forwards},
      {"kernel_ran", Unit::text,
       "by which of its ways it did: gemv, decode, prefill, expand+cublaslt, …; the kernel where it has one",
       forwards},
      {"isa", Unit::text, "instruction set of the kernel's own code", forwards},
      {"shard", Unit::text, "how W is cut over ranks: none, column, row", forwards},
      {"overlap", Unit::count, "chunks of tokens whose sums overlap products; 1: none", forwards},
      {"sum_dtype", Unit::text, "what sums over ranks were sent in: f32, bf16; null where there are none",
       forwards},
      {"communicator", Unit::text, "who moved data between ranks: self, mpi, …"},
      {"ranks", Unit::count, "processes that worked on the case"},
      {"nodes", Unit::count, "hosts they ran on"},
      {"threads", Unit::count, "per rank"},
      {"cache", Unit::text, "cold: weights come from memory; hot: from cache where they fit", forwards},
      // Outcome.
      {"status", Unit::text,
       "ok, invalid (check failed), skipped, error or timeout; only ok rows have a time"},
      {"reason", Unit::text, "why a row is not ok; null when it is"},
      {"warnings", Unit::text, "what makes the row dubious", "", true},
      // Time.
      {"latency_us_p50", Unit::microseconds,
       "median of the block medians of a step's time, the slowest rank's"},
      {"latency_us_p90", Unit::microseconds, "90th percentile"},
      {"latency_us_p99", Unit::microseconds, "99th percentile; null below 100 samples"},
      {"latency_us_min", Unit::microseconds, "smallest sample"},
      {"latency_us_mean", Unit::microseconds, "mean of the samples"},
      {"latency_us_ci_low", Unit::microseconds,
       "lower end of the p50's 95 % interval, from block medians; null below 6 blocks"},
      {"latency_us_ci_high", Unit::microseconds, "upper end of that interval"},
      {"samples_us", Unit::microseconds, "every sample, in the order taken", "", true},
      {"samples", Unit::count, "number of samples"},
      {"iterations_per_sample", Unit::count, "steps in a sample; samples are per step"},
      {"device_clock_mhz", Unit::count,
       "a GPU's clock: median of readings right after it was timed; null on the CPU", forwards},
      {"device_clock_min_mhz", Unit::count, "least of these readings", forwards},
      {"device_clock_max_mhz", Unit::count, "largest of them", forwards},
      {"throttle_reasons", Unit::text,
       "why the GPU's clock was not higher at any of them, as its driver says; null on the CPU", forwards,
       true},
      {"core_clock_mhz", Unit::count,
       "the clock of the core that computed: median over the blocks in which it stood still; null on a "
       "GPU, of several ranks or threads, of what half of the core's second-level cache does not hold, "
       "and with fewer than 3 such blocks",
       forwards},
      {"cycles_p50", Unit::count,
       "median over the same blocks of their medians, each times the clock beside it", forwards},
      {"stop_reason", Unit::text, "why measuring stopped: precision or max_seconds"},
      {"compute_us_p50", Unit::microseconds, "median of the step without its collectives", forwards},
      {"comm_us_p50", Unit::microseconds, "median of its collectives alone", forwards},
      {"comm_exposed_us_p50", Unit::microseconds, "communication not hidden: latency_us_p50 − compute_us_p50",
       forwards},
      // Rate.
      {"tokens_per_s", Unit::tokens_per_s, "tokens / latency_us_p50", forwards},
      {"gflops", Unit::gflops, "2·M·N·K / latency_us_p50, as if W were dense", forwards},
      {"gflops_executed", Unit::gflops, "operations really executed / latency_us_p50", forwards},
      {"weight_gb_per_s", Unit::gigabytes_per_s, "weight_bytes / latency_us_p50", forwards},
      {"speedup_vs_dense", Unit::ratio,
       "time of the fastest dense kernel of the same device, shard, ranks, threads and cache in this run, "
       "over this",
       forwards},
      {"baseline_case", Unit::text, "that dense case", forwards},
      // Limit.
      {"limit_kind", Unit::text, "what bounds the case on this machine: memory, compute or network"},
      {"limit_fraction", Unit::fraction,
       "share reached of that limit as measured in this run; null for hot cache"},
      // Size.
      {"weight_bytes", Unit::bytes, "weights as packed, with scales and indices, summed over ranks",
       forwards},
      {"compression_ratio", Unit::ratio, "16-bit dense bytes / weight_bytes", forwards},
      {"comm_bytes", Unit::bytes, "payload of the step's collectives", lossy},
      // Truth.
      {"check_passed", Unit::none, "whether the result equals the float64 product of the compressed weights"},
      {"check_error", Unit::error,
       "|y − reference| of the element nearest to, or furthest over, its tolerance"},
      {"check_tolerance", Unit::error, "that element's tolerance"},
      {"quality_nmse", Unit::error, "Σ(y − y₀)² / Σy₀² against the original weights: what compression loses",
       lossy},
      {"quality_cosine", Unit::ratio, "cosine of y and y₀", lossy},
      {"quality_max_abs", Unit::error, "largest |y − y₀|", lossy},
      {"quality_tokens", Unit::count, "held-out tokens that the three are of", forwards},
      // Compression.
      {"compress_s", Unit::seconds,
       "time to compress W, the slowest rank's, without recomputing the error of factors", forwards},
      {"compress_peak_bytes", Unit::bytes, "memory that took, the largest rank's", forwards},
      {"compress_comm_bytes", Unit::bytes, "that ranks exchanged for it, the largest rank's share", forwards},
      {"compress_error", Unit::error,
       "relative Frobenius error ‖W − Ŵ‖/‖W‖ of the compressed weights; null for low-rank factors that are "
       "not dense",
       forwards},
      {"break_even_rank", Unit::count, "N·K/(N + K): factors of a higher rank have more parameters than W",
       "layer"},
      {"break_even_forwards", Unit::count,
       "compress_s over what a forward gains on the fastest dense kernel; null where it gains nothing",
       forwards},
      // SVD.
      {"svd_method", Unit::text, "who factorised: gram, randomized, …", "svd"},
      {"svd_rule", Unit::text, "what was asked for: rank 256, ratio 0.25, energy 0.9, error 0.1", "svd"},
      {"svd_layout", Unit::text, "how A lay over ranks before: rows, columns, block-cyclic", "svd"},
      {"svd_scaling", Unit::text, "strong; weak: out_features grew with the ranks", "svd"},
      {"svd_eigensolver", Unit::text, "as asked for; gram only", "svd"},
      {"svd_solved_by", Unit::text, "who found the eigenvectors: filters, lapack, scalapack, elpa; gram only",
       "svd"},
      {"svd_oversampling", Unit::count, "columns of the sketch beyond the rank; randomized only", "svd"},
      {"svd_power_iterations", Unit::count, "randomized only", "svd"},
      {"svd_grid", Unit::text, "of ranks; scalapack only", "svd"},
      {"svd_block", Unit::count, "side of a block; scalapack only", "svd"},
      {"spectrum_decay", Unit::ratio,
       "of synthetic weights: their structured singular values fall as r^-decay", "svd"},
      {"svd_rank", Unit::count, "singular values kept", "svd"},
      {"svd_error", Unit::error,
       "relative Frobenius error ‖A − UΣVᵀ‖/‖A‖ of the float32 factors, recomputed in float64; A is what a "
       "scheme factorises: W, whitened or not, or what a sum's base leaves of it",
       matrices},
      {"svd_error_bound", Unit::error, "what the method promises of it", matrices},
      {"svd_optimal_error", Unit::error,
       "smallest such error any factors of this rank have; null where unknown", "svd"},
      {"svd_orthogonality", Unit::error,
       "largest element of (UᵀU − I)z and (VᵀV − I)z over a few vectors z of ±1", "svd"},
      {"svd_multiply_s", Unit::seconds, "products with A and of tall matrices: median over steps", "svd"},
      {"svd_communicate_s", Unit::seconds, "collectives, waiting included", "svd"},
      {"svd_eigensolve_s", Unit::seconds, "dense eigenproblems and singular value decompositions", "svd"},
      {"svd_orthogonalize_s", Unit::seconds, "making columns orthonormal", "svd"},
      {"svd_peak_bytes", Unit::bytes, "memory of a factorisation, A's part included, of the rank with most",
       "svd"},
      {"svd_estimated_bytes", Unit::bytes, "what --dry-run says of that", "svd"},
      {"svd_estimated_gpu_bytes", Unit::bytes, "of a GPU's memory, about what a rank takes", "svd"},
      {"speedup_vs_lapack", Unit::ratio,
       "time of the fastest lapack row of the same matrix and launch, over this", "svd"},
      {"speedup_vs_scalapack", Unit::ratio, "and of the fastest scalapack row on as many ranks", "svd"},
      {"scaling_efficiency", Unit::ratio,
       "time of the same case on one rank over this, and over the ranks unless weak", "svd"},
      // Collective.
      {"collective", Unit::text, "which one", "collective"},
      {"message_bytes", Unit::bytes, "the whole buffer, as nccl-tests counts it", "collective"},
      {"dtype", Unit::text, "of its elements", "collective"},
      {"in_place", Unit::none, "whether input and output are one buffer", "collective"},
      {"algbw_gb_per_s", Unit::gigabytes_per_s, "message_bytes / latency_us_p50", "collective"},
      {"busbw_gb_per_s", Unit::gigabytes_per_s, "algbw × the collective's factor, as nccl-tests defines it",
       "collective"},
      {"latency_us_rank_mean", Unit::microseconds, "mean over ranks of each rank's mean time, as OSU has it",
       "collective"},
      {"latency_us_rank_min", Unit::microseconds, "the fastest rank's mean time", "collective"},
      {"latency_us_rank_max", Unit::microseconds, "the slowest rank's mean time", "collective"},
      {"wrong_elements", Unit::count, "elements of the output beyond their tolerance, over all ranks",
       "collective"},
      {"payload", Unit::text, "what a compressed all_reduce sends: int8, fp8, int4; null: the elements",
       "collective"},
      {"payload_block", Unit::count, "elements that share a scale", "collective"},
      {"error_feedback", Unit::none, "whether what encoding lost is added to the next call's numbers",
       "collective"},
      {"payload_wins_from_bytes", Unit::bytes,
       "the size from which on codes took less time than the elements in the same run; null: at none",
       "collective"},
      {"graph", Unit::none, "whether a GPU's calls were captured in a graph; null on the CPU", "collective"},
  };
  return keys;
}

const RecordKey* find_record_key(std::string_view name) {
  static const auto index = [] {
    std::unordered_map<std::string_view, const RecordKey*> map;
    for (const RecordKey& key : record_keys()) map.emplace(key.name, &key);
    return map;
  }();
  const auto found = index.find(name);
  return found == index.end() ? nullptr : found->second;
}

}  // namespace lamina
