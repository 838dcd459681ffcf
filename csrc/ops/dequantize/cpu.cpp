#include "../../common/reduce.h"
#include "../random/random.h"
#include "dequantize.h"

namespace genkern::dequantize {
namespace {

constexpr int64_t STAGE = 1024;  // elements at a time: noise, levels and results stay in the first cache

template <typename A>
GENKERN_INLINE void uniform_loop(const A* __restrict x, const A* __restrict u, A* __restrict y, int64_t n, A levels) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] = or_nan(x[i] >= A(0) && x[i] < levels, dequantized(x[i], u[i], levels));
}

template <typename A>
GENKERN_INLINE double logit_loop(const A* __restrict x, const A* __restrict u, A* __restrict y, int64_t n, A levels,
                                 A alpha, A margin) {
  return sum_over<A>(n, [=](int64_t i) {
    const bool valid = x[i] >= A(0) && x[i] < levels;
    const Logit<A> l = logit(x[i], dequantized(x[i], u[i], levels), levels, alpha, margin);
    y[i] = or_nan(valid, l.z);
    return or_nan(valid, l.term);
  });
}

template <typename A>
GENKERN_INLINE void quantize_loop(const A* __restrict y, A* __restrict x, int64_t n, A levels, A alpha) {
  if (alpha < A(0)) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] = quantized(y[i], levels);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] = quantized(inverse_logit(y[i], alpha), levels);
  }
}

template <typename From, typename To>
GENKERN_INLINE void convert_loop(const From* __restrict from, To* __restrict to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = To(from[i]);
}

#define GENKERN_CONVERT(I, A, CLONES)                                                                  \
  CLONES void widen(const I* from, A* to, int64_t n) { convert_loop(from, to, n); }                    \
  CLONES void narrow(const A* from, I* to, int64_t n) { convert_loop(from, to, n); }
#define GENKERN_DEFINE(A, CLONES)                                                                      \
  CLONES void add_noise(const A* x, const A* u, A* y, int64_t n, A levels) {                           \
    uniform_loop(x, u, y, n, levels);                                                                  \
  }                                                                                                    \
  CLONES double to_logits(const A* x, const A* u, A* y, int64_t n, A levels, A alpha, A margin) {      \
    return logit_loop(x, u, y, n, levels, alpha, margin);                                              \
  }                                                                                                    \
  CLONES void to_levels(const A* y, A* x, int64_t n, A levels, A alpha) {                              \
    quantize_loop(y, x, n, levels, alpha);                                                             \
  }                                                                                                    \
  GENKERN_CONVERT(uint8_t, A, CLONES) GENKERN_CONVERT(int16_t, A, CLONES)                              \
  GENKERN_CONVERT(int32_t, A, CLONES) GENKERN_CONVERT(int64_t, A, CLONES)
GENKERN_DEFINE(float, GENKERN_CLONES)
GENKERN_DEFINE(double, )

template <typename T, typename A>
GENKERN_INLINE void store_loop(const A* __restrict from, T* __restrict to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = store<T>(from[i]);
}
template <typename T>
GENKERN_INLINE void load_loop(const T* __restrict from, arithmetic_t<T>* __restrict to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = load(from[i]);
}

// Calls f with the integer data at an element.
template <typename Pointer, typename F>
void at(Integer type, Pointer* data, int64_t element, const F& f) {
  constexpr bool constant = std::is_const_v<Pointer>;
  const auto as = [&](auto integer) {
    using I = decltype(integer);
    f(static_cast<std::conditional_t<constant, const I, I>*>(data) + element);
  };
  switch (type) {
    case Integer::uint8: return as(uint8_t{});
    case Integer::int16: return as(int16_t{});
    case Integer::int32: return as(int32_t{});
    case Integer::int64: return as(int64_t{});
  }
}

// Noise of elements [first, first + n) of some samples of `elements` each; `first` is a multiple of 4 if it is not 0.
template <typename A>
void draw(const Dequantize& call, int64_t sample, int64_t samples, int64_t first, int64_t n, A* u) {
  const uint64_t offset = uint64_t(call.sample_offset + sample);
  const int64_t end = first + n == call.elements ? samples * quads_of(call.elements) : (first + n) / 4;
  A* const origin = reinterpret_cast<A*>(reinterpret_cast<uintptr_t>(u) - uintptr_t(first) * sizeof(A));
  fill<Uniform>(origin, call.key, int64_t(offset), call.elements, first / 4, end);
}

// n elements of one sample at `element`, given their noise; the sum of the logits' terms.
template <typename T, typename A = arithmetic_t<T>>
double run(const Dequantize& call, int64_t element, int64_t n, const A* u) {
  A x[STAGE], staged[STAGE];
  at(call.type, call.x, element, [&](const auto* from) { widen(from, x, n); });
  T* const to = static_cast<T*>(call.y) + element;
  A* y = staged;
  if constexpr (std::is_same_v<T, A>) y = to;
  double total = 0;
  if (call.alpha < 0) {
    add_noise(x, u, y, n, A(call.levels));
  } else {
    total = to_logits(x, u, y, n, A(call.levels), A(call.alpha), A(call.margin));
  }
  if constexpr (!std::is_same_v<T, A>) store_loop(y, to, n);
  return total;
}

}  // namespace

template <typename T>
void dequantize(const Dequantize& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int64_t n = call.elements;
  const double volume = (call.alpha < 0 ? 0 : std::log1p(-2 * call.alpha)) - std::log(double(call.levels));
  A u[STAGE];
  const int64_t together = std::max<int64_t>(STAGE / std::max<int64_t>(n, 1), 1);  // samples
  for (int64_t b = begin; b < end; b += together) {
    const int64_t samples = std::min(together, end - b);
    if (n > 0 && n <= STAGE) draw(call, b, samples, 0, n, u);
    const bool apart = call.alpha >= 0 || n > STAGE;  // else all of them at once, as no sum is asked for
    if (!apart) run<T>(call, b * n, samples * n, u);
    for (int64_t s = 0; s < samples; s++) {
      double total = double(n) * volume;
      for (int64_t first = 0; apart && first < n; first += STAGE) {
        const int64_t count = std::min(STAGE, n - first);
        if (n > STAGE) draw(call, b, 1, first, count, u);
        total += run<T>(call, (b + s) * n + first, count, n > STAGE ? u : u + s * n);
      }
      static_cast<A*>(call.log_det)[b + s] = A(total);
    }
  }
}

template <typename T>
void quantize(const Quantize& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  A staged[STAGE], x[STAGE];
  for (int64_t i = begin; i < end; i += STAGE) {
    const int64_t n = std::min(STAGE, end - i);
    const T* const from = static_cast<const T*>(call.y) + i;
    const A* wide = staged;
    if constexpr (std::is_same_v<T, A>) {
      wide = from;
    } else {
      load_loop(from, staged, n);
    }
    to_levels(wide, x, n, A(call.levels), A(call.alpha));
    at(call.type, call.x, i, [&](auto* to) { narrow(x, to, n); });
  }
}

template void dequantize<float>(const Dequantize&, int64_t, int64_t);
template void dequantize<double>(const Dequantize&, int64_t, int64_t);
template void dequantize<Half>(const Dequantize&, int64_t, int64_t);
template void dequantize<BFloat16>(const Dequantize&, int64_t, int64_t);
template void quantize<float>(const Quantize&, int64_t, int64_t);
template void quantize<double>(const Quantize&, int64_t, int64_t);
template void quantize<Half>(const Quantize&, int64_t, int64_t);
template void quantize<BFloat16>(const Quantize&, int64_t, int64_t);

}  // namespace genkern::dequantize
