#include "../../common/reduce.h"
#include "gaussian_log_prob.h"

namespace genkern::gaussian_log_prob {
namespace {

constexpr double HALF_LN_2PI = 0.91893853320467274178;

template <typename T, typename A>
GENKERN_INLINE double standard_loop(const T* x, int64_t n) {
  return A(-0.5) * sum_over<A>(n, [=](int64_t i) { return load(x[i]) * load(x[i]); });
}

template <typename T, typename A>
GENKERN_INLINE double gaussian_loop(const T* x, const T* mean, const T* log_std, int64_t n) {
  return sum_over<A>(n, [=](int64_t i) { return term<A>(load(x[i]), load(mean[i]), load(log_std[i])); });
}

template <typename T, typename A>
GENKERN_INLINE void standard_backward_loop(A grad, const T* __restrict x, T* __restrict grad_x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) grad_x[i] = store<T>(-grad * load(x[i]));
}

template <typename T, typename A>
GENKERN_INLINE void gaussian_backward_loop(A grad, const T* __restrict x, const T* __restrict mean,
                                           const T* __restrict log_std, T* __restrict grad_x, T* __restrict grad_mean,
                                           T* __restrict grad_log_std, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const Gradients<A> g = gradients<A>(grad, load(x[i]), load(mean[i]), load(log_std[i]));
    grad_x[i] = store<T>(g.x);
    grad_mean[i] = store<T>(g.mean);
    grad_log_std[i] = store<T>(g.log_std);
  }
}

// One copy of each loop for each storage type; float64 ones exist for exactness, not for speed.
#define GENKERN_DEFINE(T, A, CLONES)                                                                             \
  CLONES double standard(const T* x, int64_t n) { return standard_loop<T, A>(x, n); }                            \
  CLONES double gaussian(const T* x, const T* mean, const T* log_std, int64_t n) {                               \
    return gaussian_loop<T, A>(x, mean, log_std, n);                                                             \
  }                                                                                                              \
  CLONES void standard_backward(A grad, const T* x, T* grad_x, int64_t n) {                                      \
    standard_backward_loop<T, A>(grad, x, grad_x, n);                                                            \
  }                                                                                                              \
  CLONES void gaussian_backward(A grad, const T* x, const T* mean, const T* log_std, T* grad_x, T* grad_mean,    \
                                T* grad_log_std, int64_t n) {                                                    \
    gaussian_backward_loop<T, A>(grad, x, mean, log_std, grad_x, grad_mean, grad_log_std, n);                    \
  }
GENKERN_DEFINE(float, float, GENKERN_CLONES)
GENKERN_DEFINE(Half, float, GENKERN_CLONES)
GENKERN_DEFINE(BFloat16, float, GENKERN_CLONES)
GENKERN_DEFINE(double, double, )

}  // namespace

template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const T *x = static_cast<const T*>(call.x), *mean = static_cast<const T*>(call.mean),
          *log_std = static_cast<const T*>(call.log_std);
  const int64_t n = call.elements;
  for (int64_t b = begin; b < end; b++) {
    const double total = mean == nullptr
                             ? standard(x + b * n, n)
                             : gaussian(x + b * n, mean + b * call.mean_stride, log_std + b * call.log_std_stride, n);
    static_cast<A*>(call.log_prob)[b] = A(total - HALF_LN_2PI * double(n));
  }
}

template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const T *x = static_cast<const T*>(call.x), *mean = static_cast<const T*>(call.mean),
          *log_std = static_cast<const T*>(call.log_std);
  T *grad_x = static_cast<T*>(call.grad_x), *grad_mean = static_cast<T*>(call.grad_mean),
    *grad_log_std = static_cast<T*>(call.grad_log_std);
  const int64_t n = call.elements;
  for (int64_t b = begin; b < end; b++) {
    const A grad = static_cast<const A*>(call.grad)[b];
    if (mean == nullptr) {
      standard_backward(grad, x + b * n, grad_x + b * n, n);
    } else {
      gaussian_backward(grad, x + b * n, mean + b * call.mean_stride, log_std + b * call.log_std_stride, grad_x + b * n,
                        grad_mean + b * n, grad_log_std + b * n, n);
    }
  }
}

template void forward<float>(const Forward&, int64_t, int64_t);
template void forward<double>(const Forward&, int64_t, int64_t);
template void forward<Half>(const Forward&, int64_t, int64_t);
template void forward<BFloat16>(const Forward&, int64_t, int64_t);
template void backward<float>(const Backward&, int64_t, int64_t);
template void backward<double>(const Backward&, int64_t, int64_t);
template void backward<Half>(const Backward&, int64_t, int64_t);
template void backward<BFloat16>(const Backward&, int64_t, int64_t);

}  // namespace genkern::gaussian_log_prob
