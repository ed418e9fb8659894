// The list of methods, and what stands before each: checks of the input, the rank that a rule asks for.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "distributed/agree.hpp"
#include "distributed/exact_sum.hpp"
#include "distributed/partition.hpp"
#include "distributed/scalapack.hpp"
#include "distributed/svd.hpp"
#include "distributed/svd/coarse.hpp"
#include "distributed/svd/digits.hpp"
#include "distributed/svd/in_step.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cuda/factor_ops.hpp"
#include "kernels/wide.hpp"

namespace lamina {
namespace svd {
namespace {

const std::vector<Method>& methods() {
  static const std::vector<Method> list = {gram_method(), randomized_method(), scalapack_method(),
                                           scalapack_f64_method(), lapack_method()};
  return list;
}

const char* name_of(Layout layout) {
  return layout == Layout::rows ? "rows" : layout == Layout::columns ? "columns" : "block-cyclic";
}

// Throws what is wrong with this rank's part.
void check_part(Shape shape, const Distribution& distribution, const Matrix<float>& local,
                const Communicator& comm) {
  if (shape.out_features < 1 || shape.in_features < 1)
    throw std::invalid_argument(fmt::format("svd: expected a matrix of at least 1 × 1, found {} × {}",
                                            shape.out_features, shape.in_features));
  if (distribution.layout == Layout::block_cyclic &&
      (distribution.grid_rows < 1 || distribution.grid_cols < 1 || distribution.block < 1 ||
       static_cast<int64_t>(distribution.grid_rows) * distribution.grid_cols != comm.size()))
    throw std::invalid_argument(
        fmt::format("svd: expected blocks of at least 1 and a grid of all {} ranks, found blocks of {} and a "
                    "grid of {} × {}",
                    comm.size(), distribution.block, distribution.grid_rows, distribution.grid_cols));
  const Shape expected = local_shape(shape, distribution, comm.size(), comm.rank());
  if (Shape{local.rows, local.cols} != expected ||
      local.data.size() != static_cast<size_t>(local.rows) * static_cast<size_t>(local.cols))
    throw std::invalid_argument(
        fmt::format("svd: expected {} × {} as this rank's part by {} of {} × {}, "
                    "found {} × {}",
                    expected.out_features, expected.in_features, name_of(distribution.layout),
                    shape.out_features, shape.in_features, local.rows, local.cols));
}

// Whether it is to run on GPUs. Throws where it cannot.
bool check_device(const Method& method, const SvdOptions& options, const Communicator& comm) {
  if (options.device == "cpu") return false;
  const std::string& name = method.named.name;
  if (options.device != "cuda")
    throw std::invalid_argument(
        fmt::format("svd: expected a device of cpu and cuda, found \"{}\"", options.device));
  if (method.run_on_gpus == nullptr)
    throw std::invalid_argument(fmt::format("svd: {} does not run on a GPU; gram and randomized do", name));
  if (const std::string absent = gpu_svd_absent(); !absent.empty())
    throw std::invalid_argument(fmt::format("svd: {} on a GPU is absent: {}", name, absent));
  if (comm.size() > 1 && options.transport == nullptr)
    throw std::invalid_argument("svd: expected a transport between the ranks' GPUs, found none");
  return true;
}

// The rank that the rule asks for, 0 when it asks for a share. Throws what is wrong with it.
int64_t rank_of(const RankRule& rule, Shape shape) {
  const bool sane = rule.rank >= 0 && rule.ratio >= 0 && rule.error >= 0 && rule.energy >= 0 &&
                    rule.energy < 1 && std::isfinite(rule.ratio) && std::isfinite(rule.error);
  if (!sane || (rule.rank != 0) + (rule.ratio != 0) + (rule.error != 0) + (rule.energy != 0) != 1)
    throw std::invalid_argument(
        fmt::format("svd: expected one of rank, ratio, error and energy to be positive (energy below 1), "
                    "found {}, {}, {} and {}",
                    rule.rank, rule.ratio, rule.error, rule.energy));
  if (rule.error > 0 || rule.energy > 0) return 0;
  const int64_t most = std::min(shape.out_features, shape.in_features);
  int64_t rank = rule.rank;
  if (rule.ratio > 0) {
    const auto n = static_cast<double>(shape.out_features), k = static_cast<double>(shape.in_features);
    const double share = rule.ratio * n * k / (n + k);
    rank = share >= static_cast<double>(most) ? most : static_cast<int64_t>(share);
  }
  if (rank < 1 || rank > most)
    throw std::invalid_argument(fmt::format("svd: expected a rank of 1 to {} for a {} × {} matrix, found {}",
                                            most, shape.out_features, shape.in_features, rank));
  return rank;
}

// Σ x² in two parts: of multiples of a coarse grid, and of what these leave, on a finer grid. Squares of
// float32 numbers are exact in float64, so it does not matter whether a machine fuses them into sums.
LAMINA_WIDE void add_squares(const float* values, int64_t count, double coarse, double fine, double* high,
                             double* low) {
  double on_coarse = 0, on_fine = 0;
#pragma omp simd reduction(+ : on_coarse, on_fine)
  for (int64_t i = 0; i < count; ++i) {
    const double square = static_cast<double>(values[i]) * values[i];
    const double on = on_grid(square, coarse);
    on_coarse += on;
    on_fine += on_grid(square - on, fine);
  }
  *high += on_coarse;
  *low += on_fine;
}

}  // namespace

double exact_squares(const Input& input, Communicator& comm, int threads) {
  const double count =
      static_cast<double>(input.shape.out_features) * static_cast<double>(input.shape.in_features);
  const double coarse = exact_shift(1.01 * count * input.max_abs * input.max_abs);
  const double fine = exact_shift(1.01 * count * std::ldexp(coarse, -51));
  double sums[2] = {0, 0};
  double high = 0, low = 0;
  const float* values = input.local.data.data();
  const auto size = static_cast<int64_t>(input.local.data.size());
  constexpr int64_t kSome = 1 << 16;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : high, low)
  for (int64_t first = 0; first < size; first += kSome)
    add_squares(values + first, std::min(kSome, size - first), coarse, fine, &high, &low);
  sums[0] = high;
  sums[1] = low;
  comm.all_reduce(sums, sums, 2, DType::f64, ReduceOp::sum);
  return sums[0] + sums[1];
}

namespace {

SvdResult zeros(const Input& input, Communicator& comm) {
  const int64_t rank = std::max<int64_t>(1, input.rank);
  SvdResult result;
  result.u = Matrix<float>(local_shape(input.shape, {}, comm.size(), comm.rank()).out_features, rank);
  result.v = Matrix<float>(
      local_shape(input.shape, {.layout = Layout::columns}, comm.size(), comm.rank()).in_features, rank);
  result.singular_values.assign(static_cast<size_t>(rank), 0.0);
  return result;
}

}  // namespace

bool InLayout::copies(Layout from, Layout to, int ranks) {
  // Alone, whole rows are whole columns.
  return from != to && (ranks > 1 || from == Layout::block_cyclic);
}

InLayout::InLayout(const Input& input, Layout layout, Communicator& comm, int threads)
    : local_(&input.local) {
  if (!copies(input.distribution.layout, layout, comm.size())) return;
  copy_ = redistribute(input.shape, input.distribution, input.local, {.layout = layout}, comm, threads);
  local_ = &copy_.local;
}

SvdResult factorize(Shape shape, const Distribution& distribution, const Matrix<float>& local,
                    const RankRule& rule, const SvdOptions& given, Communicator& comm) {
  Input input{shape, distribution, local};
  SvdOptions options = given;
  options.threads = std::max(1, given.threads);
  const Method* method = nullptr;
  bool on_gpus = false;
  together(comm, [&] {
    for (const Method& each : methods()) {
      if (each.named.name == options.method) method = &each;
    }
    if (method == nullptr)
      throw std::invalid_argument(
          fmt::format("svd: expected a method that exists, found \"{}\"", options.method));
    if (!method->named.absent.empty())
      throw std::invalid_argument(fmt::format("svd: {} is absent: {}", options.method, method->named.absent));
    if (method->named.one_rank && comm.size() > 1)
      throw std::invalid_argument(
          fmt::format("svd: {} takes one rank, found {}", options.method, comm.size()));
    on_gpus = check_device(*method, options, comm);
    check_part(shape, distribution, local, comm);
    input.rank = rank_of(rule, shape);
    input.rest = rule.energy > 0 ? 1 - rule.energy : rule.error * rule.error;
  });
  TimedCommunicator timed(comm);
  return in_step(comm, "svd", [&] {
    input.max_abs = max_abs(local, timed, options.threads);
    if (!std::isfinite(input.max_abs))
      throw AgreedError("svd: expected finite weights, found an infinity or NaN");
    if (input.max_abs == 0) {
      SvdResult none = zeros(input, comm);
      none.computed_by = options.method;
      return none;
    }
    input.norm_squared = exact_squares(input, timed, options.threads);
    input.tiles = timed.max(coarse_is_fast() && digits_are_fast() ? 0 : 1) == 0;
    SvdResult result = (on_gpus ? method->run_on_gpus : method->run)(input, options, timed);
    if (result.computed_by.empty()) result.computed_by = options.method;
    result.norm = std::sqrt(input.norm_squared);
    result.phases.communicate_s += timed.seconds();
    return result;
  });
}

int64_t choose_rank(const std::vector<double>& squares, const Input& input,
                    const std::function<double(double, int64_t)>& bound) {
  if (input.rank > 0) return input.rank;
  const auto most = static_cast<int64_t>(squares.size());
  double rho = 1;
  for (int64_t r = 1; r < most; ++r) {
    rho -= squares[static_cast<size_t>(r - 1)] / input.norm_squared;
    const double error = bound(rho, r);
    if (error * error <= input.rest) return r;
  }
  return most;
}

}  // namespace svd

const std::vector<SvdMethod>& svd_methods() {
  static const std::vector<SvdMethod> list = [] {
    std::vector<SvdMethod> named;
    for (const svd::Method& method : svd::methods()) named.push_back(method.named);
    return named;
  }();
  return list;
}

std::string gpu_svd_absent() {
  return gpu::factor_ops_absent();
}

const SvdMethod* find_svd_method(std::string_view name) {
  for (const SvdMethod& method : svd_methods()) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

SvdResult factorize(const SpreadMatrix& a, const RankRule& rule, const SvdOptions& options,
                    Communicator& comm) {
  return svd::factorize(a.shape, a.distribution, a.local, rule, options, comm);
}

}  // namespace lamina
