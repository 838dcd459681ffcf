#pragma once
// Divergence of two diagonal Gaussians, summed over each sample, with d = v - w of the log-variances:
//   KL(N(m, e^v) || N(n, e^w)) = sum (e^d - 1 - d + (m - n)^2 e^-w) / 2
// Within exponentials d is at most 80 and w at least -80.

#include "../../common/excess.h"

namespace genkern::gaussian_kl {

// d as it is within exponentials, with e^d and e^d - 1 - d, and e^-w.
template <typename A>
struct Spread {
  A capped;
  Exponential<A> of;
  A precision;
};

template <typename A>
GENKERN_HD Spread<A> spread(A logvar, A prior_logvar) {
  const A d = logvar - prior_logvar, capped = d > A(80) ? A(80) : d;
  return {capped, exponential(capped), exp(-(prior_logvar < A(-80) ? A(-80) : prior_logvar))};
}

// Twice the divergence.
template <typename A>
GENKERN_HD A twice_kl(A mean, A logvar, A prior_mean, A prior_logvar) {
  const Spread<A> s = spread(logvar, prior_logvar);
  const A error = mean - prior_mean;
  return s.of.excess + (s.capped - (logvar - prior_logvar)) + error * error * s.precision;
}

// g times the derivatives; that by the prior's mean is minus that by the mean.
template <typename A>
struct Slopes {
  A mean, logvar, prior_logvar;
};

template <typename A>
GENKERN_HD Slopes<A> slopes(A g, A mean, A logvar, A prior_mean, A prior_logvar) {
  const Spread<A> s = spread(logvar, prior_logvar);
  const A error = mean - prior_mean, scaled = g * error * s.precision;
  const A of_d = A(0.5) * g * (logvar - prior_logvar > A(80) ? A(-1) : s.of.excess + s.capped);
  return {scaled, of_d, -of_d - (prior_logvar < A(-80) ? A(0) : A(0.5) * error * scaled)};
}

struct Inputs {
  int64_t batch, elements;
  const void *mean, *logvar, *prior_mean, *prior_logvar;
};
struct Gradients {  // those that are null are not computed
  const void* grad;
  void *mean, *logvar, *prior_mean, *prior_logvar;
};

// Stretches [begin, end), as random/staged.h cuts them; sums are [batch, parts]. T is the storage type.
template <typename T>
void forward(const Inputs& call, double* sums, int64_t begin, int64_t end);
template <typename T>
void backward(const Inputs& call, const Gradients& to, int64_t begin, int64_t end);

}  // namespace genkern::gaussian_kl
