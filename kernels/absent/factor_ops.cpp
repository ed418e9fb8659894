// CUDA, or cuSOLVER, was not built: the same interface, saying so.
#include "kernels/cuda/factor_ops.hpp"

namespace lamina::gpu {
namespace {

[[noreturn]] void refuse() {
  throw DeviceError(factor_ops_absent());
}

}  // namespace

std::string factor_ops_absent() {
  return "built without CUDA and its cuSOLVER; configure with the `cuda` preset";
}

void multiply(bool, bool, int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t, float*,
              int64_t) {
  refuse();
}
void multiply(bool, bool, int64_t, int64_t, int64_t, double, const double*, int64_t, const double*, int64_t,
              double, double*, int64_t) {
  refuse();
}
void gram(const double*, int64_t, int64_t, double*) {
  refuse();
}
bool cholesky(double*, int64_t) {
  refuse();
}
void divide_by_triangle(double*, int64_t, int64_t, const double*) {
  refuse();
}
std::vector<double> eigen(double*, int64_t) {
  refuse();
}
void scale_columns(double*, int64_t, int64_t, const std::vector<double>&) {
  refuse();
}
void scale_rows(double*, int64_t, int64_t, const std::vector<double>&) {
  refuse();
}
void add_scaled(double, const double*, int64_t, double*) {
  refuse();
}
std::vector<double> diagonal(const double*, int64_t) {
  refuse();
}
void add_on_grid(const float*, int64_t, int64_t, int64_t, double, double*, int64_t) {
  refuse();
}
void add_on_grid(const double*, int64_t, int64_t, int64_t, double, double*, int64_t) {
  refuse();
}
void widen(const float*, int64_t, int64_t, const double*, double*) {
  refuse();
}
void widen(const double*, int64_t, int64_t, const double*, double*) {
  refuse();
}
void narrow(const float*, int64_t, double, float*) {
  refuse();
}
void narrow(const double*, int64_t, double, float*) {
  refuse();
}
void largest_of_columns(const float*, int64_t, int64_t, double*) {
  refuse();
}
void largest_of_columns(const double*, int64_t, int64_t, double*) {
  refuse();
}
void squares_of_columns(const float*, int64_t, int64_t, const double*, double*) {
  refuse();
}
void squares_of_columns(const double*, int64_t, int64_t, const double*, double*) {
  refuse();
}
std::vector<double> squares_of_blocks(const double*, int64_t, int64_t, int64_t) {
  refuse();
}
void reverse_rows(const double*, int64_t, int64_t, double*) {
  refuse();
}
void transpose(const float*, int64_t, int64_t, int64_t, float*, int64_t) {
  refuse();
}
void copy_rows(const void*, int64_t, int64_t, int64_t, void*, int64_t) {
  refuse();
}
void fill_sketch(uint64_t, int64_t, int64_t, int64_t, int64_t, float*) {
  refuse();
}
Buffer uploaded(std::span<const double>) {
  refuse();
}

}  // namespace lamina::gpu
