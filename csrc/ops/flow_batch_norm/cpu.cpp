#include "flow_batch_norm.h"

#include "../../common/reduce.h"

namespace genkern::flow_batch_norm {
namespace {

constexpr int64_t BLOCK = Channels::PER_SUM;  // elements that are read twice, the second time from the cache

template <typename A>
struct Deviations {
  A sum, squares;  // of x - about
};

// Sums of x - about and of its square over a block of at most BLOCK elements.
template <typename T, typename A>
GENKERN_INLINE Deviations<A> deviations(const T* __restrict x, int64_t n, A about) {
  A sums[LANES] = {}, squares[LANES] = {};
  const int64_t whole = n - n % LANES;
  for (int64_t i = 0; i < whole; i += LANES) {
#pragma omp simd
    for (int j = 0; j < LANES; j++) {
      const A d = load(x[i + j]) - about;
      sums[j] += d, squares[j] += d * d;
    }
  }
#pragma omp simd
  for (int64_t i = whole; i < n; i++) {
    const A d = load(x[i]) - about;
    sums[i - whole] += d, squares[i - whole] += d * d;
  }
  return {sum_of_lanes(sums), sum_of_lanes(squares)};
}

// The mean from the sum, or corrected by the sum of deviations from its rounding; that of half-precision elements is
// nearly exact as it comes, where deviations would round them all the same way.
template <typename T>
GENKERN_INLINE double mean_of(double sum, double about, double rest, double reciprocal) {
  return sizeof(T) == 2 ? sum * reciprocal : about + rest * reciprocal;
}

// Deviations are taken about the mean of the first block that came, a few deviations off at most; half-precision
// blocks are summed about zero first.
template <typename T, typename A>
GENKERN_INLINE void moments_run_loop(const T* __restrict x, int64_t n, Moments* __restrict sums) {
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t count = n - first < BLOCK ? n - first : BLOCK;
    A sum = 0, about = A(sums->anchor);
    if (sums->count == 0 || sizeof(T) == 2) {
      sum = deviations<T, A>(x + first, count, A(0)).sum;
      about = sum / A(count);
    }
    const Deviations<A> rest = deviations<T, A>(x + first, count, about);
    const double reciprocal = 1.0 / double(count), squares = rest.squares - double(rest.sum) * rest.sum * reciprocal;
    sums->add(double(count), mean_of<T>(sum, about, rest.sum, reciprocal), squares);
  }
}

template <typename T, typename A>
GENKERN_INLINE void sum_row_loop(const T* __restrict x, int64_t n, A* __restrict sums) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) sums[i] += load(x[i]);
}

template <typename T, typename A>
GENKERN_INLINE void square_row_loop(const T* __restrict x, int64_t n, const A* __restrict about, A* __restrict sums,
                                    A* __restrict squares) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A d = load(x[i]) - about[i];
    sums[i] += d, squares[i] += d * d;
  }
}

template <typename T, typename A>
GENKERN_INLINE void combine_run_loop(const T* __restrict grad_y, const T* __restrict x, T* __restrict grad_x, int64_t n,
                                     A center, A mantissa, A power, A slope, A offset) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    grad_x[i] = store<T>(load(grad_y[i]) * mantissa * power + (slope * (load(x[i]) + center) + offset));
}

template <typename T, typename A>
GENKERN_INLINE void combine_row_loop(const T* __restrict grad_y, const T* __restrict x, T* __restrict grad_x, int64_t n,
                                     const A* __restrict center, const A* __restrict mantissa,
                                     const A* __restrict power, const A* __restrict slope, const A* __restrict offset) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    grad_x[i] = store<T>(load(grad_y[i]) * mantissa[i] * power[i] + (slope[i] * (load(x[i]) + center[i]) + offset[i]));
}

#define GENKERN_DEFINE(T, A)                                                                                         \
  GENKERN_CLONES void moments_run(const T* x, int64_t n, Moments* sums) { moments_run_loop<T, A>(x, n, sums); }      \
  GENKERN_CLONES void sum_row(const T* x, int64_t n, A* sums) { sum_row_loop(x, n, sums); }                           \
  GENKERN_CLONES void square_row(const T* x, int64_t n, const A* about, A* sums, A* squares) {                       \
    square_row_loop(x, n, about, sums, squares);                                                                     \
  }                                                                                                                  \
  GENKERN_CLONES void combine_run(const T* grad_y, const T* x, T* grad_x, int64_t n, A center, A mantissa, A power,  \
                                  A slope, A offset) {                                                               \
    combine_run_loop(grad_y, x, grad_x, n, center, mantissa, power, slope, offset);                                  \
  }                                                                                                                  \
  GENKERN_CLONES void combine_row(const T* grad_y, const T* x, T* grad_x, int64_t n, const A* center,                \
                                  const A* mantissa, const A* power, const A* slope, const A* offset) {              \
    combine_row_loop(grad_y, x, grad_x, n, center, mantissa, power, slope, offset);                                  \
  }
GENKERN_DEFINE(float, float)
GENKERN_DEFINE(double, double)
GENKERN_DEFINE(Half, float)
GENKERN_DEFINE(BFloat16, float)

// 1 / n and 1 / (n - 1): the numbers of rows in which the columns of a unit may be.
struct Reciprocals {
  int64_t n;
  double whole, cut;
  explicit Reciprocals(int64_t n) : n(n), whole(1.0 / double(n)), cut(n > 1 ? 1.0 / double(n - 1) : 0.0) {}
  double of(int64_t rows) const { return rows == n ? whole : cut; }
};

// The rows of a unit: deviations about the mean of the first few rows; half-precision rows are all summed first.
template <typename T, typename A = arithmetic_t<T>>
void moments_of_rows(const Channels& shape, const Channels::Unit& unit, const T* x, Moments* partial) {
  constexpr int64_t FEW = sizeof(T) == 2 ? Channels::DEPTH : 4;
  A about[Channels::WIDTH], sums[Channels::WIDTH] = {}, rest[Channels::WIDTH] = {}, squares[Channels::WIDTH] = {};
  Channels::Unit head = unit;
  head.rows = std::min(unit.rows, FEW);
  shape.pieces(head, [&](int64_t at, int64_t n, int64_t) { sum_row(x + at, n, sums); });
  const Reciprocals few(head.rows), all(unit.rows);
  for (int64_t i = 0; i < unit.count; i++) about[i] = A(sums[i] * few.of(shape.rows_with(head, i)));
  shape.pieces(unit, [&](int64_t at, int64_t n, int64_t) { square_row(x + at, n, about, rest, squares); });
  shape.each_channel(unit.first, unit.count, [&](int64_t i, int64_t c) {
    const int64_t rows = shape.rows_with(unit, i);
    if (rows == 0) return;
    const double mean = mean_of<T>(sums[i], about[i], rest[i], all.of(rows));
    partial[c].add(double(rows), mean, squares[i] - double(rest[i]) * double(rest[i]) * all.of(rows));
  });
}

}  // namespace

template <typename T>
void moments(const Channels& shape, const void* x, Moments* partial, int64_t begin, int64_t end) {
  const T* from = static_cast<const T*>(x);
  for (int64_t number = begin; number < end; number++) {
    const Channels::Unit unit = shape.unit(number);
    Moments* sums = partial + unit.slot * shape.channels;
    if (shape.columns)
      moments_of_rows(shape, unit, from, sums);
    else
      shape.pieces(unit, [&](int64_t at, int64_t n, int64_t c) { moments_run(from + at, n, sums + c); });
  }
}

template <typename T>
void combine(const Channels& shape, const actnorm::Parameters<arithmetic_t<T>>& parameters,
             const arithmetic_t<T>* slope, const void* grad_y, const void* x, void* grad_x, int64_t begin,
             int64_t end) {
  const auto& [center, mantissa, power, offset] = parameters;
  const T *g = static_cast<const T*>(grad_y), *from = static_cast<const T*>(x);
  T* to = static_cast<T*>(grad_x);
  for (int64_t number = begin; number < end; number++) {
    shape.pieces(shape.unit(number), [&](int64_t at, int64_t n, int64_t p) {
      if (shape.columns)
        combine_row(g + at, from + at, to + at, n, &center[p], &mantissa[p], &power[p], slope + p, &offset[p]);
      else
        combine_run(g + at, from + at, to + at, n, center[p], mantissa[p], power[p], slope[p], offset[p]);
    });
  }
}

#define GENKERN_INSTANTIATE(T)                                                                                    \
  template void moments<T>(const Channels&, const void*, Moments*, int64_t, int64_t);                             \
  template void combine<T>(const Channels&, const actnorm::Parameters<arithmetic_t<T>>&, const arithmetic_t<T>*,  \
                           const void*, const void*, void*, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::flow_batch_norm
