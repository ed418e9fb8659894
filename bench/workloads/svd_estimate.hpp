// What a factorisation takes, before it runs.
#pragma once

#include "bench/workload.hpp"
#include "bench/workloads/svd_case.hpp"

namespace lamina {

// Whether it runs on ScaLAPACK's grid.
bool is_scalapack(const SvdMethod& method);

// The most singular values that a rule by energy or error can ask for, whatever the matrix.
int64_t most_rank(const RankRule& rule, Shape shape, const SvdMethod& method);

// Why ranks cannot factorise a matrix on their GPUs: none in this build or machine, no such communicator
// between them, too little memory for factors of at most this rank. Empty: they can.
std::string why_not_on_gpus(const SvdMethod& method, Shape shape, int64_t rank, int ranks,
                            const SvdOptions& options, const std::string& communicator);

// Fills the spec's memory and time, and whether the task may look for the least error: `rank` is what comes
// out at most. Needs the spec's ranks.
void estimate_svd(CaseSpec& spec, SvdTask& task, const SvdMethod& method, int64_t rank,
                  const LaunchInfo& launch);

}  // namespace lamina
