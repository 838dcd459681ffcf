#include "bins.h"

namespace genkern::discretized_gaussian {
namespace {

// Stored and then summed: as one loop it would not be vectorised.
template <Cdf cdf, typename A>
GENKERN_INLINE double sum_loop(const A* __restrict x, const A* __restrict mean, const A* __restrict log_std, int64_t n,
                               A h, A log_width) {
  A log_prob[STAGE];
#pragma omp simd
  for (int64_t i = 0; i < n; i++) log_prob[i] = log_bin<cdf, false>(x[i], mean[i], log_std[i], h, log_width).log_prob;
  return sum_over<A>(n, [&](int64_t i) { return log_prob[i]; });
}

template <Cdf cdf, typename A>
GENKERN_INLINE void slopes_loop(const A* __restrict x, const A* __restrict mean, const A* __restrict log_std, int64_t n,
                                A h, A log_width, A* __restrict by_mean, A* __restrict by_log_std) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const Bin<A> bin = log_bin<cdf, true>(x[i], mean[i], log_std[i], h, log_width);
    by_mean[i] = bin.mean;
    by_log_std[i] = bin.log_std;
  }
}

#define GENKERN_DEFINE(A, CLONES)                                                                       \
  CLONES double sum_tanh(const A* x, const A* mean, const A* log_std, int64_t n, A h, A w) {            \
    return sum_loop<Cdf::tanh>(x, mean, log_std, n, h, w);                                              \
  }                                                                                                     \
  CLONES double sum_erf(const A* x, const A* mean, const A* log_std, int64_t n, A h, A w) {             \
    return sum_loop<Cdf::erf>(x, mean, log_std, n, h, w);                                               \
  }                                                                                                     \
  CLONES void slopes_tanh(const A* x, const A* mean, const A* log_std, int64_t n, A h, A w, A* by_mean, \
                          A* by_log_std) {                                                              \
    slopes_loop<Cdf::tanh>(x, mean, log_std, n, h, w, by_mean, by_log_std);                             \
  }                                                                                                     \
  CLONES void slopes_erf(const A* x, const A* mean, const A* log_std, int64_t n, A h, A w, A* by_mean,  \
                         A* by_log_std) {                                                               \
    slopes_loop<Cdf::erf>(x, mean, log_std, n, h, w, by_mean, by_log_std);                              \
  }
GENKERN_DEFINE(float, GENKERN_CLONES)
GENKERN_DEFINE(double, )

template <typename A>
A half_width(int64_t levels) {
  return A(1.0 / double(levels - 1));
}
template <typename A>
A log_width(int64_t levels) {
  return A(std::log(2.0 / double(levels - 1)));
}

}  // namespace

#define GENKERN_CHOOSE(A)                                                                                        \
  double sum_of_bins(Cdf cdf, const A* x, const A* mean, const A* log_std, int64_t n, int64_t levels) { \
    const A h = half_width<A>(levels), w = log_width<A>(levels);                                                 \
    return cdf == Cdf::tanh ? sum_tanh(x, mean, log_std, n, h, w)                                        \
                            : sum_erf(x, mean, log_std, n, h, w);                                        \
  }                                                                                                              \
  void slopes_of_bins(Cdf cdf, const A* x, const A* mean, const A* log_std, int64_t n, int64_t levels, \
                      A* by_mean, A* by_log_std) {                                                               \
    const A h = half_width<A>(levels), w = log_width<A>(levels);                                                 \
    if (cdf == Cdf::tanh)                                                                                        \
      slopes_tanh(x, mean, log_std, n, h, w, by_mean, by_log_std);                                       \
    else                                                                                                         \
      slopes_erf(x, mean, log_std, n, h, w, by_mean, by_log_std);                                        \
  }
GENKERN_CHOOSE(float)
GENKERN_CHOOSE(double)

namespace {

// Calls f(sample, offset of its data, numbers, slot of its part) for every sample of stretches [begin, end).
template <typename F>
void each_part(int64_t batch, int64_t elements, int64_t begin, int64_t end, const F& f) {
  const Stages stages(batch, elements);
  for (int64_t u = begin; u < end; u++) {
    const Stretch part = stages.stretch(u);
    for (int64_t b = part.sample; b < part.sample + part.samples; b++)
      f(b, b * elements + part.first, part.count, b * stages.parts + u % stages.parts);
  }
}

// The scales of a part, one for each number.
template <typename T, typename A>
const A* scales(const Bins& call, int64_t b, int64_t at, int64_t n, A* copy) {
  if (!call.shared) return widened<T>(call.log_std, at, n, copy);
  std::fill(copy, copy + n, load(static_cast<const T*>(call.log_std)[b]));
  return copy;
}

}  // namespace

template <typename T>
void forward(const Bins& call, double* sums, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  A xs[STAGE], means[STAGE], log_stds[STAGE];
  each_part(call.batch, call.elements, begin, end, [&](int64_t b, int64_t at, int64_t n, int64_t slot) {
    const A* const log_std = scales<T>(call, b, at, n, log_stds);
    sums[slot] = sum_of_bins(call.cdf, widened<T>(call.x, at, n, xs), widened<T>(call.mean, at, n, means), log_std, n,
                             call.levels);
  });
}

template <typename T>
void backward(const Bins& call, const BinGradients& to, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  A xs[STAGE], means[STAGE], log_stds[STAGE], by_mean[STAGE], by_log_std[STAGE];
  each_part(call.batch, call.elements, begin, end, [&](int64_t b, int64_t at, int64_t n, int64_t) {
    const A* const log_std = scales<T>(call, b, at, n, log_stds);
    slopes_of_bins(call.cdf, widened<T>(call.x, at, n, xs), widened<T>(call.mean, at, n, means), log_std, n,
                   call.levels, by_mean, by_log_std);
    const A g = static_cast<const A*>(to.grad)[b];
    if (to.x) store_loop(by_mean, static_cast<T*>(to.x) + at, n, -g);
    if (to.mean) store_loop(by_mean, static_cast<T*>(to.mean) + at, n, g);
    if (to.log_std) store_loop(by_log_std, static_cast<T*>(to.log_std) + at, n, g);
  });
}

#define GENKERN_INSTANTIATE(T)                                          \
  template void forward<T>(const Bins&, double*, int64_t, int64_t);     \
  template void backward<T>(const Bins&, const BinGradients&, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::discretized_gaussian
