#include "fold.h"

#include <cmath>
#include <vector>

namespace genkern::invertible_conv1x1 {
namespace {

// One row of W: of W', and its part of b'.
template <typename T, typename A>
GENKERN_INLINE A row(int64_t n, const T* __restrict weight, const A* __restrict scale, const A* __restrict shift,
                     T* __restrict folded) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; j++) {
    const A w = load(weight[j]);
    folded[j] = store<T>(w * scale[j]);
    sum += double(w) * double(shift[j]);
  }
  return A(sum);
}

// One row of g_W, and its part of g_s and g_b; `plain` and `scaled` are the bias where it is added after and before
// the scale, and 0 otherwise.
template <typename T, typename A>
GENKERN_INLINE void row_gradient(int64_t n, const T* __restrict weight, const T* __restrict grad, A grad_shift,
                                 const A* __restrict scale, const A* __restrict plain, const A* __restrict scaled,
                                 T* __restrict of_weight, double* __restrict of_log_scale, double* __restrict of_bias) {
#pragma omp simd
  for (int64_t j = 0; j < n; j++) {
    const A w = load(weight[j]), g = load(grad[j]) + grad_shift * scaled[j];
    of_weight[j] = store<T>(g * scale[j] + grad_shift * plain[j]);
    of_log_scale[j] += double(g) * double(w);
    of_bias[j] += double(grad_shift) * double(w);
  }
}

#define GENKERN_ROWS_OF(T)                                                                                         \
  GENKERN_CLONES arithmetic_t<T> row_of(int64_t n, const T* weight, const arithmetic_t<T>* scale,                  \
                                        const arithmetic_t<T>* shift, T* folded) {                                 \
    return row(n, weight, scale, shift, folded);                                                                   \
  }                                                                                                                \
  GENKERN_CLONES void row_gradient_of(int64_t n, const T* weight, const T* grad, arithmetic_t<T> grad_shift,       \
                                      const arithmetic_t<T>* scale, const arithmetic_t<T>* plain,                  \
                                      const arithmetic_t<T>* scaled, T* of_weight, double* s, double* b) {         \
    row_gradient(n, weight, grad, grad_shift, scale, plain, scaled, of_weight, s, b);                              \
  }
GENKERN_ROWS_OF(float)
GENKERN_ROWS_OF(double)
GENKERN_ROWS_OF(Half)
GENKERN_ROWS_OF(BFloat16)

}  // namespace

template <typename T>
double fold(const Fold<T>& call) {
  using A = arithmetic_t<T>;
  const int64_t n = call.n;
  std::vector<A> scale(n), shift(n);
  double total = 0;
  for (int64_t j = 0; j < n; j++) {
    scale[j] = std::exp(load(call.log_scale[j]));
    shift[j] = load(call.bias[j]) * (call.shift_first ? scale[j] : A(1));
    total += double(load(call.log_scale[j]));
  }
  for (int64_t i = 0; i < n; i++)
    call.shift[i] = store<T>(row_of(n, call.weight + i * n, scale.data(), shift.data(), call.folded + i * n));
  return total;
}

template <typename T>
void fold_gradients(const FoldGradients<T>& call) {
  using A = arithmetic_t<T>;
  const int64_t n = call.n;
  std::vector<A> scale(n), plain(n), scaled(n);
  std::vector<double> of_log_scale(n), of_bias(n);
  for (int64_t j = 0; j < n; j++) {
    scale[j] = std::exp(load(call.log_scale[j]));
    (call.shift_first ? scaled : plain)[j] = load(call.bias[j]);
  }
  for (int64_t i = 0; i < n; i++)
    row_gradient_of(n, call.weight + i * n, call.grad_folded + i * n, load(call.grad_shift[i]), scale.data(),
                    plain.data(), scaled.data(), call.of_weight + i * n, of_log_scale.data(), of_bias.data());
  for (int64_t j = 0; j < n; j++) {
    call.of_log_scale[j] = store<T>(A(of_log_scale[j] * double(scale[j]) + call.grad_log_abs_det));
    call.of_bias[j] = store<T>(A(of_bias[j] * (call.shift_first ? double(scale[j]) : 1.0)));
  }
}

#define GENKERN_INSTANTIATE(T)              \
  template double fold<T>(const Fold<T>&); \
  template void fold_gradients<T>(const FoldGradients<T>&);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::invertible_conv1x1
