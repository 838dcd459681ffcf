#include "../../common/reduce.h"
#include "actnorm.h"

namespace genkern::actnorm {
namespace {

constexpr int64_t BLOCK = Channels::PER_SUM;  // elements of a run whose sum stays in the arithmetic type

template <typename T, typename A>
GENKERN_INLINE void apply_run_loop(const T* __restrict x, T* __restrict y, int64_t n, A center, A mantissa, A power,
                                   A offset) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] = store<T>((load(x[i]) + center) * mantissa * power + offset);
}

template <typename T, typename A>
GENKERN_INLINE void apply_row_loop(const T* __restrict x, T* __restrict y, int64_t n, const A* __restrict center,
                                   const A* __restrict mantissa, const A* __restrict power,
                                   const A* __restrict offset) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] = store<T>((load(x[i]) + center[i]) * mantissa[i] * power[i] + offset[i]);
}

template <typename A>
struct Lanes {
  A grad[LANES] = {}, moment[LANES] = {};
};

// One run: sums in lanes, block by block.
template <bool write, typename T, typename A>
GENKERN_INLINE void reduce_run_loop(const T* __restrict grad_y, const T* __restrict x, T* __restrict grad_x, int64_t n,
                                    A center, A mantissa, A power, double* __restrict sums) {
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t last = n - first < BLOCK ? n : first + BLOCK, whole = last - (last - first) % LANES;
    Lanes<A> lanes;
    for (int64_t i = first; i < whole; i += LANES) {
#pragma omp simd
      for (int j = 0; j < LANES; j++) {
        const A g = load(grad_y[i + j]);
        lanes.grad[j] += g;
        lanes.moment[j] += g * (load(x[i + j]) + center);
      }
    }
#pragma omp simd
    for (int64_t i = whole; i < last; i++) {
      const A g = load(grad_y[i]);
      lanes.grad[i - whole] += g;
      lanes.moment[i - whole] += g * (load(x[i]) + center);
    }
    if constexpr (write) {
#pragma omp simd
      for (int64_t i = first; i < last; i++) grad_x[i] = store<T>(load(grad_y[i]) * mantissa * power);
    }
    sums[0] += sum_of_lanes(lanes.grad);
    sums[1] += sum_of_lanes(lanes.moment);
  }
}

// One row: a sum for each column.
template <bool write, typename T, typename A>
GENKERN_INLINE void reduce_row_loop(const T* __restrict grad_y, const T* __restrict x, T* __restrict grad_x, int64_t n,
                                    const A* __restrict center, const A* __restrict mantissa, const A* __restrict power,
                                    A* __restrict grad, A* __restrict moment) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A g = load(grad_y[i]);
    grad[i] += g;
    moment[i] += g * (load(x[i]) + center[i]);
    if constexpr (write) grad_x[i] = store<T>(g * mantissa[i] * power[i]);
  }
}

#define GENKERN_DEFINE(T, A)                                                                                          \
  GENKERN_CLONES void apply_run(const T* x, T* y, int64_t n, A center, A mantissa, A power, A offset) {               \
    apply_run_loop(x, y, n, center, mantissa, power, offset);                                                         \
  }                                                                                                                   \
  GENKERN_CLONES void apply_row(const T* x, T* y, int64_t n, const A* center, const A* mantissa, const A* power,      \
                                const A* offset) {                                                                    \
    apply_row_loop(x, y, n, center, mantissa, power, offset);                                                         \
  }                                                                                                                   \
  GENKERN_CLONES void reduce_run(const T* grad_y, const T* x, int64_t n, A center, double* sums) {                    \
    reduce_run_loop<false, T, A>(grad_y, x, nullptr, n, center, A(1), A(1), sums);                                    \
  }                                                                                                                   \
  GENKERN_CLONES void reduce_run(const T* grad_y, const T* x, T* grad_x, int64_t n, A center, A mantissa, A power,    \
                                 double* sums) {                                                                      \
    reduce_run_loop<true, T, A>(grad_y, x, grad_x, n, center, mantissa, power, sums);                                 \
  }                                                                                                                   \
  GENKERN_CLONES void reduce_row(const T* grad_y, const T* x, int64_t n, const A* center, A* grad, A* moment) {       \
    reduce_row_loop<false, T, A>(grad_y, x, nullptr, n, center, center, center, grad, moment);                        \
  }                                                                                                                   \
  GENKERN_CLONES void reduce_row(const T* grad_y, const T* x, T* grad_x, int64_t n, const A* center,                  \
                                 const A* mantissa, const A* power, A* grad, A* moment) {                             \
    reduce_row_loop<true, T, A>(grad_y, x, grad_x, n, center, mantissa, power, grad, moment);                         \
  }
GENKERN_DEFINE(float, float)
GENKERN_DEFINE(double, double)
GENKERN_DEFINE(Half, float)
GENKERN_DEFINE(BFloat16, float)

}  // namespace

template <typename T>
void apply(const Channels& shape, const Parameters<arithmetic_t<T>>& parameters, const void* x, void* y, int64_t begin,
           int64_t end) {
  const auto& [center, mantissa, power, offset] = parameters;
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(y);
  for (int64_t number = begin; number < end; number++) {
    shape.pieces(shape.unit(number), [&](int64_t at, int64_t n, int64_t p) {
      if (shape.columns)
        apply_row(from + at, to + at, n, &center[p], &mantissa[p], &power[p], &offset[p]);
      else
        apply_run(from + at, to + at, n, center[p], mantissa[p], power[p], offset[p]);
    });
  }
}

template <typename T>
void reduce(const Channels& shape, const Parameters<arithmetic_t<T>>& parameters, const void* grad_y, const void* x,
            void* grad_x, double* partial, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const auto& [center, mantissa, power, offset] = parameters;
  const T *g = static_cast<const T*>(grad_y), *from = static_cast<const T*>(x);
  T* to = static_cast<T*>(grad_x);
  for (int64_t number = begin; number < end; number++) {
    const Channels::Unit unit = shape.unit(number);
    double* sums = partial + 2 * unit.slot * shape.channels;
    if (!shape.columns) {
      shape.pieces(unit, [&](int64_t at, int64_t n, int64_t c) {
        if (to == nullptr)
          reduce_run(g + at, from + at, n, center[c], sums + 2 * c);
        else
          reduce_run(g + at, from + at, to + at, n, center[c], mantissa[c], power[c], sums + 2 * c);
      });
      continue;
    }
    A grads[Channels::WIDTH] = {}, moments[Channels::WIDTH] = {};
    shape.pieces(unit, [&](int64_t at, int64_t n, int64_t p) {
      if (to == nullptr)
        reduce_row(g + at, from + at, n, &center[p], grads, moments);
      else
        reduce_row(g + at, from + at, to + at, n, &center[p], &mantissa[p], &power[p], grads, moments);
    });
    shape.each_channel(unit.first, unit.count,
                       [&](int64_t i, int64_t c) { sums[2 * c] += grads[i], sums[2 * c + 1] += moments[i]; });
  }
}

#define GENKERN_INSTANTIATE(T)                                                                                        \
  template void apply<T>(const Channels&, const Parameters<arithmetic_t<T>>&, const void*, void*, int64_t, int64_t);  \
  template void reduce<T>(const Channels&, const Parameters<arithmetic_t<T>>&, const void*, const void*, void*,       \
                          double*, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::actnorm
