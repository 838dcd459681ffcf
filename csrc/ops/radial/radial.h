#pragma once
// A radial flow: y = x + b (x - x0) / (a + r),  r = |x - x0|,  a = softplus(raw a),  b = softplus(raw b) - a > -a.
// With c = a + b:  the distance becomes r (r + c) / (r + a), and
//   log|det J| = (D - 1) ln((r + c) / (r + a)) + ln((r^2 + 2 a r + a c) / (r + a)^2).
// Rezende & Mohamed 2015 (arXiv:1505.05770), eq. 14 and appendix A.2. The inverse is the positive root of a quadratic.

#include "../../common/samples.h"

namespace genkern::radial {

constexpr double LEAST = 1e-12;  // of a and c

// ln(1 + q), with 1 + q the ratio of two positive numbers.
template <typename A>
GENKERN_HD A log_of_one_plus(A q, A numerator, A denominator) {
  const A half = A(-0.5);
  return q > half ? log1p_bounded(q > half ? q : half) : log_positive(numerator) - log_positive(denominator);
}

template <typename A>
struct Positive {
  A value, slope;
};

template <typename A>
GENKERN_HD Positive<A> positive(A raw) {
  const A value = softplus(raw);
  const bool held = value < A(LEAST);
  return {held ? A(LEAST) : value, held ? A(0) : sigmoid(raw)};
}

// The radius in x for a radius in y.
template <typename A>
GENKERN_HD A radius_before(A r, A a, A c) {
  const A excess = r - c;
  const A both = absolute(excess) + root_of(excess * excess + A(4) * a * r);
  return excess >= A(0) ? A(0.5) * both : A(2) * a * r / both;
}

// What the map does at radius r (that of x): y = x + pull (x - x0), x = y + push (y - x0), and the log-determinant.
template <typename A>
struct Map {
  A pull, push, log_det;
};

template <typename A>
GENKERN_HD Map<A> map_at(A r, A a, A b, A c, A size) {
  const A ra = r + a, rc = r + c;
  const A tangential = log_of_one_plus(b / ra, rc, ra);
  // with a quotient in place of (r + a)^2, which is subnormal where a is tiny
  const A outward = log_of_one_plus(a / ra * (b / ra), r + (a * r + a * c) / ra, ra);
  return {b / ra, -b / rc, (size - A(1)) * tangential + outward};
}

// Gradients: of the input x_in, g_in = g + excess g + along (x_in - x0), and of the two raw numbers.
template <typename A>
struct Gradient {
  A excess, along, g_raw_a, g_raw_b;
};

// r_in: the radius of the input; r: that in x; dot = g . (x_in - x0).
template <typename A>
GENKERN_HD Gradient<A> gradient(bool inverse, A r_in, A r, Positive<A> a, A b, Positive<A> c, A size, A dot,
                                A g_log_det) {
  const A ra = r + a.value, rc = r + c.value;
  const A q = r * (r + A(2) * a.value) + a.value * c.value;  // (r + a)^2 times the outward slope
  const A l_r = -(size - A(1)) * (b / rc) / ra - A(2) * (a.value / q) * (b / ra);
  const A l_c = (size - A(1)) / rc + a.value / q;
  const A l_a = -(size - A(1)) / ra + (c.value * r - A(2) * a.value * r - a.value * c.value) / q / ra;
  const A over = r_in > A(0) ? A(1) / r_in : A(0);
  if (inverse) {
    const A g_r = dot * (b / rc) / rc - g_log_det * l_r;
    const A g_a = dot / rc - g_log_det * l_a + g_r * (r / q) * rc;
    const A g_c = -dot * (ra / rc) / rc - g_log_det * l_c - g_r * (r / q) * ra;
    return {-b / rc, g_r * (ra / q) * ra * over, g_a * a.slope, g_c * c.slope};
  }
  const A g_r = -dot * (b / ra) / ra + g_log_det * l_r;
  const A g_a = -dot * (rc / ra) / ra + g_log_det * l_a;
  const A g_c = dot / ra + g_log_det * l_c;
  return {b / ra, g_r * over, g_a * a.slope, g_c * c.slope};
}

struct Forward {
  int64_t batch, size;
  bool shared, inverse;
  const void *x, *center, *raw_a, *raw_b;
  void *y, *log_det;
};

struct Backward {
  int64_t batch, size;
  bool shared, inverse;
  const void *grad_y, *grad_log_det, *x, *center, *raw_a, *raw_b;
  void *grad_x, *grad_center, *grad_raw_a, *grad_raw_b;  // of the parameters only where each sample has its own
  double* partial;                                       // else [units, partial_width]: center [D], raw a, raw b
};

inline int64_t partial_width(int64_t size) { return size + 2; }

// Samples of units [begin, end). T is the storage type.
template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end);
template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end);
// Gradients of shared parameters from the sums of all units.
template <typename T>
void finish(const Backward& call, const double* total);

}  // namespace genkern::radial
