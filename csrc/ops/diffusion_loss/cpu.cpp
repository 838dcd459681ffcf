#include "../../common/reduce.h"
#include "../random/staged.h"
#include "diffusion_loss.h"

namespace genkern::diffusion_loss {
namespace {

// x_0 is not read where p is 0, nor the noise where q is 0.
template <bool with_x0, bool with_noise, typename T, typename A>
GENKERN_INLINE A residual(const T* output, const T* x0, const A* noise, A p, A q, int64_t i) {
  A r = load(output[i]);
  if constexpr (with_x0) r -= p * load(x0[i]);
  if constexpr (with_noise) r -= q * noise[i];
  return r;
}

// r, and the sum of its squares.
template <bool with_x0, bool with_noise, typename T, typename A>
GENKERN_INLINE double residual_loop(const T* output, const T* x0, const A* noise, A p, A q, A* r, int64_t n) {
  return sum_over<A>(n, [=](int64_t i) {
    const A value = residual<with_x0, with_noise, T, A>(output, x0, noise, p, q, i);
    r[i] = value;
    return value * value;
  });
}

template <typename T, typename A>
GENKERN_INLINE double residuals_loop(const T* output, const T* x0, const A* noise, A p, A q, A* r, int64_t n) {
  if (p == A(0)) return residual_loop<false, true, T, A>(output, x0, noise, p, q, r, n);
  if (q == A(0)) return residual_loop<true, false, T, A>(output, x0, noise, p, q, r, n);
  return residual_loop<true, true, T, A>(output, x0, noise, p, q, r, n);
}

template <typename T, typename A>
GENKERN_INLINE void scale_loop(const A* __restrict r, T* __restrict out, int64_t n, A c) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = store<T>(c * r[i]);
}

template <typename U, typename A>
GENKERN_INLINE double dot_loop(const A* r, const U* y, int64_t n) {
  return sum_over<A>(n, [=](int64_t i) { return r[i] * load(y[i]); });
}

// One copy of each loop for each storage type; float64 ones exist for exactness, not for speed.
#define GENKERN_DEFINE(T, A, CLONES)                                                                            \
  CLONES double residuals(const T* output, const T* x0, const A* noise, A p, A q, A* r, int64_t n) {            \
    return residuals_loop<T, A>(output, x0, noise, p, q, r, n);                                                 \
  }                                                                                                             \
  CLONES void scale(const A* r, T* out, int64_t n, A c) { scale_loop<T, A>(r, out, n, c); }                     \
  CLONES double dot_with_values(const A* r, const T* x0, int64_t n) { return dot_loop<T, A>(r, x0, n); }        \
  CLONES double dot_with_noise(const A* r, const A* noise, int64_t n, T) { return dot_loop<A, A>(r, noise, n); }
GENKERN_DEFINE(float, float, GENKERN_CLONES)
GENKERN_DEFINE(Half, float, GENKERN_CLONES)
GENKERN_DEFINE(BFloat16, float, GENKERN_CLONES)
GENKERN_DEFINE(double, double, )

// Calls f(sample, offset of its data, slot of its part, r, noise, sum of r^2) for every sample of stretches [begin,
// end).
template <typename T, typename A, typename F>
void each_residual(const Inputs& call, bool noise_always, int64_t begin, int64_t end, const F& f) {
  const Stages stages(call.batch, call.elements);
  const T *output = static_cast<const T*>(call.output), *x0 = static_cast<const T*>(call.x0);
  const A *p = static_cast<const A*>(call.p), *q = static_cast<const A*>(call.q);
  A noise[STAGE], r[STAGE];
  for (int64_t u = begin; u < end; u++) {
    const Stretch part = stages.stretch(u);
    const int64_t last = part.sample + part.samples, n = part.count;
    if (noise_always || std::any_of(q + part.sample, q + last, [](A value) { return value != A(0); }))
      draw_stretch<Normal>(part, call.elements, call.key, call.sample_offset, noise);
    else
      std::fill(noise, noise + part.size(), A(0));
    for (int64_t b = part.sample; b < last; b++) {
      const A* const own = noise + (b - part.sample) * n;
      const int64_t at = b * call.elements + part.first;
      const double squares = residuals(output + at, x0 + at, own, p[b], q[b], r, n);
      f(b, at, b * stages.parts + u % stages.parts, n, r, own, squares);
    }
  }
}

}  // namespace

template <typename T>
void forward(const Inputs& call, double* squares, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  each_residual<T, A>(
      call, false, begin, end,
      [=](int64_t, int64_t, int64_t slot, int64_t, const A*, const A*, double sum) { squares[slot] = sum; });
}

template <typename T>
void backward(const Inputs& call, const Gradients& to, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const A *grad = static_cast<const A*>(to.grad), *p = static_cast<const A*>(call.p);
  const T* x0 = static_cast<const T*>(call.x0);
  each_residual<T, A>(call, to.q != nullptr, begin, end,
                      [=, &call](int64_t b, int64_t at, int64_t slot, int64_t n, const A* r, const A* noise, double) {
                        const A c = A(2) * grad[b] / A(call.elements);
                        if (to.output) scale(r, static_cast<T*>(to.output) + at, n, c);
                        if (to.x0) scale(r, static_cast<T*>(to.x0) + at, n, -p[b] * c);
                        if (to.p) to.p[slot] = -double(c) * dot_with_values(r, x0 + at, n);
                        if (to.q) to.q[slot] = -double(c) * dot_with_noise(r, noise, n, T{});
                      });
}

#define GENKERN_INSTANTIATE(T)                                                  \
  template void forward<T>(const Inputs&, double*, int64_t, int64_t);           \
  template void backward<T>(const Inputs&, const Gradients&, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::diffusion_loss
