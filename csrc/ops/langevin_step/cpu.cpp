#include <cmath>
#include <vector>

#include "../../common/reduce.h"
#include "../random/random.h"
#include "langevin_step.h"

namespace genkern::langevin_step {
namespace {

constexpr int64_t STAGE = 1024;  // elements at a time: noise stays in the first cache
constexpr int64_t SHORT = 64;    // samples below this are walked together, with coefficients for each element

// What each element of a loop takes: one coefficient for all, or its own.
template <typename A>
struct Same {
  A value;
  GENKERN_INLINE A operator[](int64_t) const { return value; }
};

template <bool noise_first, typename A, typename C>
GENKERN_INLINE void step_loop(const A* x, const A* g, const A* z, A* y, int64_t n, C a, C b, Limits<A> l) {
  // a call in place has y == x or y == g: element i depends on element i alone
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A m = moved<A>(x[i], g[i], a[i], l);
    y[i] = noise_first ? within<A>(m, l.low, l.high) + b[i] * z[i] : within<A>(m + b[i] * z[i], l.low, l.high);
  }
}

template <typename A, typename C>
GENKERN_INLINE void back_loop(const A* x, const A* g, const A* z, const A* c, A* dx, A* dg, int64_t n, C a, C b,
                              Limits<A> l) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A d = c[i] * passes<A>(moved<A>(x[i], g[i], a[i], l) + b[i] * z[i], l.low, l.high);
    dx[i] = d;
    dg[i] = d * a[i] * passes<A>(g[i], -l.grad, l.grad);
  }
}

template <typename A>
GENKERN_INLINE A square_sum(const A* values, int64_t n) {
  return A(sum_over<A>(n, [=](int64_t i) { return values[i] * values[i]; }));
}

#define GENKERN_DEFINE(A, CLONES)                                                                                     \
  CLONES void run(const A* x, const A* g, const A* z, A* y, int64_t n, Same<A> a, Same<A> b, Limits<A> l) {           \
    step_loop<false>(x, g, z, y, n, a, b, l);                                                                         \
  }                                                                                                                   \
  CLONES void run(const A* x, const A* g, const A* z, A* y, int64_t n, const A* a, const A* b, Limits<A> l) {         \
    step_loop<false>(x, g, z, y, n, a, b, l);                                                                         \
  }                                                                                                                   \
  CLONES void run_first(const A* x, const A* g, const A* z, A* y, int64_t n, Same<A> a, Same<A> b, Limits<A> l) {     \
    step_loop<true>(x, g, z, y, n, a, b, l);                                                                          \
  }                                                                                                                   \
  CLONES void run_first(const A* x, const A* g, const A* z, A* y, int64_t n, const A* a, const A* b, Limits<A> l) {   \
    step_loop<true>(x, g, z, y, n, a, b, l);                                                                          \
  }                                                                                                                   \
  CLONES void back(const A* x, const A* g, const A* z, const A* c, A* dx, A* dg, int64_t n, Same<A> a, Same<A> b,     \
                   Limits<A> l) {                                                                                     \
    back_loop(x, g, z, c, dx, dg, n, a, b, l);                                                                        \
  }                                                                                                                   \
  CLONES void back(const A* x, const A* g, const A* z, const A* c, A* dx, A* dg, int64_t n, const A* a, const A* b,   \
                   Limits<A> l) {                                                                                     \
    back_loop(x, g, z, c, dx, dg, n, a, b, l);                                                                        \
  }                                                                                                                   \
  CLONES A sum_of_squares(const A* values, int64_t n) { return square_sum(values, n); }
GENKERN_DEFINE(float, GENKERN_CLONES)
GENKERN_DEFINE(double, )

template <typename T>
GENKERN_INLINE void widen_loop(const T* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = load(from[i]);
}
template <typename T>
GENKERN_INLINE void narrow_loop(const float* from, T* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = store<T>(from[i]);
}
GENKERN_CLONES void widen(const Half* from, float* to, int64_t n) { widen_loop(from, to, n); }
GENKERN_CLONES void widen(const BFloat16* from, float* to, int64_t n) { widen_loop(from, to, n); }
GENKERN_CLONES void narrow(const float* from, Half* to, int64_t n) { narrow_loop(from, to, n); }
GENKERN_CLONES void narrow(const float* from, BFloat16* to, int64_t n) { narrow_loop(from, to, n); }

// n elements from `first` in the arithmetic type: where they lie, or staged.
template <typename T, typename A = arithmetic_t<T>>
const A* loaded(const void* data, int64_t first, int64_t n, A* stage) {
  const T* const from = static_cast<const T*>(data) + first;
  if constexpr (std::is_same_v<T, A>) {
    return from;
  } else {
    widen(from, stage, n);
    return stage;
  }
}
template <typename T, typename A = arithmetic_t<T>>
A* place(void* data, int64_t first, A* stage) {
  if constexpr (std::is_same_v<T, A>) return static_cast<T*>(data) + first;
  return stage;
}
template <typename T, typename A = arithmetic_t<T>>
void stored(const A* from, void* data, int64_t first, int64_t n) {
  if constexpr (!std::is_same_v<T, A>) narrow(from, static_cast<T*>(data) + first, n);
}

// Noise of n elements from `first` (a multiple of 4) of each of some samples; all of them where there are several.
template <typename A>
void draw(uint64_t key, int64_t sample, int64_t samples, int64_t elements, int64_t first, int64_t n, A* z) {
  const int64_t end = first + n == elements ? samples * quads_of(elements) : (first + n) / 4;
  A* const origin = reinterpret_cast<A*>(reinterpret_cast<uintptr_t>(z) - uintptr_t(first) * sizeof(A));
  fill<Normal>(origin, key, sample, elements, first / 4, end);
}

// A run of elements of one sample, or several whole samples.
struct Piece {
  int64_t sample, samples, first, n;
};

int64_t together(const Step& call) { return std::max<int64_t>(STAGE / std::max<int64_t>(call.elements, 1), 1); }
int64_t runs(const Step& call) { return std::max<int64_t>((call.elements + STAGE - 1) / STAGE, 1); }

Piece piece(const Step& call, int64_t unit) {
  if (call.elements > STAGE) {
    const int64_t first = unit % runs(call) * STAGE;
    return {unit / runs(call), 1, first, std::min(STAGE, call.elements - first)};
  }
  const int64_t sample = unit * together(call);
  return {sample, std::min(together(call), call.samples - sample), 0, call.elements};
}

template <typename A>
A coefficient(double number, const void* each, int64_t sample) {
  return each == nullptr ? A(number) : static_cast<const A*>(each)[sample];
}

// Calls f(offset, n, a, b) for stretches that share their coefficients, or once with one for each element.
template <typename A, typename F>
void with_coefficients(const Step& call, const Piece& p, const F& f) {
  if (call.each_a == nullptr && call.each_b == nullptr) {
    return f(int64_t{0}, p.samples * p.n, Same<A>{A(call.a)}, Same<A>{A(call.b)});
  }
  const bool apart = p.n >= SHORT;
  A a[STAGE], b[STAGE];
  for (int64_t s = 0; s < p.samples; s++) {
    const A a_s = coefficient<A>(call.a, call.each_a, p.sample + s),
            b_s = coefficient<A>(call.b, call.each_b, p.sample + s);
    if (apart) {
      f(s * p.n, p.n, Same<A>{a_s}, Same<A>{b_s});
    } else {
      std::fill_n(a + s * p.n, p.n, a_s);
      std::fill_n(b + s * p.n, p.n, b_s);
    }
  }
  if (!apart) f(int64_t{0}, p.samples * p.n, static_cast<const A*>(a), static_cast<const A*>(b));
}

template <typename A>
Limits<A> limits(const Step& call) {
  return {A(call.limit), A(call.low), A(call.high)};
}

bool is_still(const Step& call) { return call.each_b == nullptr && call.b == 0; }  // no noise is added

}  // namespace

int64_t units_of(const Step& call) {
  if (call.samples * call.elements == 0) return 0;
  if (call.elements > STAGE) return call.samples * runs(call);
  return (call.samples + together(call) - 1) / together(call);
}

template <typename T>
void step(const Step& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  A z[STAGE] = {}, staged_x[STAGE], staged_g[STAGE], staged_y[STAGE];
  for (int64_t unit = begin; unit < end; unit++) {
    const Piece p = piece(call, unit);
    const int64_t first = p.sample * call.elements + p.first, n = p.samples * p.n;
    if (!is_still(call)) draw(call.key, call.sample_offset + p.sample, p.samples, call.elements, p.first, p.n, z);
    const A *const x = loaded<T>(call.x, first, n, staged_x), *const g = loaded<T>(call.grad, first, n, staged_g);
    A* const y = place<T>(call.out, first, staged_y);
    with_coefficients<A>(call, p, [&](int64_t at, int64_t count, auto a, auto b) {
      if (call.noise_first) {
        run_first(x + at, g + at, z + at, y + at, count, a, b, limits<A>(call));
      } else {
        run(x + at, g + at, z + at, y + at, count, a, b, limits<A>(call));
      }
    });
    stored<T>(y, call.out, first, n);
  }
}

template <typename T>
void step_backward(const Step& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  // noise that is added after the clamp, or without one, has no part in the gradient
  const bool still = is_still(call) || call.noise_first || (std::isinf(call.low) && std::isinf(call.high));
  A z[STAGE] = {}, staged_x[STAGE], staged_g[STAGE], staged_c[STAGE], staged_dx[STAGE], staged_dg[STAGE];
  for (int64_t unit = begin; unit < end; unit++) {
    const Piece p = piece(call, unit);
    const int64_t first = p.sample * call.elements + p.first, n = p.samples * p.n;
    if (!still) draw(call.key, call.sample_offset + p.sample, p.samples, call.elements, p.first, p.n, z);
    const A *const x = loaded<T>(call.x, first, n, staged_x), *const g = loaded<T>(call.grad, first, n, staged_g);
    const A* const c = loaded<T>(call.cotangent, first, n, staged_c);
    A *const dx = place<T>(call.out, first, staged_dx), *const dg = place<T>(call.out_grad, first, staged_dg);
    with_coefficients<A>(call, p, [&](int64_t at, int64_t count, auto a, auto b) {
      back(x + at, g + at, z + at, c + at, dx + at, dg + at, count, a, b, limits<A>(call));
    });
    stored<T>(dx, call.out, first, n);
    stored<T>(dg, call.out_grad, first, n);
  }
}

template <typename T>
void norms(const Norms& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int64_t elements = call.elements, group = std::max<int64_t>(STAGE / std::max<int64_t>(elements, 1), 1);
  A z[STAGE], staged[STAGE];
  for (int64_t sample = begin; sample < end; sample += group) {
    const int64_t samples = std::min(group, end - sample);
    std::vector<double> grad(samples), noise(samples);
    for (int64_t first = 0; first < elements; first += STAGE) {
      const int64_t n = std::min(STAGE, elements - first);  // of each sample
      draw(call.key, call.sample_offset + sample, samples, elements, first, n, z);
      const A* const g = loaded<T>(call.grad, sample * elements + first, samples * n, staged);
      for (int64_t s = 0; s < samples; s++) {
        grad[s] += double(sum_of_squares(g + s * n, n));
        noise[s] += double(sum_of_squares(z + s * n, n));
      }
    }
    for (int64_t s = 0; s < samples; s++) {
      static_cast<A*>(call.grad_norm)[sample + s] = A(std::sqrt(grad[s]));
      static_cast<A*>(call.noise_norm)[sample + s] = A(std::sqrt(noise[s]));
    }
  }
}

#define GENKERN_INSTANTIATE(T)                             \
  template void step<T>(const Step&, int64_t, int64_t);    \
  template void step_backward<T>(const Step&, int64_t, int64_t); \
  template void norms<T>(const Norms&, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::langevin_step
