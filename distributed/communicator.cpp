// What every communicator shares: agreement, scalars, text, and the end of a failed job.
#include "distributed/communicator.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <stdexcept>

namespace lamina {

int64_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::i8:
    case DType::u8:
      return 1;
  }
  throw std::logic_error("dtype_bytes: unknown data type");
}

Agreement Communicator::agree(const std::string& message) {
  int64_t first = message.empty() ? size() : rank();
  all_reduce(&first, &first, 1, DType::i64, ReduceOp::min);
  if (first == size()) return {};
  return {false, static_cast<int>(first), broadcast_text(message, static_cast<int>(first))};
}

double Communicator::max(double value) {
  all_reduce(&value, &value, 1, DType::f64, ReduceOp::max);
  return value;
}

double Communicator::sum(double value) {
  all_reduce(&value, &value, 1, DType::f64, ReduceOp::sum);
  return value;
}

std::string Communicator::broadcast_text(const std::string& text, int root) {
  int64_t length = static_cast<int64_t>(text.size());
  broadcast(&length, sizeof(length), root);
  std::string result = text;
  result.resize(static_cast<size_t>(length));
  broadcast(result.data(), length, root);
  return result;
}

void Communicator::require(const std::string& message) {
  const Agreement agreement = agree(message);
  if (agreement.ok) return;
  if (size() == 1) throw AgreedError(agreement.message);
  throw AgreedError(fmt::format("rank {}: {}", agreement.rank, agreement.message));
}

void abort_job(const Communicator& world, const std::string& message) {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host = {"unknown host"};
  fmt::print(stderr, "lamina: rank {} of {} on {}: {}\n", world.rank(), world.size(), host.data(), message);
  std::fflush(nullptr);
  Launch::abort(1);
  std::_Exit(1);  // Launch::abort does not return
}

}  // namespace lamina
