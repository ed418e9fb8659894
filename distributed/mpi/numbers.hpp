// Data types and operations of reductions as MPI knows them, with float16 and bfloat16, which it lacks.
#pragma once

#include <mpi.h>

#include <map>

#include "distributed/communicator.hpp"

namespace lamina {

// Throws std::runtime_error with MPI's own text when `code` is not MPI_SUCCESS.
void check_mpi(int code, const char* call);

// Making and freeing them is a rank's own affair: nothing here communicates.
class MpiNumbers {
 public:
  MpiNumbers() = default;
  MpiNumbers(const MpiNumbers&) = delete;
  MpiNumbers& operator=(const MpiNumbers&) = delete;
  ~MpiNumbers();  // before MPI_Finalize
  MPI_Datatype type(DType dtype);
  MPI_Op op(DType dtype, ReduceOp op);

 private:
  MPI_Datatype half_ = MPI_DATATYPE_NULL;  // two bytes; the operation knows what they are
  std::map<std::pair<DType, ReduceOp>, MPI_Op> ops_;
};

}  // namespace lamina
