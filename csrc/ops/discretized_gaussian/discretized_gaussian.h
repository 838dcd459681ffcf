#pragma once
// Gaussians over the bins of pixels on [-1, 1], of half-width h = 1 / (levels - 1); the end levels own all beyond them.
//   ln P = ln(Phi(p) - Phi(m)),  (p, m) = (x - mean +- h) / std
// tanh: Phi(u) = sigmoid(2 w(u)), w(u) = sqrt(2 / pi) (u + 0.044715 u^3), never below ln 1e-12. With logistic Phi
//   Phi(p) - Phi(m) = sigmoid(P) sigmoid(-M) (1 - e^-(P - M)), where P - M is known without cancellation.
// erf: with a <= b the bounds on the side of the mean where they are positive, Q the upper tail,
//   ln(Q(a) - Q(b)) = -a^2 / 2 + ln(erfcx(a / sqrt 2) - erfcx(b / sqrt 2) e^-(b^2 - a^2) / 2) - ln 2,
// and in narrow bins, where that cancels, the density of the centre times the width times a series in both.
// Ho et al. 2020 (arXiv:2006.11239), eq. 13; tanh of Nichol & Dhariwal 2021 (arXiv:2102.09672).

#include <type_traits>

#include "../../common/decay.h"

namespace genkern::discretized_gaussian {

enum class Cdf { tanh, erf };

// A log-probability, and its derivatives by the mean and by the log standard deviation.
template <typename A>
struct Bin {
  A log_prob, mean, log_std;
};

GENKERN_HD float ln(float x) { return log_normal(x); }
GENKERN_HD double ln(double x) { return std::log(x); }

template <typename A>
GENKERN_HD A bounded(A x, A least, A most) {
  x = x < least ? least : x;
  return x > most ? most : x;
}

// e^(x^2) erfc(x) for x >= 0.
GENKERN_HD float erfcx(float x) {
  const float s = (x - 2.0f) / (x + 2.0f);
  float p = 6.3192669336e-05f;  // (1 + 2 x) erfcx(x)
  p = p * s + 1.6042070568e-04f;
  p = p * s - 3.5735661529e-04f;
  p = p * s - 1.3947535081e-03f;
  p = p * s + 1.2167486670e-03f;
  p = p * s + 8.6883298172e-03f;
  p = p * s - 8.0186175575e-03f;
  p = p * s - 5.4211664358e-02f;
  p = p * s + 1.6404937888e-01f;
  p = p * s - 1.6603113199e-01f;
  p = p * s - 9.2763758037e-02f;
  p = p * s + 1.2769783920e+00f;
  return p / (1.0f + 2.0f * x);
}
GENKERN_HD double erfcx(double x) {
  if (x < 25.0) {
    const double square = x * x, rest = std::fma(x, x, -square);
    return std::exp(square) * (1.0 + rest) * std::erfc(x);
  }
  const double y = 1.0 / (2.0 * x * x);  // the asymptotic series, to below an ulp from there
  const double series =
      1.0 - y * (1.0 - 3.0 * y * (1.0 - 5.0 * y * (1.0 - 7.0 * y * (1.0 - 9.0 * y * (1.0 - 11.0 * y)))));
  return 0.56418958354775628695 / x * series;
}

// One pixel. edge: -1 at the lowest level, 1 at the highest, else 0.
template <bool slopes, typename A>
GENKERN_INLINE Bin<A> tanh_bin(A centred, A log_std, A h, bool low, bool high) {
  constexpr A scale = A(1.5957691216057308), cubic = A(0.044715), floor = A(-27.631021115928547);
  const A up = high ? A(0) : A(1), down = low ? A(0) : A(1);  // numbers: g++ refuses selects by such combinations
  const A s = bounded(log_std, A(-20), A(30)), inverse_std = exp(-s);
  const A raw_plus = (centred + h) * inverse_std, raw_minus = (centred - h) * inverse_std;
  const A plus = bounded(raw_plus, A(-20), A(20)), minus = bounded(raw_minus, A(-20), A(20));
  A width = A(2) * h * inverse_std;
  width = plus < A(20) ? width : plus - minus;
  width = minus > A(-20) ? width : plus - minus;
  const A upper = scale * (plus + cubic * plus * plus * plus), lower = scale * (minus + cubic * minus * minus * minus);
  const A squares = plus * plus + plus * minus + minus * minus;
  const A t = scale * width * (A(1) + cubic * squares);
  const A eu = decay(absolute(upper)).power, el = decay(absolute(lower)).power;
  const Decay<A> et = decay(t < A(1e-30) ? A(1e-30) : t);
  const A linear = up * (upper < A(0) ? upper : A(0)) - down * (lower > A(0) ? lower : A(0));
  A numerator = low ? A(1) : -et.minus_one;
  numerator = high ? A(1) : numerator;
  const A log_prob = linear + ln(numerator / ((A(1) + up * eu) * (A(1) + down * el)));
  Bin<A> bin{log_prob > floor ? log_prob : floor, A(0), A(0)};
  if constexpr (slopes) {
    const A live = log_prob >= floor ? A(1) : A(0), free = s == log_std ? live : A(0);
    // d ln sigmoid(P) / dP = sigmoid(-P), d ln sigmoid(-M) / dM = -sigmoid(M); dP / dp = scale (1 + 3 cubic p^2)
    const A du = (raw_plus == plus ? up : A(0)) * ((upper > A(0) ? eu : A(1)) / (A(1) + eu));
    const A dl = (raw_minus == minus ? down : A(0)) * ((lower > A(0) ? A(1) : el) / (A(1) + el));
    const A by_plus = du * scale * (A(1) + A(3) * cubic * plus * plus);
    const A by_minus = -dl * scale * (A(1) + A(3) * cubic * minus * minus);
    // by P - M, of which p and m have the parts that do not cancel
    const A dt = up * down * (et.power / numerator) * scale * width;
    const A by_mean = by_plus + by_minus + dt * A(3) * cubic * (plus + minus);
    const A by_scale = plus * by_plus + minus * by_minus + dt * (A(1) + A(3) * cubic * squares);
    bin.mean = live * (-inverse_std * by_mean);
    bin.log_std = -free * by_scale;
  }
  return bin;
}

// The mean of e^(-z u - q u^2 / 2) over u in [-1/2, 1/2], less 1, and its derivatives, for z + sqrt q < 1/2:
// the sum of K_2n / ((2 n + 1)! 4^n), with K_m+1 = z K_m - m q K_m-1, K_m' = m K_m-1 by z and -m (m - 1) / 2 K_m-2 by
// q.
template <typename A>
struct Series {
  A value, by_z, by_q;
};

template <typename A>
GENKERN_INLINE Series<A> narrow_series(A z, A q) {
  constexpr int terms = std::is_same_v<A, double> ? 5 : 3;
  constexpr double factors[] = {1.0 / 24, 1.0 / 1920, 1.0 / 322560, 1.0 / 92897280, 1.0 / 40874803200};
  A last = A(1), now = z;  // K_2n-2 and K_2n-1
  Series<A> s{A(0), A(0), A(0)};
#pragma GCC unroll 5
  for (int n = 1; n <= terms; n++) {
    const A even = z * now - A(2 * n - 1) * q * last, factor = A(factors[n - 1]);
    s.value += factor * even;
    s.by_z += factor * A(2 * n) * now;
    s.by_q -= factor * A(n * (2 * n - 1)) * last;
    now = z * even - A(2 * n) * q * now;
    last = even;
  }
  return s;
}

template <bool slopes, typename A>
GENKERN_INLINE Bin<A> erf_bin(A centred, A log_std, A h, A log_width, bool low, bool high) {
  constexpr A half_ln_2pi = A(0.91893853320467274178), root_half = A(0.70710678118654752440);
  constexpr A density = A(0.39894228040143267794);
  const bool free = log_std >= A(-20);
  const A s = free ? log_std : A(-20);
  const A inverse_std = exp(-s);
  const bool edge = low | high;
  const A distance = absolute(centred), width = A(2) * h * inverse_std, c = distance * inverse_std;
  const bool narrow = !edge & (width * (c + A(1)) < A(0.5));
  const A z = narrow ? c * width : A(0), q = narrow ? width * width : A(0);
  const Series<A> series = narrow_series(z, q);

  A a = (low ? -(centred + h) : high ? centred - h : distance - h) * inverse_std;
  a = a < A(-12) ? A(-12) : a;  // beyond, Q(a) is 1
  const A b = (distance + h) * inverse_std;
  const A ea = exp(A(-0.5) * a * a), ratio = edge ? A(0) : exp(-c * width);
  const A xa = erfcx(absolute(a) * root_half), xb = erfcx(b * root_half) * ratio;
  const bool inside = a < A(0);  // the mean lies within the bin: 1 - Q(-a) - Q(b), else Q(a) - Q(b)
  const A lost = A(0.5) * ea * (xa + xb), tail = A(0.5) * (xa - xb);

  // one logarithm for all cases: ln(1 + series), ln(1 - lost), ln(tail)
  const A offset = narrow ? series.value : -lost, one_more = A(1) + offset;
  const bool direct = !narrow & !inside;
  const A argument = direct ? tail : one_more;
  const A rounding = direct ? A(0) : (offset - (one_more - A(1))) / one_more;
  const A centre = A(-0.5) * c * c - half_ln_2pi + log_width - s;
  Bin<A> bin{ln(argument) + rounding + (narrow ? centre : inside ? A(0) : A(-0.5) * a * a), A(0), A(0)};
  if constexpr (slopes) {
    const A sign = low ? A(-1) : high ? A(1) : centred < A(0) ? A(-1) : A(1);
    const A scale = A(1) / one_more;
    const A over = density * (inside ? ea : A(1)) / argument;  // phi(a) / P; that of b is ratio times as much
    const A by_distance = narrow ? width * series.by_z * scale - c : over * (ratio - A(1));
    const A of_narrow = c * c - A(1) - A(2) * (z * series.by_z + q * series.by_q) * scale;
    bin.mean = -sign * inverse_std * by_distance;
    bin.log_std = free ? (narrow ? of_narrow : over * (edge ? a : a - b * ratio)) : A(0);
  }
  return bin;
}

template <Cdf cdf, bool slopes, typename A>
GENKERN_INLINE Bin<A> log_bin(A x, A mean, A log_std, A h, A log_width) {
  const A end = A(1) - A(0.255) * h;
  const bool low = x<-end, high = x> end;
  if constexpr (cdf == Cdf::tanh) return tanh_bin<slopes>(x - mean, log_std, h, low, high);
  return erf_bin<slopes>(x - mean, log_std, h, log_width, low, high);
}

// Stretches of samples of `elements` contiguous numbers each, as random/staged.h cuts them. Sums are [batch, parts].
struct Bins {
  int64_t batch, elements, levels;
  Cdf cdf;
  bool shared;  // log_std is one number for each sample
  const void *x, *mean, *log_std;
};
struct BinGradients {  // those that are null are not computed
  const void* grad;
  void *x, *mean, *log_std;
};

// A term of the variational bound. With (c0 ... c7) the row of a sample, x^ = clip(c0 x_t + c1 f) and
// l = (v + 1) / 2 c6 + (1 - v) / 2 c5 (c5 where v is null), it is, where c7 is 0, the divergence of two Gaussians
//   KL = (e^d - 1 - d + (c2 (x_0 - x^))^2 e^-l) / 2,  d = c4 - l,
// else -ln P of x_0 under N(c2 x^ + c3 x_t, e^l). Within exponentials l is at least -80.
struct Terms {
  int64_t batch, elements, levels;
  Cdf cdf;
  bool clip;
  const void *x0, *x_t, *output, *variance, *coefficients;
};
struct TermGradients {
  const void* grad;
  void *x0, *x_t, *output, *variance;
};

// Stretches [begin, end). T is the storage type.
template <typename T>
void forward(const Bins& call, double* sums, int64_t begin, int64_t end);
template <typename T>
void backward(const Bins& call, const BinGradients& to, int64_t begin, int64_t end);
template <typename T>
void forward(const Terms& call, double* sums, int64_t begin, int64_t end);
template <typename T>
void backward(const Terms& call, const TermGradients& to, int64_t begin, int64_t end);

}  // namespace genkern::discretized_gaussian
