#pragma once
// One step of Langevin dynamics, with noise z drawn from a key where it is added:
//   y = clamp(x + a clip(g) + b z)          clip to [-limit, limit], clamp to [low, high]
//   y = clamp(x + a clip(g)) + b z          noise first: z is that of the next step, which begins with it
// and the norms |g| and |z| of every sample, from which a predictor-corrector sampler makes a and b; z is drawn again
// for the step and never stored.
// Song et al. 2021 (arXiv:2011.13456), algorithm 4; Du & Mordatch 2019 (arXiv:1903.08689), algorithm 1.

#include <cstdint>

#include "../../common/dtype.h"

namespace genkern::langevin_step {

template <typename A>
struct Limits {
  A grad, low, high;  // infinite where there is none
};

// NaN stays NaN.
template <typename A>
GENKERN_HD A within(A value, A low, A high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

template <typename A>
GENKERN_HD A moved(A x, A g, A a, const Limits<A>& limits) {
  return x + a * within(g, -limits.grad, limits.grad);
}

// 1 where a value within its limits passes a gradient on, else 0.
template <typename A>
GENKERN_HD A passes(A value, A low, A high) {
  return value >= low && value <= high ? A(1) : A(0);
}

struct Step {
  int64_t samples, elements;
  uint64_t key;
  int64_t sample_offset;
  double a, b;                  // of all samples,
  const void *each_a, *each_b;  // or of each, where not null, in the arithmetic type
  double limit, low, high;
  bool noise_first;
  const void *x, *grad, *cotangent;  // cotangent: null but backward
  void *out, *out_grad;              // y, or the gradients of x and of grad
};

struct Norms {
  int64_t elements;
  uint64_t key;
  int64_t sample_offset;
  const void* grad;
  void *grad_norm, *noise_norm;
};

// How many pieces of work there are: a piece is a run of elements of one sample, or of a few whole samples.
int64_t units_of(const Step& call);

// Pieces [begin, end).
template <typename T>
void step(const Step& call, int64_t begin, int64_t end);
template <typename T>
void step_backward(const Step& call, int64_t begin, int64_t end);
// Samples [begin, end).
template <typename T>
void norms(const Norms& call, int64_t begin, int64_t end);

}  // namespace genkern::langevin_step
