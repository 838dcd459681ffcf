#pragma once
// Monotone rational-quadratic splines of [-B, B]; identity beyond. Positions are shares of the interval, in [0, 1].
// Inside a bin of width w and height h, with t = (x - x_k) / w, u = 1 - t, and the slopes at its two ends in units
// of the mean slope, a = d_k w / h and b = d_{k+1} w / h:
//   y = y_k + h n / D,   n = t^2 + a t u,   D = t^2 + u^2 + (a + b) t u,   D - n = u^2 + b t u
//   dy/dx = (h / w) N / D^2,   N = b t^2 + 2 t u + a u^2
// and for the inverse, with v = (y - y_k) / h and r = t / u:
//   (1 - v) r^2 + (a (1 - v) - b v) r - v = 0
// This is Durkan et al. 2019 (arXiv:1906.04032) eq. 4-8 over s = h / w: no sum here has terms of two signs but the
// middle coefficient, whose error is that of v. So float32 is enough once the distances of x from both knots are exact.

#include "../../common/math.h"

namespace genkern::rational_quadratic_spline {

GENKERN_HD double log_normal(double x) { return std::log(x); }
using genkern::log_normal;

template <typename A>
struct Slope {
  A value, derivative;
};

// m + softplus(z)
template <typename A>
GENKERN_HD Slope<A> slope(A z, A min_slope) {
  const A e = exp(-absolute(z));
  const A small = e / (A(1) + e);
  return {min_slope + (z > A(0) ? z : A(0)) + log1p_nonnegative(e), z > A(0) ? A(1) - small : small};
}

// The shares of a bin on the two sides of a point: t + u = 1, each exact in relative terms.
template <typename A>
struct Place {
  A t, u;
};

// Where the curve has gone the share v of the bin's height; rest = 1 - v.
template <typename A>
GENKERN_HD Place<A> place_of_height(A v, A rest, A a, A b) {
  const A c = a * rest - b * v;
  const A root = std::sqrt(c * c + A(4) * v * rest);
  const A p = c > A(0) ? A(2) * v : root - c, q = c > A(0) ? root + c : A(2) * rest;  // r = p / q
  const A inverse = A(1) / (p + q);
  return {p * inverse, q * inverse};
}

template <typename A>
struct Curve {
  A n, rest, D, N;  // rest = D - n
};

template <typename A>
GENKERN_HD Curve<A> curve(Place<A> at, A a, A b) {
  const A tt = at.t * at.t, tu = at.t * at.u, uu = at.u * at.u;
  return {tt + a * tu, uu + b * tu, tt + uu + (a + b) * tu, b * tt + A(2) * tu + a * uu};
}

// x as [batch, channels, sites], of which `active` elements of each sample are transformed, from `first` on; params as
// [batch * active / length, count, length], so that parameter p of an element is `length` numbers behind p - 1.
struct Shape {
  int64_t batch, sample, first, active, length;
  int bins, count;
  bool linear, circular;  // tails
};

struct Options {
  double bound, min_bin, min_slope, offset;
  bool inverse;
};

struct Forward {
  Shape shape;
  Options options;
  const void* x;
  const void* params;
  const uint8_t* mask;  // one byte for each element of a sample, or null; nonzero passes unchanged
  void* y;
  void* log_det;
};

struct Backward {
  Shape shape;
  Options options;
  const void* grad_y;
  const void* grad_log_det;
  const void* x;
  const void* params;
  const uint8_t* mask;
  void* grad_x;
  void* grad_params;
};

// Samples [begin, end). T is the storage type.
template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end);
template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end);

}  // namespace genkern::rational_quadratic_spline
