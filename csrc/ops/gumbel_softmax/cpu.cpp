#include <vector>

#include "../../common/reduce.h"
#include "../random/staged.h"
#include "gumbel_softmax.h"

namespace genkern::gumbel_softmax {
namespace {

constexpr int64_t SHORT = 32;  // rows of fewer classes than this are turned into columns, to fill a vector
constexpr int64_t WIDTH = 64;  // rows at a time

// Uniform noise becomes (l + g) / T in place.
template <typename T, typename A>
GENKERN_INLINE void perturb_loop(const T* __restrict logits, A* __restrict u, int64_t n, A inverse) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) u[i] = perturbed<A>(load(logits[i]), u[i], inverse);
}

template <typename A>
GENKERN_INLINE A largest(const A* __restrict x, int64_t n) {
  A lanes[LANES];
  for (int j = 0; j < LANES; j++) lanes[j] = x[0];
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
#pragma omp simd
    for (int j = 0; j < LANES; j++) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  }
  for (; i < n; i++) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
  for (int j = 1; j < LANES; j++) lanes[0] = lanes[j] > lanes[0] ? lanes[j] : lanes[0];
  return lanes[0];
}

// Softmax, in place, of a row; or the one-hot vector of its largest.
template <typename A>
GENKERN_INLINE void row_loop(A* __restrict x, int64_t classes, bool hard) {
  const A top = largest(x, classes);
  if (hard) {
    int64_t chosen = 0;
    while (chosen + 1 < classes && !(x[chosen] == top)) chosen++;
    std::fill_n(x, classes, A(0));
    x[chosen] = A(1);
    return;
  }
  const A scale = A(1) / A(sum_over<A>(classes, [=](int64_t v) { return x[v] = exp(x[v] - top); }));
#pragma omp simd
  for (int64_t v = 0; v < classes; v++) x[v] *= scale;
}

// The same down the columns of [classes, inner].
template <typename A>
GENKERN_INLINE void column_loop(A* __restrict x, A* __restrict top, A* __restrict total, int64_t classes, int64_t inner,
                                bool hard) {
  for (int64_t i = 0; i < inner; i++) top[i] = x[i], total[i] = A(0);
  for (int64_t v = 1; v < classes; v++) {
#pragma omp simd
    for (int64_t i = 0; i < inner; i++) top[i] = x[v * inner + i] > top[i] ? x[v * inner + i] : top[i];
  }
  for (int64_t v = 0; v < classes; v++) {
    A* const row = x + v * inner;
    if (hard) {
#pragma omp simd
      for (int64_t i = 0; i < inner; i++) {
        row[i] = row[i] == top[i] && total[i] == A(0) ? A(1) : A(0);
        total[i] += row[i];
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < inner; i++) {
        row[i] = exp(row[i] - top[i]);
        total[i] += row[i];
      }
    }
  }
  if (hard) return;
  for (int64_t i = 0; i < inner; i++) total[i] = A(1) / total[i];
  for (int64_t v = 0; v < classes; v++) {
#pragma omp simd
    for (int64_t i = 0; i < inner; i++) x[v * inner + i] *= total[i];
  }
}

template <typename T, typename A>
GENKERN_INLINE void to_columns(const T* __restrict rows, A* __restrict columns, int64_t count, int64_t classes) {
  for (int64_t v = 0; v < classes; v++)
    for (int64_t r = 0; r < count; r++) columns[v * WIDTH + r] = load(rows[r * classes + v]);
}
template <typename A>
GENKERN_INLINE void to_rows(const A* __restrict columns, A* __restrict rows, int64_t count, int64_t classes) {
  for (int64_t r = 0; r < count; r++)
    for (int64_t v = 0; v < classes; v++) rows[r * classes + v] = columns[v * WIDTH + r];
}

template <typename A>
GENKERN_INLINE void rows_loop(A* x, int64_t rows, int64_t classes, bool hard) {
  if (classes >= SHORT) {
    for (int64_t r = 0; r < rows; r++) row_loop(x + r * classes, classes, hard);
    return;
  }
  A columns[SHORT * WIDTH] = {}, top[WIDTH], total[WIDTH];
  for (int64_t r = 0; r < rows; r += WIDTH) {
    const int64_t count = std::min(WIDTH, rows - r);
    to_columns(x + r * classes, columns, count, classes);
    column_loop(columns, top, total, classes, WIDTH, hard);
    to_rows(columns, x + r * classes, count, classes);
  }
}

// y becomes y (dy - sum dy y) / T.
template <typename T, typename A>
GENKERN_INLINE void row_backward_loop(A* __restrict y, const T* __restrict grad, int64_t classes, A inverse) {
  const A mean = A(sum_over<A>(classes, [=](int64_t v) { return load(grad[v]) * y[v]; }));
#pragma omp simd
  for (int64_t v = 0; v < classes; v++) y[v] *= (load(grad[v]) - mean) * inverse;
}

template <typename T, typename A>
GENKERN_INLINE void column_backward_loop(A* __restrict y, const T* __restrict grad, A* __restrict mean, int64_t classes,
                                         int64_t inner, A inverse) {
  for (int64_t i = 0; i < inner; i++) mean[i] = A(0);
  for (int64_t v = 0; v < classes; v++) {
#pragma omp simd
    for (int64_t i = 0; i < inner; i++) mean[i] += load(grad[v * inner + i]) * y[v * inner + i];
  }
  for (int64_t v = 0; v < classes; v++) {
#pragma omp simd
    for (int64_t i = 0; i < inner; i++) y[v * inner + i] *= (load(grad[v * inner + i]) - mean[i]) * inverse;
  }
}

template <typename T, typename A>
GENKERN_INLINE void rows_backward_loop(A* y, const T* grad, int64_t rows, int64_t classes, A inverse) {
  if (classes >= SHORT) {
    for (int64_t r = 0; r < rows; r++) row_backward_loop(y + r * classes, grad + r * classes, classes, inverse);
    return;
  }
  A columns[SHORT * WIDTH] = {}, grads[SHORT * WIDTH] = {}, mean[WIDTH];
  for (int64_t r = 0; r < rows; r += WIDTH) {
    const int64_t count = std::min(WIDTH, rows - r);
    to_columns(y + r * classes, columns, count, classes);
    to_columns(grad + r * classes, grads, count, classes);
    column_backward_loop(columns, grads, mean, classes, WIDTH, inverse);
    to_rows(columns, y + r * classes, count, classes);
  }
}

template <typename T, typename A>
GENKERN_INLINE void store_loop(const A* __restrict from, T* __restrict to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = store<T>(from[i]);
}

#define GENKERN_DEFINE(T, A, CLONES)                                                                          \
  CLONES void perturb(const T* logits, A* u, int64_t n, A inverse) { perturb_loop(logits, u, n, inverse); }   \
  CLONES void rows_backward(A* y, const T* grad, int64_t rows, int64_t classes, A inverse) {                  \
    rows_backward_loop(y, grad, rows, classes, inverse);                                                      \
  }                                                                                                           \
  CLONES void columns_backward(A* y, const T* grad, A* mean, int64_t classes, int64_t inner, A inverse) {     \
    column_backward_loop(y, grad, mean, classes, inner, inverse);                                             \
  }                                                                                                           \
  CLONES void put(const A* from, T* to, int64_t n) { store_loop(from, to, n); }
#define GENKERN_DEFINE_SOFTMAX(A, CLONES)                                                                     \
  CLONES void softmax_rows(A* x, int64_t rows, int64_t classes, bool hard) { rows_loop(x, rows, classes, hard); } \
  CLONES void softmax_columns(A* x, A* top, A* total, int64_t classes, int64_t inner, bool hard) {            \
    column_loop(x, top, total, classes, inner, hard);                                                         \
  }
GENKERN_DEFINE(float, float, GENKERN_CLONES)
GENKERN_DEFINE(Half, float, GENKERN_CLONES)
GENKERN_DEFINE(BFloat16, float, GENKERN_CLONES)
GENKERN_DEFINE(double, double, )
GENKERN_DEFINE_SOFTMAX(float, GENKERN_CLONES)
GENKERN_DEFINE_SOFTMAX(double, )

// f(offset, panels, uniform noise) for runs of whole panels [classes, inner]: about a stage, of one sample or several.
template <typename A, typename F>
void staged(const Call& call, int64_t begin, int64_t end, const F& f) {
  const int64_t panel = call.classes * call.inner, elements = call.elements();
  const int64_t together = samples_of_stage(elements),
                run = elements <= STAGE ? call.panels : std::max<int64_t>(STAGE / panel, 1);
  std::vector<A> noise(std::max(STAGE, run * panel) + 8);
  for (int64_t b = begin; b < end; b += together) {
    const int64_t samples = std::min(together, end - b);
    for (int64_t p = 0; p < call.panels; p += run) {
      const int64_t panels = std::min(run, call.panels - p), first = p * panel, last = first + panels * panel;
      const int64_t from = first / 4 * 4, to = std::min((last + 3) / 4 * 4, elements);  // whole counters
      draw_stage<Uniform>(call.key, call.sample_offset + b, samples, elements, from, to - from, noise.data());
      f(b * elements + first, samples * panels, noise.data() + (first - from));
    }
  }
}

// Soft or hard choices of some panels, in place of their noise.
template <typename T, typename A>
void choose(const Call& call, int64_t offset, int64_t panels, A* noise, bool hard, std::vector<A>& scratch) {
  const int64_t panel = call.classes * call.inner;
  perturb(static_cast<const T*>(call.logits) + offset, noise, panels * panel, A(1 / call.temperature));
  if (call.inner == 1) return softmax_rows(noise, panels, call.classes, hard);
  for (int64_t p = 0; p < panels; p++)
    softmax_columns(noise + p * panel, scratch.data(), scratch.data() + call.inner, call.classes, call.inner, hard);
}

}  // namespace

template <typename T>
void forward(const Call& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  std::vector<A> scratch(2 * call.inner);
  staged<A>(call, begin, end, [&](int64_t offset, int64_t panels, A* noise) {
    choose<T>(call, offset, panels, noise, call.hard, scratch);
    put(noise, static_cast<T*>(call.out) + offset, panels * call.classes * call.inner);
  });
}

template <typename T>
void backward(const Call& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  std::vector<A> scratch(2 * call.inner);
  const int64_t panel = call.classes * call.inner;
  const A inverse = A(1 / call.temperature);
  staged<A>(call, begin, end, [&](int64_t offset, int64_t panels, A* noise) {
    choose<T>(call, offset, panels, noise, false, scratch);
    const T* const grad = static_cast<const T*>(call.grad) + offset;
    if (call.inner == 1) {
      rows_backward(noise, grad, panels, call.classes, inverse);
    } else {
      for (int64_t p = 0; p < panels; p++)
        columns_backward(noise + p * panel, grad + p * panel, scratch.data(), call.classes, call.inner, inverse);
    }
    put(noise, static_cast<T*>(call.out) + offset, panels * panel);
  });
}

template void forward<float>(const Call&, int64_t, int64_t);
template void forward<double>(const Call&, int64_t, int64_t);
template void forward<Half>(const Call&, int64_t, int64_t);
template void forward<BFloat16>(const Call&, int64_t, int64_t);
template void backward<float>(const Call&, int64_t, int64_t);
template void backward<double>(const Call&, int64_t, int64_t);
template void backward<Half>(const Call&, int64_t, int64_t);
template void backward<BFloat16>(const Call&, int64_t, int64_t);

}  // namespace genkern::gumbel_softmax
