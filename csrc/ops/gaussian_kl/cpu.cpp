#include "../../common/reduce.h"
#include "../random/staged.h"
#include "gaussian_kl.h"

namespace genkern::gaussian_kl {
namespace {

template <typename T, typename A>
GENKERN_INLINE double sum_loop(const T* mean, const T* logvar, const T* prior_mean, const T* prior_logvar, int64_t n) {
  return 0.5 * sum_over<A>(n, [=](int64_t i) {
           return twice_kl<A>(load(mean[i]), load(logvar[i]), load(prior_mean[i]), load(prior_logvar[i]));
         });
}

template <typename T, typename A>
GENKERN_INLINE void slopes_loop(A g, const T* __restrict mean, const T* __restrict logvar,
                                const T* __restrict prior_mean, const T* __restrict prior_logvar, A* __restrict by_mean,
                                A* __restrict by_logvar, A* __restrict by_prior_logvar, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const Slopes<A> s = slopes<A>(g, load(mean[i]), load(logvar[i]), load(prior_mean[i]), load(prior_logvar[i]));
    by_mean[i] = s.mean;
    by_logvar[i] = s.logvar;
    by_prior_logvar[i] = s.prior_logvar;
  }
}

template <typename T, typename A>
GENKERN_INLINE void store_loop(const A* __restrict from, T* __restrict to, int64_t n, A sign) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = store<T>(sign * from[i]);
}

// One copy of each loop for each storage type; float64 ones exist for exactness, not for speed.
#define GENKERN_DEFINE(T, A, CLONES)                                                                               \
  CLONES double sum(const T* mean, const T* logvar, const T* prior_mean, const T* prior_logvar, int64_t n) {       \
    return sum_loop<T, A>(mean, logvar, prior_mean, prior_logvar, n);                                              \
  }                                                                                                                \
  CLONES void all_slopes(A g, const T* mean, const T* logvar, const T* prior_mean, const T* prior_logvar,          \
                         A* by_mean, A* by_logvar, A* by_prior_logvar, int64_t n) {                                \
    slopes_loop<T, A>(g, mean, logvar, prior_mean, prior_logvar, by_mean, by_logvar, by_prior_logvar, n);          \
  }                                                                                                                \
  CLONES void put(const A* from, T* to, int64_t n, A sign) { store_loop<T, A>(from, to, n, sign); }
GENKERN_DEFINE(float, float, GENKERN_CLONES)
GENKERN_DEFINE(Half, float, GENKERN_CLONES)
GENKERN_DEFINE(BFloat16, float, GENKERN_CLONES)
GENKERN_DEFINE(double, double, )

// Calls f(sample, offset of its data, slot of its part, elements) for every sample of stretches [begin, end).
template <typename F>
void each(const Inputs& call, int64_t begin, int64_t end, const F& f) {
  const Stages stages(call.batch, call.elements);
  for (int64_t u = begin; u < end; u++) {
    const Stretch part = stages.stretch(u);
    for (int64_t b = part.sample; b < part.sample + part.samples; b++)
      f(b, b * call.elements + part.first, b * stages.parts + u % stages.parts, part.count);
  }
}

}  // namespace

template <typename T>
void forward(const Inputs& call, double* sums, int64_t begin, int64_t end) {
  const T *mean = static_cast<const T*>(call.mean), *logvar = static_cast<const T*>(call.logvar);
  const T *prior_mean = static_cast<const T*>(call.prior_mean),
          *prior_logvar = static_cast<const T*>(call.prior_logvar);
  each(call, begin, end, [=](int64_t, int64_t at, int64_t slot, int64_t n) {
    sums[slot] = sum(mean + at, logvar + at, prior_mean + at, prior_logvar + at, n);
  });
}

template <typename T>
void backward(const Inputs& call, const Gradients& to, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const T *mean = static_cast<const T*>(call.mean), *logvar = static_cast<const T*>(call.logvar);
  const T *prior_mean = static_cast<const T*>(call.prior_mean),
          *prior_logvar = static_cast<const T*>(call.prior_logvar);
  A by_mean[STAGE], by_logvar[STAGE], by_prior_logvar[STAGE];
  each(call, begin, end, [&](int64_t b, int64_t at, int64_t, int64_t n) {
    const A g = static_cast<const A*>(to.grad)[b];
    all_slopes(g, mean + at, logvar + at, prior_mean + at, prior_logvar + at, by_mean, by_logvar, by_prior_logvar, n);
    if (to.mean) put(by_mean, static_cast<T*>(to.mean) + at, n, A(1));
    if (to.logvar) put(by_logvar, static_cast<T*>(to.logvar) + at, n, A(1));
    if (to.prior_mean) put(by_mean, static_cast<T*>(to.prior_mean) + at, n, A(-1));
    if (to.prior_logvar) put(by_prior_logvar, static_cast<T*>(to.prior_logvar) + at, n, A(1));
  });
}

#define GENKERN_INSTANTIATE(T)                                         \
  template void forward<T>(const Inputs&, double*, int64_t, int64_t); \
  template void backward<T>(const Inputs&, const Gradients&, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::gaussian_kl
