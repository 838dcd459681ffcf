#include "../../common/reduce.h"
#include "gated_activation.h"

namespace genkern::gated_activation {
namespace {

constexpr int64_t WIDTH = 512;  // columns of a unit, at most

template <bool link, typename T>
GENKERN_INLINE auto before(const T* x, const T* l, int64_t i) {
  if constexpr (link) return load(x[i]) + load(l[i]);
  return load(x[i]);
}

// A run of n sites of one channel: terms a and g.
template <bool link, typename T, typename A>
GENKERN_INLINE void run_loop(const T* __restrict xa, const T* __restrict xg, const T* __restrict la,
                             const T* __restrict lg, T* __restrict y, int64_t n, A a, A g) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] = store<T>(gate<A>(before<link>(xa, la, i) + a, before<link>(xg, lg, i) + g));
}

template <bool link, bool sum, typename T, typename A>
GENKERN_INLINE void run_back_loop(const T* __restrict grad_y, const T* __restrict xa, const T* __restrict xg,
                                  const T* __restrict la, const T* __restrict lg, T* __restrict grad_a,
                                  T* __restrict grad_g, int64_t n, A a, A g, double* __restrict sums) {
  if constexpr (!sum) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const Slopes<A> s = slopes<A>(before<link>(xa, la, i) + a, before<link>(xg, lg, i) + g);
      const A gy = load(grad_y[i]);
      grad_a[i] = store<T>(gy * s.a), grad_g[i] = store<T>(gy * s.g);
    }
  } else {
    A sum_a[LANES] = {}, sum_g[LANES] = {};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
#pragma omp simd
      for (int j = 0; j < LANES; j++) {
        const Slopes<A> s = slopes<A>(before<link>(xa, la, i + j) + a, before<link>(xg, lg, i + j) + g);
        const A gy = load(grad_y[i + j]), ga = gy * s.a, gg = gy * s.g;
        grad_a[i + j] = store<T>(ga), grad_g[i + j] = store<T>(gg);
        sum_a[j] += ga, sum_g[j] += gg;
      }
    }
#pragma omp simd
    for (int64_t j = i; j < n; j++) {
      const Slopes<A> s = slopes<A>(before<link>(xa, la, j) + a, before<link>(xg, lg, j) + g);
      const A gy = load(grad_y[j]), ga = gy * s.a, gg = gy * s.g;
      grad_a[j] = store<T>(ga), grad_g[j] = store<T>(gg);
      sum_a[j - i] += ga, sum_g[j - i] += gg;
    }
    sums[0] = sum_of_lanes(sum_a), sums[1] = sum_of_lanes(sum_g);
  }
}

// Rows of n channels; `a` and `g` hold a term for each.
template <bool link, typename T, typename A>
GENKERN_INLINE void row_loop(const T* __restrict xa, const T* __restrict xg, const T* __restrict la,
                             const T* __restrict lg, T* __restrict y, int64_t rows, int64_t n, int64_t period,
                             const A* __restrict a, const A* __restrict g) {
  for (int64_t r = 0; r < rows; r++, xa += 2 * period, xg += 2 * period, y += period) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      y[i] = store<T>(gate<A>(before<link>(xa, la, i) + a[i], before<link>(xg, lg, i) + g[i]));
    if constexpr (link) la += 2 * period, lg += 2 * period;
  }
}

template <bool link, bool sum, typename T, typename A>
GENKERN_INLINE void row_back_loop(const T* __restrict grad_y, const T* __restrict xa, const T* __restrict xg,
                                  const T* __restrict la, const T* __restrict lg, T* __restrict grad_a,
                                  T* __restrict grad_g, int64_t rows, int64_t n, int64_t period, const A* __restrict a,
                                  const A* __restrict g, A* __restrict sum_a, A* __restrict sum_g) {
  for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const Slopes<A> s = slopes<A>(before<link>(xa, la, i) + a[i], before<link>(xg, lg, i) + g[i]);
      const A gy = load(grad_y[i]), ga = gy * s.a, gg = gy * s.g;
      grad_a[i] = store<T>(ga), grad_g[i] = store<T>(gg);
      if constexpr (sum) sum_a[i] += ga, sum_g[i] += gg;
    }
    grad_y += period, xa += 2 * period, xg += 2 * period, grad_a += 2 * period, grad_g += 2 * period;
    if constexpr (link) la += 2 * period, lg += 2 * period;
  }
}

#define GENKERN_DEFINE(T, A, CLONES)                                                                                 \
  CLONES void run(const T* xa, const T* xg, T* y, int64_t n, A a, A g) {                                             \
    run_loop<false, T, A>(xa, xg, nullptr, nullptr, y, n, a, g);                                                     \
  }                                                                                                                  \
  CLONES void run(const T* xa, const T* xg, const T* la, const T* lg, T* y, int64_t n, A a, A g) {                   \
    run_loop<true, T, A>(xa, xg, la, lg, y, n, a, g);                                                                \
  }                                                                                                                  \
  CLONES void rows(const T* xa, const T* xg, T* y, int64_t count, int64_t n, int64_t period, const A* a,             \
                   const A* g) {                                                                                     \
    row_loop<false, T, A>(xa, xg, nullptr, nullptr, y, count, n, period, a, g);                                      \
  }                                                                                                                  \
  CLONES void rows(const T* xa, const T* xg, const T* la, const T* lg, T* y, int64_t count, int64_t n,               \
                   int64_t period, const A* a, const A* g) {                                                         \
    row_loop<true, T, A>(xa, xg, la, lg, y, count, n, period, a, g);                                                 \
  }                                                                                                                  \
  GENKERN_DEFINE_BACK(T, A, CLONES, false, false)                                                                    \
  GENKERN_DEFINE_BACK(T, A, CLONES, false, true)                                                                     \
  GENKERN_DEFINE_BACK(T, A, CLONES, true, false)                                                                     \
  GENKERN_DEFINE_BACK(T, A, CLONES, true, true)
#define GENKERN_DEFINE_BACK(T, A, CLONES, L, S)                                                                      \
  CLONES void run_back_##L##_##S(const T* grad_y, const T* xa, const T* xg, const T* la, const T* lg, T* grad_a,     \
                                 T* grad_g, int64_t n, A a, A g, double* sums) {                                     \
    run_back_loop<L, S, T, A>(grad_y, xa, xg, la, lg, grad_a, grad_g, n, a, g, sums);                                \
  }                                                                                                                  \
  CLONES void rows_back_##L##_##S(const T* grad_y, const T* xa, const T* xg, const T* la, const T* lg, T* grad_a,    \
                                  T* grad_g, int64_t count, int64_t n, int64_t period, const A* a, const A* g,       \
                                  A* sum_a, A* sum_g) {                                                              \
    row_back_loop<L, S, T, A>(grad_y, xa, xg, la, lg, grad_a, grad_g, count, n, period, a, g, sum_a, sum_g);         \
  }
GENKERN_DEFINE(float, float, GENKERN_CLONES)
GENKERN_DEFINE(Half, float, GENKERN_CLONES)
GENKERN_DEFINE(BFloat16, float, GENKERN_CLONES)
GENKERN_DEFINE(double, double, )

// One of four loops, by whether there is a link and whether sums are wanted.
#define GENKERN_CHOOSE(loop, link, sum, ...)      \
  if ((link) && (sum))                            \
    loop##_true_true(__VA_ARGS__);                \
  else if (link)                                  \
    loop##_true_false(__VA_ARGS__);               \
  else if (sum)                                   \
    loop##_false_true(__VA_ARGS__);               \
  else                                            \
    loop##_false_false(__VA_ARGS__)

// Where a unit lies, and its terms.
struct Unit {
  int64_t sample, slot, site, sites, channel, count;

  Unit(const Shape& shape, int64_t number) {
    const int64_t w = number % shape.wide, d = number / shape.wide % shape.deep;
    sample = number / (shape.wide * shape.deep), slot = sample * shape.deep + d;
    site = d * shape.depth, sites = std::min(shape.depth, shape.sites - site);
    channel = w * shape.width, count = std::min(shape.width, shape.channels - channel);
  }
};

template <typename T>
arithmetic_t<T> term(const Shape& shape, const Terms& terms, int64_t sample, int64_t channel) {
  arithmetic_t<T> sum = 0;
  if (terms.bias != nullptr) sum += load(static_cast<const T*>(terms.bias)[channel]);
  if (terms.condition != nullptr)
    sum += load(static_cast<const T*>(terms.condition)[sample * 2 * shape.channels + channel]);
  return sum;
}

template <typename T>
void both_terms(const Shape& shape, const Terms& terms, const Unit& unit, arithmetic_t<T>* a, arithmetic_t<T>* g) {
  for (int64_t i = 0; i < unit.count; i++) {
    a[i] = term<T>(shape, terms, unit.sample, unit.channel + i);
    g[i] = term<T>(shape, terms, unit.sample, shape.channels + unit.channel + i);
  }
}

template <typename T>
const T* after(const T* pointer, int64_t offset) {
  return pointer == nullptr ? nullptr : pointer + offset;
}

}  // namespace

template <typename T>
void forward(const Shape& shape, const Terms& terms, const void* x, const void* link, void* y, int64_t begin,
             int64_t end) {
  using A = arithmetic_t<T>;
  const int64_t C = shape.channels, S = shape.sites;
  const T *from = static_cast<const T*>(x), *l = static_cast<const T*>(link);
  T* to = static_cast<T*>(y);
  for (int64_t number = begin; number < end; number++) {
    const Unit unit(shape, number);
    if (shape.columns) {
      A a[WIDTH], g[WIDTH];
      both_terms<T>(shape, terms, unit, a, g);
      const int64_t row = unit.sample * S + unit.site, at = row * 2 * C + unit.channel;
      T* out = to + row * C + unit.channel;
      if (l == nullptr)
        rows(from + at, from + at + C, out, unit.sites, unit.count, C, a, g);
      else
        rows(from + at, from + at + C, l + at, l + at + C, out, unit.sites, unit.count, C, a, g);
      continue;
    }
    for (int64_t c = unit.channel; c < unit.channel + unit.count; c++) {
      const A a = term<T>(shape, terms, unit.sample, c), g = term<T>(shape, terms, unit.sample, C + c);
      const int64_t at = (unit.sample * 2 * C + c) * S + unit.site, gate_at = at + C * S;
      T* out = to + (unit.sample * C + c) * S + unit.site;
      if (l == nullptr)
        run(from + at, from + gate_at, out, unit.sites, a, g);
      else
        run(from + at, from + gate_at, l + at, l + gate_at, out, unit.sites, a, g);
    }
  }
}

template <typename T>
void backward(const Shape& shape, const Terms& terms, const void* grad_y, const void* x, const void* link, void* grad_x,
              void* grad_link, double* sums, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int64_t C = shape.channels, S = shape.sites;
  const T *gy = static_cast<const T*>(grad_y), *from = static_cast<const T*>(x), *l = static_cast<const T*>(link);
  T *first = static_cast<T*>(grad_x != nullptr ? grad_x : grad_link), *second = static_cast<T*>(grad_link);
  const bool twice = grad_x != nullptr && grad_link != nullptr, linked = l != nullptr;
  T unwanted[4096];  // where nobody wants the gradient itself, only its sums
  for (int64_t number = begin; number < end; number++) {
    const Unit unit(shape, number);
    double* sum_of = sums == nullptr ? nullptr : sums + unit.slot * 2 * C + unit.channel;
    if (shape.columns) {
      A a[WIDTH], g[WIDTH], sum_a[WIDTH] = {}, sum_g[WIDTH] = {};
      both_terms<T>(shape, terms, unit, a, g);
      const int64_t step = first == nullptr || twice ? 1 : unit.sites;
      for (int64_t r = 0; r < unit.sites; r += step) {
        const int64_t row = unit.sample * S + unit.site + r, at = row * 2 * C + unit.channel;
        T *to_a = first == nullptr ? unwanted : first + at, *to_g = first == nullptr ? unwanted + WIDTH : to_a + C;
        GENKERN_CHOOSE(rows_back, linked, sums != nullptr, gy + row * C + unit.channel, from + at, from + at + C,
                       after(l, at), after(l, at + C), to_a, to_g, step, unit.count, C, a, g, sum_a, sum_g);
        if (twice) std::copy_n(to_a, unit.count, second + at), std::copy_n(to_g, unit.count, second + at + C);
      }
      if (sums != nullptr)
        for (int64_t i = 0; i < unit.count; i++) sum_of[i] = sum_a[i], sum_of[C + i] = sum_g[i];
      continue;
    }
    for (int64_t i = 0; i < unit.count; i++) {
      const int64_t c = unit.channel + i;
      const A a = term<T>(shape, terms, unit.sample, c), g = term<T>(shape, terms, unit.sample, C + c);
      const int64_t at = (unit.sample * 2 * C + c) * S + unit.site, gate_at = at + C * S;
      const T* gys = gy + (unit.sample * C + c) * S + unit.site;
      double pair[2] = {};
      constexpr int64_t half = 2048;
      for (int64_t s = 0; s < unit.sites; s += half) {
        const int64_t n = std::min(half, unit.sites - s);
        T *to_a = first == nullptr ? unwanted : first + at + s,
          *to_g = first == nullptr ? unwanted + half : first + gate_at + s;
        double part[2] = {};
        GENKERN_CHOOSE(run_back, linked, sums != nullptr, gys + s, from + at + s, from + gate_at + s, after(l, at + s),
                       after(l, gate_at + s), to_a, to_g, n, a, g, part);
        pair[0] += part[0], pair[1] += part[1];
        if (twice) std::copy_n(to_a, n, second + at + s), std::copy_n(to_g, n, second + gate_at + s);
      }
      if (sums != nullptr) sum_of[i] = pair[0], sum_of[C + i] = pair[1];
    }
  }
}

#define GENKERN_INSTANTIATE(T)                                                                                      \
  template void forward<T>(const Shape&, const Terms&, const void*, const void*, void*, int64_t, int64_t);          \
  template void backward<T>(const Shape&, const Terms&, const void*, const void*, const void*, void*, void*,        \
                            double*, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::gated_activation
