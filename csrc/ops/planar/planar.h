#pragma once
// A planar flow: y = x + u' tanh(w.x + b),  u' = u + (softplus(-w.u) - 1) w / |w|^2,
//   log|det J| = ln(1 + (1 - tanh^2) w.u') = ln(tanh^2 + (1 - tanh^2) s),  s = 1 + w.u' = softplus(w.u) > 0.
// Rezende & Mohamed 2015 (arXiv:1505.05770), eq. 10-12 and appendix A.1. Every term of the last form is positive, so
// that nothing cancels. The inverse solves v + (s - 1) tanh v = w.y + b for v = w.x + b; its slope is e^log|det J|.

#include "../../common/samples.h"

namespace genkern::planar {

constexpr double LEAST_SQUARE = 1e-8;  // |w|^2 in the quotient: below it u' is that of a longer w
constexpr double LEAST_S = 1e-20;      // s, so that a map that is singular in float64 has a finite log-determinant
constexpr int STEPS = 16;              // of Newton's method: 12 bring it to the last bit in float64

// What u and w give before x is known.
template <typename A>
struct Shape {
  A k;                   // u' = u + k w
  A s;                   // 1 + w.u'
  A s_a, s_n, k_a, k_n;  // derivatives by a = w.u and n = |w|^2
};

template <typename A>
GENKERN_HD Shape<A> shape_of(A a, A n) {
  const bool long_enough = n > A(LEAST_SQUARE);
  const A q = long_enough ? n : A(LEAST_SQUARE), rho = long_enough ? A(1) : n / q;
  const A excess = softplus(-a) - A(1);
  const A s = rho * softplus(a) + (A(1) - rho) * (A(1) + a);
  const bool held = s < A(LEAST_S);
  Shape<A> shape;
  shape.k = excess / q;
  shape.s = held ? A(LEAST_S) : s;
  shape.s_a = held ? A(0) : rho * sigmoid(a) + (A(1) - rho);
  shape.s_n = held || long_enough ? A(0) : excess / q;
  shape.k_a = -sigmoid(-a) / q;
  shape.k_n = long_enough ? -excess / (q * q) : A(0);
  return shape;
}

// tanh v, 1 - tanh^2 v, and the determinant.
template <typename A>
struct Bend {
  A t, slope, det;
};

template <typename A>
GENKERN_HD Bend<A> bend(A v, A s) {
  const A e = exp(A(-2) * absolute(v));
  const A t = tanh(v), slope = A(4) * e / ((A(1) + e) * (A(1) + e));
  return {t, slope, t * t + slope * s};
}

// A bracket of the root for |alpha|, and where in it Newton's method starts: near the root, on the side from which it
// comes monotonically (above where the function is convex, s < 1; below where it is concave). What rounding, or a start
// on the other side, would throw out of the bracket is held at its edge.
template <typename A>
struct Bracket {
  A low, high, v;
};

template <typename A>
GENKERN_HD Bracket<A> bracket_of(A alpha, A s) {
  const A size = absolute(alpha), ratio = size / s, shifted = size - (s - A(1));
  const bool convex = s < A(1);
  // v - tanh v >= 5 v^3 / 21 up to v = 1
  const A cube = exp(log_positive(A(4.2) * (size < A(1e-30) ? A(1e-30) : size)) / A(3));
  const A cubic = size < A(5.0 / 21.0) ? cube : size + A(1);
  const A below = shifted < ratio ? shifted : ratio;
  const A high = convex ? (below < cubic ? below : cubic) : size;
  A low = convex ? size : (shifted > ratio ? shifted : ratio);
  low = low < high ? low : high;
  const A bounded = ratio < A(0.999) ? ratio : A(0.999);
  const A straight = A(0.5) * log_positive((A(1) + bounded) / (A(1) - bounded));  // tanh v = |alpha| / s
  A start = convex ? high : (ratio < A(0.999) ? straight : low);
  start = start < high ? start : high;
  return {low, high, start > low ? start : low};
}

template <typename A>
GENKERN_HD void newton_step(A size, A s, Bracket<A>* at) {
  const A v = at->v;
  const Bend<A> c = bend(v, s);
  const A f = (v - c.t) + s * c.t - size;
  at->low = f < A(0) ? v : at->low;
  at->high = f > A(0) ? v : at->high;
  const A next = v - f / c.det;
  at->v = next < at->low ? at->low : (next > at->high ? at->high : next);
}

struct Forward {
  int64_t batch, size;
  bool shared, inverse;
  const void *x, *u, *w, *b;
  void *y, *log_det;
};

struct Backward {
  int64_t batch, size;
  bool shared, inverse;
  const void *grad_y, *grad_log_det, *x, *u, *w, *b;
  void *grad_x, *grad_u, *grad_w, *grad_b;  // of the parameters only where each sample has its own
  double* partial;                          // else [units, partial_width]
};

// sum t g [D], sum gv x [D], sum of the gradients of a, |w|^2 and b
inline int64_t partial_width(int64_t size) { return 2 * size + 3; }

// Samples of units [begin, end). T is the storage type.
template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end);
template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end);
// Gradients of shared parameters from the sums of all units.
template <typename T>
void finish(const Backward& call, const double* total);

}  // namespace genkern::planar
