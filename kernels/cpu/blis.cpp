// A peer: BLIS, from the library that CMake found. Opened by itself: linked, its sgemm_ and OpenBLAS's would
// be one symbol.
#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "kernels/cpu/blas_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

struct Blis {
  Blas blas{};
  void (*set_threads)(int64_t) = nullptr;
  int64_t (*get_threads)() = nullptr;
  std::string isa, absent;

  Blis() {
    void* library = dlopen(LAMINA_BLIS_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      absent = fmt::format("{}; install libblis4-openmp", dlerror());
      return;
    }
    void (*initialize)() = nullptr;
    char* (*version)() = nullptr;
    int (*processor)() = nullptr;
    const char* (*processor_name)(int) = nullptr;
    const bool complete =
        find(library, "sgemm_", blas.sgemm) && find(library, "sgemv_", blas.sgemv) &&
        find(library, "bli_thread_set_num_threads", set_threads) &&
        find(library, "bli_thread_get_num_threads", get_threads) && find(library, "bli_init", initialize) &&
        find(library, "bli_info_get_version_str", version) && find(library, "bli_arch_query_id", processor) &&
        find(library, "bli_arch_string", processor_name);
    if (complete) {
      initialize();  // asked before it, what BLIS_ARCH_TYPE names counts as unknown, which ends the process
      isa = fmt::format("blis-{}-{}", version(), processor_name(processor()));
    } else {
      absent = fmt::format("{} lacks symbols of BLIS with its BLAS interface; install libblis4-openmp",
                           LAMINA_BLIS_LIBRARY);
    }
  }

  template <class Function>
  static bool find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    return function != nullptr;
  }
};

const Blis& blis() {
  static const Blis library;
  return library;
}

void use_threads(int threads) {
  if (blis().get_threads() != threads) blis().set_threads(threads);
}

}  // namespace

Kernel blis_kernel() {
  Blas blas = blis().blas;
  blas.use_threads = use_threads;
  Kernel kernel = blas_kernel(blas);
  kernel.name = "blis";
  kernel.help = "dense float32 by BLIS: sgemv (on one thread) for one token, sgemm for more";
  kernel.isa = blis().isa;
  kernel.absent = blis().absent;
  kernel.preference = 0;  // when named: what a run times by itself must not depend on what is installed
  return kernel;
}

}  // namespace lamina
