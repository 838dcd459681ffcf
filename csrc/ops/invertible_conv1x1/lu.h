#pragma once
// Log-determinant, sign and inverse of small square matrices, by elimination with partial pivoting:
//   P W = L U,   log|det W| = sum_k log|u_kk|,   sign = det(P) prod_k sign(u_kk).
// The elimination also clears the entries above each pivot (Gauss-Jordan), so the inverse replaces the matrix
// in place: n^3 multiply-adds, no triangular solves, and the pivots are those of LU. All of it in float64. Step k:
//   exchange row k with the row of the largest |w_ik|, i >= k;   r = w_k / u_kk, but r_k = 1 / u_kk;
//   w_i <- w_i - f r for all i != k (without an inverse i > k), with f = w_ik, and then w_ik <- -f / u_kk;
//   w_k <- r.
// Golub & Van Loan, Matrix Computations, 3.4; forward error of Gauss-Jordan: Higham 2002, 14.4.

#include <cmath>
#include <cstdint>

#include "../../common/macros.h"

namespace genkern::invertible_conv1x1 {

// u_kk, and that row k was exchanged with row swaps[k]; [n] each.
struct Pivots {
  double* values;
  int* swaps;
};

// The pivot is the largest |value|; NaN wins over everything, so that it cannot hide below a zero pivot.
GENKERN_HD bool exceeds(double candidate, double best) {
  return fabs(candidate) > fabs(best) || candidate != candidate;
}

struct Determinant {
  double log_abs, sign;
};

// The product of the pivots with its exponent apart: no underflow, one logarithm, and an absolute error of a few
// units in the last place of 1, which a sum of logarithms does not reach.
GENKERN_HD Determinant determinant(const Pivots& pivots, int n) {
  double product = 1;
  int64_t exponent = 0;
  bool odd = false;
  for (int k = 0; k < n; k++) {
    int shift, carry;
    product = frexp(product * frexp(pivots.values[k], &shift), &carry);
    exponent += shift + carry;
    odd ^= pivots.swaps[k] != k;
  }
  if (product == 0) return {-INFINITY, 0};
  // The mantissa is brought to [1/2, 2), so that a determinant of 1 loses nothing.
  const double log_abs = log(2 * fabs(product)) + double(exponent - 1) * 0.69314718055994531;
  const double sign = product != product ? product : odd != (product < 0) ? -1 : 1;
  return {log_abs, sign};
}

// The rows were exchanged, so the columns of the inverse are: column j of it is column order[j] of the matrix.
GENKERN_HD void undo_exchanges(const int* swaps, int n, int* order) {
  for (int j = 0; j < n; j++) order[j] = j;
  for (int k = n - 1; k >= 0; k--) {
    const int displaced = order[k];
    order[k] = order[swaps[k]];
    order[swaps[k]] = displaced;
  }
}

// A sequence of square matrices, one after the other in memory. `inverse` is null where nobody wants it.
// T, the type of storage, is float or double.
template <typename T>
struct Call {
  const T* matrices;
  const int64_t* sizes;
  const int64_t* offsets;  // elements before each matrix
  T* log_abs_det;
  T* sign;
  T* inverse;
};

// Matrices [begin, end) on the CPU.
template <typename T>
void invert(const Call<T>& call, int64_t begin, int64_t end);

}  // namespace genkern::invertible_conv1x1
