#include "../../common/reduce.h"
#include "../random/staged.h"
#include "q_sample.h"

namespace genkern::q_sample {
namespace {

// x_t may be x_0.
template <typename T, typename A>
GENKERN_INLINE void mix_loop(const T* x0, const A* noise, T* x_t, int64_t n, A a, A s) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) x_t[i] = store<T>(a * load(x0[i]) + s * noise[i]);
}

// Samples too short for a vector, each with coefficients of its own.
template <typename T, typename A>
GENKERN_INLINE void mix_short_loop(const T* x0, const A* noise, T* x_t, int64_t samples, int64_t n, const A* a,
                                   const A* s) {
  A as[STAGE], ss[STAGE];
  for (int64_t j = 0; j < samples; j++) {
    for (int64_t i = 0; i < n; i++) as[j * n + i] = a[j], ss[j * n + i] = s[j];
  }
#pragma omp simd
  for (int64_t i = 0; i < samples * n; i++) x_t[i] = store<T>(as[i] * load(x0[i]) + ss[i] * noise[i]);
}

template <typename T, typename A>
GENKERN_INLINE void scale_loop(const T* __restrict grad, T* __restrict out, int64_t n, A a) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = store<T>(a * load(grad[i]));
}

template <typename T, typename U, typename A>
GENKERN_INLINE double dot_loop(const T* x, const U* y, int64_t n) {
  return sum_over<A>(n, [=](int64_t i) { return load(x[i]) * load(y[i]); });
}

// One copy of each loop for each storage type; float64 ones exist for exactness, not for speed.
#define GENKERN_DEFINE(T, A, CLONES)                                                                             \
  CLONES void mix(const T* x0, const A* noise, T* x_t, int64_t n, A a, A s) {                                    \
    mix_loop<T, A>(x0, noise, x_t, n, a, s);                                                                     \
  }                                                                                                              \
  CLONES void mix_short(const T* x0, const A* noise, T* x_t, int64_t samples, int64_t n, const A* a,             \
                        const A* s) {                                                                            \
    mix_short_loop<T, A>(x0, noise, x_t, samples, n, a, s);                                                      \
  }                                                                                                              \
  CLONES void scale(const T* grad, T* out, int64_t n, A a) { scale_loop<T, A>(grad, out, n, a); }                \
  CLONES double dot_with_values(const T* x, const T* y, int64_t n) { return dot_loop<T, T, A>(x, y, n); }        \
  CLONES double dot_with_noise(const T* x, const A* y, int64_t n) { return dot_loop<T, A, A>(x, y, n); }
GENKERN_DEFINE(float, float, GENKERN_CLONES)
GENKERN_DEFINE(Half, float, GENKERN_CLONES)
GENKERN_DEFINE(BFloat16, float, GENKERN_CLONES)
GENKERN_DEFINE(double, double, )

constexpr int64_t SHORT = 16;  // elements

}  // namespace

template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const Stages stages(call.batch, call.elements);
  const T* x0 = static_cast<const T*>(call.x0);
  const A *a = static_cast<const A*>(call.a), *s = static_cast<const A*>(call.s);
  T* x_t = static_cast<T*>(call.x_t);
  A noise[STAGE];
  for (int64_t u = begin; u < end; u++) {
    const Stretch part = stages.stretch(u);
    draw_stretch<Normal>(part, call.elements, call.key, call.sample_offset, noise);
    const int64_t at = part.sample * call.elements + part.first, n = part.count;
    if (n < SHORT) {
      mix_short(x0 + at, noise, x_t + at, part.samples, n, a + part.sample, s + part.sample);
      continue;
    }
    for (int64_t j = 0; j < part.samples; j++)
      mix(x0 + at + j * n, noise + j * n, x_t + at + j * n, n, a[part.sample + j], s[part.sample + j]);
  }
}

template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const Stages stages(call.batch, call.elements);
  const T *grad = static_cast<const T*>(call.grad), *x0 = static_cast<const T*>(call.x0);
  const A* a = static_cast<const A*>(call.a);
  T* grad_x0 = static_cast<T*>(call.grad_x0);
  A noise[STAGE];
  for (int64_t u = begin; u < end; u++) {
    const Stretch part = stages.stretch(u);
    if (call.grad_s) draw_stretch<Normal>(part, call.elements, call.key, call.sample_offset, noise);
    const int64_t n = part.count;
    for (int64_t j = 0; j < part.samples; j++) {
      const int64_t b = part.sample + j, at = b * call.elements + part.first,
                    slot = b * stages.parts + u % stages.parts;
      if (grad_x0) scale(grad + at, grad_x0 + at, n, a[b]);
      if (call.grad_a) call.grad_a[slot] = dot_with_values(grad + at, x0 + at, n);
      if (call.grad_s) call.grad_s[slot] = dot_with_noise(grad + at, noise + j * n, n);
    }
  }
}

#define GENKERN_INSTANTIATE(T)                                  \
  template void forward<T>(const Forward&, int64_t, int64_t);   \
  template void backward<T>(const Backward&, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::q_sample
