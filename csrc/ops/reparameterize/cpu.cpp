#include "../../common/reduce.h"
#include "../random/staged.h"
#include "reparameterize.h"

namespace genkern::reparameterize {
namespace {

template <typename T, typename A>
GENKERN_INLINE void unit_loop(const T* __restrict mean, const T* __restrict logvar, const A* __restrict noise,
                              T* __restrict z, A* __restrict kl, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const Draw<A> d = draw<A>(load(mean[i]), load(logvar[i]), noise[i]);
    z[i] = store<T>(d.z);
    kl[i] = d.kl;
  }
}

template <typename T, typename A>
GENKERN_INLINE void prior_loop(const T* __restrict mean, const T* __restrict logvar, const T* __restrict prior_mean,
                               const T* __restrict prior_logvar, const A* __restrict noise, T* __restrict z,
                               A* __restrict kl, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const Draw<A> d = draw<A>(load(mean[i]), load(logvar[i]), noise[i], load(prior_mean[i]), load(prior_logvar[i]));
    z[i] = store<T>(d.z);
    kl[i] = d.kl;
  }
}

template <typename T, typename A>
GENKERN_INLINE void unit_backward_loop(const T* __restrict grad_z, const A* __restrict grad_kl,
                                       const T* __restrict mean, const T* __restrict logvar, const A* __restrict noise,
                                       T* __restrict grad_mean, T* __restrict grad_logvar, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const Gradients<A> g = gradients<A>(load(grad_z[i]), grad_kl[i], load(mean[i]), load(logvar[i]), noise[i]);
    grad_mean[i] = store<T>(g.mean);
    grad_logvar[i] = store<T>(g.logvar);
  }
}

template <typename T, typename A>
GENKERN_INLINE void prior_backward_loop(const T* __restrict grad_z, const A* __restrict grad_kl,
                                        const T* __restrict mean, const T* __restrict logvar,
                                        const T* __restrict prior_mean, const T* __restrict prior_logvar,
                                        const A* __restrict noise, T* __restrict grad_mean, T* __restrict grad_logvar,
                                        T* __restrict grad_prior_mean, T* __restrict grad_prior_logvar, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const Gradients<A> g = gradients<A>(load(grad_z[i]), grad_kl[i], load(mean[i]), load(logvar[i]), noise[i],
                                        load(prior_mean[i]), load(prior_logvar[i]));
    grad_mean[i] = store<T>(g.mean);
    grad_logvar[i] = store<T>(g.logvar);
    grad_prior_mean[i] = store<T>(g.prior_mean);
    grad_prior_logvar[i] = store<T>(g.prior_logvar);
  }
}

template <typename A>
GENKERN_INLINE double sum_loop(const A* values, int64_t n) {
  return sum_over<A>(n, [=](int64_t i) { return values[i]; });
}

// One copy of each loop for each storage type; float64 ones exist for exactness, not for speed.
#define GENKERN_DEFINE(T, A, CLONES)                                                                                 \
  CLONES void unit(const T* mean, const T* logvar, const A* noise, T* z, A* kl, int64_t n) {                         \
    unit_loop<T, A>(mean, logvar, noise, z, kl, n);                                                                  \
  }                                                                                                                  \
  CLONES void prior(const T* mean, const T* logvar, const T* prior_mean, const T* prior_logvar, const A* noise,      \
                    T* z, A* kl, int64_t n) {                                                                        \
    prior_loop<T, A>(mean, logvar, prior_mean, prior_logvar, noise, z, kl, n);                                       \
  }                                                                                                                  \
  CLONES void unit_backward(const T* grad_z, const A* grad_kl, const T* mean, const T* logvar, const A* noise,       \
                            T* grad_mean, T* grad_logvar, int64_t n) {                                               \
    unit_backward_loop<T, A>(grad_z, grad_kl, mean, logvar, noise, grad_mean, grad_logvar, n);                       \
  }                                                                                                                  \
  CLONES void prior_backward(const T* grad_z, const A* grad_kl, const T* mean, const T* logvar, const T* prior_mean, \
                             const T* prior_logvar, const A* noise, T* grad_mean, T* grad_logvar,                    \
                             T* grad_prior_mean, T* grad_prior_logvar, int64_t n) {                                  \
    prior_backward_loop<T, A>(grad_z, grad_kl, mean, logvar, prior_mean, prior_logvar, noise, grad_mean,             \
                              grad_logvar, grad_prior_mean, grad_prior_logvar, n);                                   \
  }
GENKERN_DEFINE(float, float, GENKERN_CLONES)
GENKERN_DEFINE(Half, float, GENKERN_CLONES)
GENKERN_DEFINE(BFloat16, float, GENKERN_CLONES)
GENKERN_DEFINE(double, double, )

GENKERN_CLONES double total_of(const float* values, int64_t n) { return sum_loop(values, n); }
double total_of(const double* values, int64_t n) { return sum_loop(values, n); }

template <typename T>
const T* at(const void* data, int64_t stride, int64_t sample, int64_t first) {
  return data == nullptr ? nullptr : static_cast<const T*>(data) + sample * stride + first;
}

// Whether samples follow each other in all inputs, so that several of them are one run.
bool packed(const Call& call) {
  const int64_t n = call.elements;
  const bool own = call.mean_stride == n && call.logvar_stride == n;
  return own && (call.prior_mean == nullptr || (call.prior_mean_stride == n && call.prior_logvar_stride == n));
}

// f(sample, samples, first, n, noise) for runs of n elements at `first` of one sample, or of several whole samples.
template <typename A, typename F>
void staged(const Call& call, int64_t begin, int64_t end, const F& f) {
  A noise[STAGE];
  const int64_t elements = call.elements, together = samples_of_stage(elements);
  const bool one_run = packed(call);
  for (int64_t b = begin; b < end; b += together) {
    const int64_t samples = std::min(together, end - b);
    for (int64_t first = 0; first < elements; first += STAGE) {
      const int64_t n = std::min(STAGE, elements - first);
      draw_stage<Normal>(call.key, call.sample_offset + b, samples, elements, first, n, noise);
      if (one_run) {
        f(b, samples, first, samples * n, noise);
      } else {
        for (int64_t s = 0; s < samples; s++) f(b + s, 1, first, n, noise + s * n);
      }
    }
  }
}

}  // namespace

template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int64_t elements = call.elements;
  A* const kl = static_cast<A*>(call.kl);
  A stage[STAGE];
  double total = 0;
  staged<A>(call, begin, end, [&](int64_t b, int64_t samples, int64_t first, int64_t n, const A* noise) {
    const T *mean = at<T>(call.mean, call.mean_stride, b, first),
            *logvar = at<T>(call.logvar, call.logvar_stride, b, first);
    T* const z = static_cast<T*>(call.z) + b * elements + first;
    A* const terms = call.per_element ? kl + b * elements + first : stage;
    if (call.prior_mean == nullptr) {
      unit(mean, logvar, noise, z, terms, n);
    } else {
      prior(mean, logvar, at<T>(call.prior_mean, call.prior_mean_stride, b, first),
            at<T>(call.prior_logvar, call.prior_logvar_stride, b, first), noise, z, terms, n);
    }
    if (call.per_element) return;
    const int64_t length = n / samples;
    for (int64_t s = 0; s < samples; s++) {
      total = (first == 0 ? 0 : total) + total_of(terms + s * length, length);
      kl[b + s] = A(total);
    }
  });
}

template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int64_t elements = call.elements;
  const A* const grad_kl = static_cast<const A*>(call.grad_kl);
  A stage[STAGE];
  staged<A>(call, begin, end, [&](int64_t b, int64_t samples, int64_t first, int64_t n, const A* noise) {
    const int64_t here = b * elements + first, length = n / samples;
    const A* weights = grad_kl + here;
    if (!call.per_element) {
      for (int64_t s = 0; s < samples; s++) std::fill_n(stage + s * length, length, grad_kl[b + s]);
      weights = stage;
    }
    const T *grad_z = static_cast<const T*>(call.grad_z) + here, *mean = at<T>(call.mean, call.mean_stride, b, first),
            *logvar = at<T>(call.logvar, call.logvar_stride, b, first);
    T *grad_mean = static_cast<T*>(call.grad_mean) + here, *grad_logvar = static_cast<T*>(call.grad_logvar) + here;
    if (call.prior_mean == nullptr) {
      unit_backward(grad_z, weights, mean, logvar, noise, grad_mean, grad_logvar, n);
    } else {
      prior_backward(grad_z, weights, mean, logvar, at<T>(call.prior_mean, call.prior_mean_stride, b, first),
                     at<T>(call.prior_logvar, call.prior_logvar_stride, b, first), noise, grad_mean, grad_logvar,
                     static_cast<T*>(call.grad_prior_mean) + here, static_cast<T*>(call.grad_prior_logvar) + here, n);
    }
  });
}

template void forward<float>(const Forward&, int64_t, int64_t);
template void forward<double>(const Forward&, int64_t, int64_t);
template void forward<Half>(const Forward&, int64_t, int64_t);
template void forward<BFloat16>(const Forward&, int64_t, int64_t);
template void backward<float>(const Backward&, int64_t, int64_t);
template void backward<double>(const Backward&, int64_t, int64_t);
template void backward<Half>(const Backward&, int64_t, int64_t);
template void backward<BFloat16>(const Backward&, int64_t, int64_t);

}  // namespace genkern::reparameterize
