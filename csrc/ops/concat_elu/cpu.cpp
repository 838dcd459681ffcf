#include <algorithm>

#include "concat_elu.h"

namespace genkern::concat_elu {
namespace {

template <typename T>
GENKERN_INLINE void forward_loop(const T* __restrict x, T* __restrict first, T* __restrict second, int64_t n) {
  using A = arithmetic_t<T>;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A value = load(x[i]), m = expm1_nonpositive(-absolute(value));
    first[i] = store<T>(value > A(0) ? value : m);
    second[i] = store<T>(value < A(0) ? -value : m);
  }
}

template <typename T>
GENKERN_INLINE void backward_loop(const T* __restrict first, const T* __restrict second, const T* __restrict x,
                                  T* __restrict grad_x, int64_t n) {
  using A = arithmetic_t<T>;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A value = load(x[i]), slope = exp(-absolute(value)), a = load(first[i]), b = load(second[i]);
    grad_x[i] = store<T>((value > A(0) ? a : a * slope) - (value < A(0) ? b : b * slope));
  }
}

#define GENKERN_DEFINE(T, CLONES)                                                          \
  CLONES void run(const T* x, T* first, T* second, int64_t n) {                            \
    forward_loop<T>(x, first, second, n);                                                  \
  }                                                                                        \
  CLONES void run_back(const T* first, const T* second, const T* x, T* grad_x, int64_t n) { \
    backward_loop<T>(first, second, x, grad_x, n);                                         \
  }
GENKERN_DEFINE(float, GENKERN_CLONES)
GENKERN_DEFINE(Half, GENKERN_CLONES)
GENKERN_DEFINE(BFloat16, GENKERN_CLONES)
GENKERN_DEFINE(double, )

// Calls f(offset in x, offset in y, elements) for each piece of a row in [begin, end).
template <typename F>
void pieces(int64_t length, int64_t begin, int64_t end, const F& f) {
  for (int64_t i = begin; i < end;) {
    const int64_t row = i / length, n = std::min(end, (row + 1) * length) - i;
    f(i, i + row * length, n);
    i += n;
  }
}

}  // namespace

template <typename T>
void forward(const T* x, T* y, int64_t length, int64_t begin, int64_t end) {
  pieces(length, begin, end, [=](int64_t i, int64_t o, int64_t n) { run(x + i, y + o, y + o + length, n); });
}

template <typename T>
void backward(const T* grad_y, const T* x, T* grad_x, int64_t length, int64_t begin, int64_t end) {
  pieces(length, begin, end,
         [=](int64_t i, int64_t o, int64_t n) { run_back(grad_y + o, grad_y + o + length, x + i, grad_x + i, n); });
}

#define GENKERN_INSTANTIATE(T)                                             \
  template void forward<T>(const T*, T*, int64_t, int64_t, int64_t);       \
  template void backward<T>(const T*, const T*, T*, int64_t, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::concat_elu
