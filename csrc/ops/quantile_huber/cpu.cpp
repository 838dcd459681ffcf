#include <algorithm>

#include "quantile_huber.h"

namespace genkern::quantile_huber {
namespace {

template <typename T, typename A>
GENKERN_INLINE void forward_loop(const T* __restrict x, const T* __restrict q, const T* __restrict tau, A kappa,
                                 A* __restrict loss, int64_t n) {
  const A curvature = A(0.5) / kappa, half = A(0.5) * kappa;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A u = load(x[i]) - load(q[i]), weight = load(tau[i]) - (u < A(0) ? A(1) : A(0)), size = absolute(u);
    loss[i] = absolute(weight) * (size <= kappa ? u * u * curvature : size - half);
  }
}

template <bool x_too, bool q_too, bool tau_too, typename T, typename A>
GENKERN_INLINE void backward_loop(const A* __restrict grad, const T* __restrict x, const T* __restrict q,
                                  const T* __restrict tau, A kappa, T* __restrict grad_x, T* __restrict grad_q,
                                  T* __restrict grad_tau, int64_t n) {
  const A curvature = A(0.5) / kappa, half = A(0.5) * kappa, inverse = A(1) / kappa;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A u = load(x[i]) - load(q[i]), weight = load(tau[i]) - (u < A(0) ? A(1) : A(0)), size = absolute(u);
    const bool inside = size <= kappa;
    const A slope = inside ? u * inverse : (u < A(0) ? A(-1) : A(1)), g = grad[i] * absolute(weight) * slope;
    if constexpr (x_too) grad_x[i] = store<T>(g);
    if constexpr (q_too) grad_q[i] = store<T>(-g);
    const A sign = weight > A(0) ? A(1) : (weight < A(0) ? A(-1) : A(0));
    if constexpr (tau_too) grad_tau[i] = store<T>(grad[i] * sign * (inside ? u * u * curvature : size - half));
  }
}

#define GENKERN_DEFINE_BACK(T, A, X, Q, TAU)                                                                       \
  GENKERN_CLONES void back_##X##Q##TAU(const A* grad, const T* x, const T* q, const T* tau, A kappa, T* grad_x,    \
                                       T* grad_q, T* grad_tau, int64_t n) {                                        \
    backward_loop<X, Q, TAU, T, A>(grad, x, q, tau, kappa, grad_x, grad_q, grad_tau, n);                           \
  }
#define GENKERN_DEFINE(T, A)                                                                                       \
  GENKERN_CLONES void run(const T* x, const T* q, const T* tau, A kappa, A* loss, int64_t n) {                     \
    forward_loop<T, A>(x, q, tau, kappa, loss, n);                                                                 \
  }                                                                                                                \
  GENKERN_DEFINE_BACK(T, A, 0, 1, 0)                                                                               \
  GENKERN_DEFINE_BACK(T, A, 1, 1, 0)                                                                               \
  GENKERN_DEFINE_BACK(T, A, 1, 1, 1)
GENKERN_DEFINE(float, float)
GENKERN_DEFINE(double, double)
GENKERN_DEFINE(Half, float)
GENKERN_DEFINE(BFloat16, float)

}  // namespace

template <typename T>
void forward(const T* x, const T* q, const T* tau, double kappa, arithmetic_t<T>* loss, int64_t begin, int64_t end) {
  run(x + begin, q + begin, tau + begin, arithmetic_t<T>(kappa), loss + begin, end - begin);
}

template <typename T>
void backward(const arithmetic_t<T>* grad, const T* x, const T* q, const T* tau, double kappa, T* grad_x, T* grad_q,
              T* grad_tau, int64_t begin, int64_t end) {
  constexpr int64_t PIECE = 1024;
  T unwanted[3 * PIECE];  // the quantiles' gradient is what is usually wanted; the rarer sets write some in vain
  const auto k = arithmetic_t<T>(kappa);
  for (int64_t i = begin; i < end; i += PIECE) {
    const int64_t n = std::min(PIECE, end - i);
    T *to_x = grad_x ? grad_x + i : unwanted, *to_q = grad_q ? grad_q + i : unwanted + PIECE,
      *to_tau = grad_tau ? grad_tau + i : unwanted + 2 * PIECE;
    if (grad_tau != nullptr)
      back_111(grad + i, x + i, q + i, tau + i, k, to_x, to_q, to_tau, n);
    else if (grad_x != nullptr)
      back_110(grad + i, x + i, q + i, tau + i, k, to_x, to_q, to_tau, n);
    else
      back_010(grad + i, x + i, q + i, tau + i, k, to_x, to_q, to_tau, n);
  }
}

#define GENKERN_INSTANTIATE(T)                                                                                     \
  template void forward<T>(const T*, const T*, const T*, double, arithmetic_t<T>*, int64_t, int64_t);              \
  template void backward<T>(const arithmetic_t<T>*, const T*, const T*, const T*, double, T*, T*, T*, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::quantile_huber
