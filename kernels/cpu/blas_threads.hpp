// The threads of the BLAS that the program was linked with, which must not run beside OpenMP's.
#pragma once

#include <string>

namespace lamina {

// While it lives, BLAS called from this thread uses `threads`, and OpenMP regions that name no number do too;
// OpenMP's own setting comes back at the end. A BLAS that says nothing of its threads runs as its environment
// says. How a BLAS shares a product among threads changes its last bits: one thread where these matter.
class BlasThreads {
 public:
  explicit BlasThreads(int threads);
  ~BlasThreads();
  BlasThreads(const BlasThreads&) = delete;
  BlasThreads& operator=(const BlasThreads&) = delete;

 private:
  int before_;
};

// What is wrong with the BLAS's threads; empty when they are OpenMP's, or there are none.
std::string blas_threads_warning();

}  // namespace lamina
