#include "../../common/reduce.h"
#include "../random/random.h"
#include "diffusion_step.h"

namespace genkern::diffusion_step {
namespace {

constexpr int64_t STAGE = 1024;  // elements at a time: noise and widened inputs stay in the first cache

// `out` may be `x`, and `x0` may be `previous`: an element is read before it is written.
template <bool with_output, bool with_previous, bool with_noise, bool with_x0, typename A>
GENKERN_INLINE void step_loop(const A* x, const A* output, const A* previous, const A* noise, A* out, A* x0, int64_t n,
                              const Row<A>& row) {
  const A to_x0 = row.x0_of_x, output_to_x0 = row.x0_of_output, low = row.low, high = row.high, scale = row.scale;
  const A k_x = row.x, k_x0 = row.x0 * scale, k_output = row.output, k_previous = row.previous, k_noise = row.noise;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A data = clamped(to_x0 * x[i] + output_to_x0 * output[i], low, high);
    A after = k_x * x[i] + k_x0 * data;
    if (with_output) after += k_output * output[i];
    if (with_previous) after += k_previous * previous[i];
    if (with_noise) after += k_noise * noise[i];
    if (with_x0) x0[i] = data * scale;
    out[i] = after;
  }
}

// The terms that there are, one after the other, as constants of the loop.
template <bool... chosen, typename A>
GENKERN_INLINE void choose_loop(const A* x, const A* output, const A* previous, const A* noise, A* out, A* x0,
                                int64_t n, const Row<A>& row) {
  constexpr size_t count = sizeof...(chosen);
  if constexpr (count == 4) {
    step_loop<chosen...>(x, output, previous, noise, out, x0, n, row);
  } else {
    const bool next = count == 0   ? row.output != A(0)
                      : count == 1 ? bool(previous)
                      : count == 2 ? bool(noise)
                                   : bool(x0);
    if (next) {
      choose_loop<chosen..., true>(x, output, previous, noise, out, x0, n, row);
    } else {
      choose_loop<chosen..., false>(x, output, previous, noise, out, x0, n, row);
    }
  }
}

// noise *= exp(l + m v)
template <typename A>
GENKERN_INLINE void scale_loop(const A* v, A* noise, int64_t n, A log_std, A slope) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) noise[i] *= exp(log_std + slope * v[i]);
}

template <typename T>
GENKERN_INLINE void load_loop(const T* __restrict from, arithmetic_t<T>* __restrict to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = load(from[i]);
}

template <typename T>
GENKERN_INLINE void guide_loop(const T* __restrict c, const T* __restrict u, arithmetic_t<T>* __restrict to, int64_t n,
                               arithmetic_t<T> of_c, arithmetic_t<T> of_u) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = of_c * load(c[i]) + of_u * load(u[i]);
}

template <typename T>
GENKERN_INLINE void store_loop(const arithmetic_t<T>* __restrict from, T* __restrict to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) to[i] = store<T>(from[i]);
}

// Variances, but for a common factor, of the conditional and the guided output.
template <typename T, typename A = arithmetic_t<T>>
GENKERN_INLINE double ratio_loop(const T* c, const T* u, int64_t n, A w) {
  const auto conditional = [=](int64_t i) { return load(c[i]); };
  const auto guided = [=](int64_t i) { return load(u[i]) + w * (load(c[i]) - load(u[i])); };
  const A mean_c = A(sum_over<A>(n, conditional) / double(n)), mean_g = A(sum_over<A>(n, guided) / double(n));
  const double wanted = sum_over<A>(n, [=](int64_t i) {
    const A d = conditional(i) - mean_c;
    return d * d;
  });
  const double found = sum_over<A>(n, [=](int64_t i) {
    const A d = guided(i) - mean_g;
    return d * d;
  });
  return found > 0 ? std::sqrt(wanted / found) : 1.0;
}

#define GENKERN_OF_ARITHMETIC(A, CLONES)                                                                             \
  CLONES void update(const A* x, const A* output, const A* previous, const A* noise, A* out, A* x0, int64_t n,       \
                     const Row<A>& row) {                                                                            \
    choose_loop<>(x, output, previous, noise, out, x0, n, row);                                                        \
  }                                                                                                                  \
  CLONES void scale_noise(const A* v, A* noise, int64_t n, A log_std, A slope) {                                     \
    scale_loop(v, noise, n, log_std, slope);                                                                         \
  }
#define GENKERN_OF_STORAGE(T, A, CLONES)                                                         \
  CLONES void guide(const T* c, const T* u, A* to, int64_t n, A of_c, A of_u) {                  \
    guide_loop(c, u, to, n, of_c, of_u);                                                         \
  }                                                                                              \
  CLONES double ratio(const T* c, const T* u, int64_t n, A w) { return ratio_loop(c, u, n, w); }
#define GENKERN_OF_NARROW(T)                                                                     \
  GENKERN_CLONES void widen(const T* from, float* to, int64_t n) { load_loop(from, to, n); }     \
  GENKERN_CLONES void narrow(const float* from, T* to, int64_t n) { store_loop(from, to, n); }
GENKERN_OF_ARITHMETIC(float, GENKERN_CLONES)
GENKERN_OF_ARITHMETIC(double, )
GENKERN_OF_STORAGE(float, float, GENKERN_CLONES)
GENKERN_OF_STORAGE(double, double, )
GENKERN_OF_STORAGE(Half, float, GENKERN_CLONES)
GENKERN_OF_STORAGE(BFloat16, float, GENKERN_CLONES)
GENKERN_OF_NARROW(Half)
GENKERN_OF_NARROW(BFloat16)

// The values themselves, or widened into the buffer.
template <typename T, typename A = arithmetic_t<T>>
const A* wide(const void* data, int64_t at, int64_t n, A* buffer) {
  const T* from = static_cast<const T*>(data) + at;
  if constexpr (std::is_same_v<T, A>) {
    return from;
  } else {
    widen(from, buffer, n);
    return buffer;
  }
}

template <typename A>
Row<A> row_of(const Step& call, int64_t sample) {
  Row<A> row;
  const int64_t at = call.steps > 0 ? call.step[call.steps == 1 ? 0 : sample] : call.rows == 1 ? 0 : sample;
  A* const columns = &row.x0_of_x;
  for (int c = 0; c < COLUMNS; c++) {
    columns[c] = at < 0 || at >= call.rows ? std::numeric_limits<A>::quiet_NaN()
                                           : static_cast<const A*>(call.coefficients)[at * COLUMNS + c];
  }
  const A t = call.threshold ? static_cast<const A*>(call.threshold)[sample] : A(1);
  row.low = call.threshold ? -t : A(call.low);
  row.high = call.threshold ? t : A(call.high);
  row.scale = A(1) / t;
  const double r = call.ratios ? 1 - call.rescale + call.rescale * call.ratios[sample] : 1.0;
  row.conditional = A(r * call.guidance);
  row.unconditional = A(r * (1 - call.guidance));
  return row;
}

uint64_t key_of(const Step& call, int64_t sample) {
  const uint64_t key = uint64_t(call.key[call.keys == 1 ? 0 : sample]);
  return call.steps == 0 ? key : derived_key(key, uint64_t(call.step[call.steps == 1 ? 0 : sample]), kFoldIn);
}

// Whether all samples share a row and a key, so that several short ones are one run.
bool is_uniform(const Step& call) {
  return call.steps <= 1 && (call.steps == 1 || call.rows == 1) && call.keys <= 1 && !call.threshold && !call.ratios;
}

// Noise of elements [first, first + n) of `samples` samples; `first` is a multiple of 4.
template <typename A>
void draw(const Step& call, int64_t sample, int64_t samples, int64_t first, int64_t n, A* noise) {
  const int64_t offset = call.sample_offset + (call.keys == 1 ? sample : 0);
  const int64_t end = first + n == call.elements ? samples * quads_of(call.elements) : (first + n) / 4;
  A* const origin = reinterpret_cast<A*>(reinterpret_cast<uintptr_t>(noise) - uintptr_t(first) * sizeof(A));
  fill<Normal>(origin, key_of(call, sample), offset, call.elements, first / 4, end);
}

// n elements at `at`, given their noise or null.
template <typename T, typename A = arithmetic_t<T>>
void run(const Step& call, const Row<A>& given, int64_t at, int64_t n, A* noise) {
  A buffers[5][STAGE];
  Row<A> row = given;
  const A* const x = wide<T>(call.x, at, n, buffers[0]);
  const A* output = buffers[1];
  if (call.unconditional) {
    guide(static_cast<const T*>(call.model_output) + at, static_cast<const T*>(call.unconditional) + at, buffers[1], n,
          row.conditional, row.unconditional);
  } else {
    output = wide<T>(call.model_output, at, n, buffers[1]);
  }
  const A* previous = nullptr;
  if (call.previous && row.previous != A(0)) previous = wide<T>(call.previous, at, n, buffers[2]);
  if (noise && call.log_variance)
    scale_noise(wide<T>(call.log_variance, at, n, buffers[3]), noise, n, row.log_std, row.log_std_slope);
  T* const out = static_cast<T*>(call.out) + at;
  T* const x0 = call.x0 ? static_cast<T*>(call.x0) + at : nullptr;
  if constexpr (std::is_same_v<T, A>) {
    update(x, output, previous, noise, out, x0, n, row);
  } else {
    A* const data = x0 ? buffers[4] : nullptr;
    update(x, output, previous, noise, buffers[3], data, n, row);
    narrow(buffers[3], out, n);
    if (x0) narrow(data, x0, n);
  }
}

}  // namespace

template <typename T>
void run(const Step& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int64_t n = call.elements, per_sample = spans(call);
  const int64_t together = is_uniform(call) ? std::max<int64_t>(STAGE / std::max<int64_t>(n, 1), 1) : 1;  // samples
  A noise[STAGE];
  for (int64_t unit = begin; unit < end;) {
    const int64_t sample = unit / per_sample, from = unit % per_sample * SPAN, to = std::min(from + SPAN, n);
    const Row<A> row = row_of<A>(call, sample);
    const bool noisy = call.keys > 0 && row.noise != A(0);
    const int64_t samples = n > STAGE ? 1 : std::min(together, end - unit);
    const int64_t stage = noisy || call.unconditional || !std::is_same_v<T, A> ? STAGE : SPAN;
    for (int64_t first = from; first < to; first += stage) {
      const int64_t count = std::min(stage, to - first);
      if (noisy) draw(call, sample, samples, first, count, noise);
      run<T>(call, row, sample * n + first, samples * count, noisy ? noise : nullptr);
    }
    unit += samples;
  }
}

template <typename T>
void spread_ratios(const Step& call, double* ratios, int64_t begin, int64_t end) {
  const int64_t n = call.elements;
  for (int64_t b = begin; b < end; b++) {
    ratios[b] = n < 2 ? 1.0
                      : ratio(static_cast<const T*>(call.model_output) + b * n,
                              static_cast<const T*>(call.unconditional) + b * n, n, arithmetic_t<T>(call.guidance));
  }
}

#define GENKERN_INSTANTIATE(T)                         \
  template void run<T>(const Step&, int64_t, int64_t); \
  template void spread_ratios<T>(const Step&, double*, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::diffusion_step
