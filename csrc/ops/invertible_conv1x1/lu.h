#pragma once
// Log-determinant, sign and inverse of small square matrices, by elimination with partial pivoting:
//   P W = L U,   log|det W| = sum_k log|u_kk|,   sign = det(P) prod_k sign(u_kk).
// The elimination also clears the entries above each pivot (Gauss-Jordan), so the inverse replaces the matrix
// in place: n^3 multiply-adds, no triangular solves, and the pivots are those of LU. All of it in float64.
// Golub & Van Loan, Matrix Computations, 3.4; forward error of Gauss-Jordan: Higham 2002, 14.4.

#include <cmath>
#include <cstdint>

#include "../../common/macros.h"

namespace genkern::invertible_conv1x1 {

struct Pivot {
  int row;
  double value;
};

// The scratch of one matrix: `matrix` is [n, stride], the others [n].
struct Scratch {
  double* matrix;
  int64_t stride;
  double* factors;  // the column that is being eliminated
  double* pivots;   // u_kk
  int* swaps;       // row k was exchanged with row swaps[k]
};

// Keeps the largest |value|; NaN wins over everything, so that it cannot hide below a zero pivot.
GENKERN_HD bool exceeds(double candidate, double best) {
  return fabs(candidate) > fabs(best) || candidate != candidate;
}

// A team is what works on one matrix: one CPU thread, or the threads of a CUDA block. It deals out rows and
// columns (first, step), finds the pivot of a column, and synchronises.
template <bool inverse, typename Team>
GENKERN_HD void eliminate(const Scratch& scratch, int n, const Team& team) {
  double* const matrix = scratch.matrix;
  double* const factors = scratch.factors;
  const int64_t stride = scratch.stride;
  for (int k = 0; k < n; k++) {
    const Pivot pivot = team.largest(scratch, k, n);
    double* const target = matrix + k * stride;
    double* const source = matrix + pivot.row * stride;
    if (team.first()) {
      scratch.pivots[k] = pivot.value;
      scratch.swaps[k] = pivot.row;
    }
    if (pivot.value == 0) {  // the column is zero from row k on: singular, nothing to eliminate
      team.sync();
      continue;
    }
    for (int j = team.index(); j < n; j += team.size()) {
      if (j == k) {
        const double displaced = target[k];
        target[k] = 1 / pivot.value;
        if (pivot.row != k) factors[pivot.row] = displaced;
      } else {
        if (j != pivot.row) factors[j] = matrix[j * stride + k];
        const double value = source[j];
        source[j] = target[j];
        target[j] = value / pivot.value;
      }
    }
    team.sync();
    const double reciprocal = target[k];
    for (int i = team.row(inverse ? 0 : k + 1); i < n; i += team.rows()) {
      if (i == k) continue;
      const double factor = factors[i];
      team.subtract(matrix + i * stride, factor, target, inverse ? 0 : k + 1, n);
      if (inverse && team.owns_column(k)) matrix[i * stride + k] = -factor * reciprocal;
    }
    team.sync();
  }
}

struct Determinant {
  double log_abs, sign;
};

// The product of the pivots with its exponent apart: no underflow, one logarithm, and an absolute error of a few
// units in the last place of 1, which a sum of logarithms does not reach.
GENKERN_HD Determinant determinant(const Scratch& scratch, int n) {
  double product = 1;
  int64_t exponent = 0;
  bool odd = false;
  for (int k = 0; k < n; k++) {
    int shift, carry;
    product = frexp(product * frexp(scratch.pivots[k], &shift), &carry);
    exponent += shift + carry;
    odd ^= scratch.swaps[k] != k;
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
