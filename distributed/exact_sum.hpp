// Sums that do not depend on the order, and so not on how many ranks share the terms.
#pragma once

#include <cmath>

namespace lamina {

// Fixed point in doubles: every term is rounded once to a multiple of a grid so coarse that any sum of them,
// partial or whole, is a multiple below 2^53 grids, which doubles add without rounding. Exact addition is
// associative, so threads, ranks and MPI's own reduction may add in any order and agree bitwise.
// (Pre-rounding: Rump, Ogita, Oishi 2008, "Accurate floating-point summation", the splitting step; Demmel,
// Nguyen 2013, "Fast reproducible floating-point summation".) The grid is at most 2^-50 of the bound: terms
// lose what lies below that.

// What on_grid() takes for terms whose magnitudes sum to at most `bound` over all ranks (the same on every
// rank, finite, not negative). Scales with the bound: exact_shift(b)·2^n serves the bound b·2^n.
inline double exact_shift(double bound) {
  if (!(bound > 0)) return 0;  // all terms are zeros
  int exponent = 0;
  std::frexp(bound, &exponent);          // bound < 2^exponent
  return std::ldexp(1.5, exponent + 1);  // in its binade doubles are 2^(exponent - 51) apart: the grid
}

// The term as a multiple of the grid: adding the shift pushes the lower bits out.
inline double on_grid(double term, double shift) {
  return (term + shift) - shift;
}

}  // namespace lamina
