#include "kernels/cpu/blas_threads.hpp"

#include <dlfcn.h>
#include <omp.h>

namespace lamina {
namespace {

// Each library has its own functions for it.
struct BlasCount {
  using Set = void (*)(int);
  using Get = int (*)();
  Set set = nullptr;
  Get get = nullptr;

  BlasCount() {
    const char* names[][2] = {{"openblas_set_num_threads", "openblas_get_num_threads"},
                              {"MKL_Set_Num_Threads", "MKL_Get_Max_Threads"},
                              {"bli_thread_set_num_threads", "bli_thread_get_num_threads"}};
    for (const auto& name : names) {
      set = reinterpret_cast<Set>(dlsym(RTLD_DEFAULT, name[0]));
      get = reinterpret_cast<Get>(dlsym(RTLD_DEFAULT, name[1]));
      if (set != nullptr && get != nullptr) return;
    }
    set = nullptr;
  }
};

}  // namespace

BlasThreads::BlasThreads(int threads) : before_(omp_get_max_threads()) {
  static const BlasCount count;
  // OpenBLAS over OpenMP takes OpenMP's number at every call, whatever it was told and says itself.
  if (before_ != threads) omp_set_num_threads(threads);
  // Only when it differs: setting it is not free. Some set OpenMP's too.
  if (count.set != nullptr && count.get() != threads) count.set(threads);
}

BlasThreads::~BlasThreads() {
  if (omp_get_max_threads() != before_) omp_set_num_threads(before_);
}

std::string blas_threads_warning() {
  const auto parallel = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_parallel"));
  if (parallel == nullptr || parallel() != 1) return "";
  return "OpenBLAS has threads of its own, which spin beside OpenMP's (build against the one of Debian's "
         "libopenblas-openmp-dev)";
}

}  // namespace lamina
