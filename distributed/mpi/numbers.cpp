#include "distributed/mpi/numbers.hpp"

#include <fmt/format.h>

#include <stdexcept>
#include <string_view>

#include "distributed/collectives/combine.hpp"

namespace lamina {
namespace {

// MPI wants inout = in op inout, pair by pair, so that sums of halves are rounded at every addition.
template <DType dtype, ReduceOp op>
void combine_pair(void* in, void* inout, int* length, MPI_Datatype*) {
  const void* parts[] = {in, inout};
  combine(parts, 2, inout, *length, dtype, op);
}

template <DType dtype>
MPI_User_function* function_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return &combine_pair<dtype, ReduceOp::sum>;
    case ReduceOp::max:
      return &combine_pair<dtype, ReduceOp::max>;
    case ReduceOp::min:
      return &combine_pair<dtype, ReduceOp::min>;
  }
  throw std::logic_error("MpiNumbers: unknown operation");
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw std::runtime_error(
      fmt::format("{} failed: {}", call, std::string_view(text, static_cast<size_t>(length))));
}

MpiNumbers::~MpiNumbers() {
  for (auto& [key, op] : ops_) MPI_Op_free(&op);
  if (half_ != MPI_DATATYPE_NULL) MPI_Type_free(&half_);
}

MPI_Datatype MpiNumbers::type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i32:
      return MPI_INT32_T;
    case DType::i64:
      return MPI_INT64_T;
    case DType::i8:
      return MPI_INT8_T;
    case DType::u8:
      return MPI_UINT8_T;
    case DType::f16:
    case DType::bf16:
      break;
  }
  if (half_ == MPI_DATATYPE_NULL) {
    check_mpi(MPI_Type_contiguous(2, MPI_BYTE, &half_), "MPI_Type_contiguous");
    check_mpi(MPI_Type_commit(&half_), "MPI_Type_commit");
  }
  return half_;
}

MPI_Op MpiNumbers::op(DType dtype, ReduceOp op) {
  if (dtype != DType::f16 && dtype != DType::bf16)
    return op == ReduceOp::sum ? MPI_SUM : op == ReduceOp::max ? MPI_MAX : MPI_MIN;
  const auto [entry, made] = ops_.try_emplace({dtype, op}, MPI_OP_NULL);
  if (made) {
    MPI_User_function* function =
        dtype == DType::f16 ? function_of<DType::f16>(op) : function_of<DType::bf16>(op);
    check_mpi(MPI_Op_create(function, 1, &entry->second), "MPI_Op_create");
  }
  return entry->second;
}

}  // namespace lamina
