#include <algorithm>
#include <vector>

#include "discretized_mixture_logistics.h"

namespace genkern::discretized_mixture_logistics {
namespace {

constexpr int64_t TILE = Shape::TILE;

template <typename A>
struct Constants {
  A low, step, log_step, min_log_scale, last;
  bool open;
  explicit Constants(const Levels& levels)
      : low(A(levels.low)),
        step(A(levels.step)),
        log_step(A(std::log(levels.step))),
        min_log_scale(A(levels.min_log_scale)),
        last(A(levels.count - 1)),
        open(levels.open_edges) {}
};

// What a tile needs beside its parameters; rows of TILE values.
template <typename A>
struct Scratch {
  std::vector<A> memory;
  A *x, *log_p, *mean, *log_scale;  // x: [C], log_p: [K], slopes: [K, C]
  explicit Scratch(const Shape& shape) : memory((shape.channels + shape.mixtures * (1 + 2 * shape.channels)) * TILE) {
    x = memory.data(), log_p = x + shape.channels * TILE, mean = log_p + shape.mixtures * TILE;
    log_scale = mean + shape.mixtures * shape.channels * TILE;
  }
};

template <typename A>
GENKERN_INLINE A coefficient(A raw) {  // tanh
  const A m = decay(A(2) * absolute(raw)).minus_one, size = -m / (A(2) + m);
  return raw < A(0) ? -size : size;
}

// Log-probability of a tile under component k, its logit added; with `slopes`, derivatives of each sub-pixel.
template <int channels, bool slopes, typename T, typename A>
GENKERN_INLINE void component_loop(const T* __restrict params, int64_t sites, int64_t mixtures, int64_t k,
                                   const A* __restrict x, int64_t n, const Constants<A> c, A* __restrict log_p,
                                   A* __restrict mean_slope, A* __restrict log_scale_slope) {
  const int64_t block = (channels == 1 ? 2 : 3) * mixtures;
  const T* base = params + (mixtures + k) * sites;
  const int64_t plane = mixtures * sites;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    // one call a channel, not a loop: an inner loop would keep the compiler from vectorising
    const auto channel = [&](int ch, A value, A others) {
      const A level = x[ch * TILE + i], mean = load(base[ch * block * sites + i]) + others;
      const SubPixel<A> p =
          sub_pixel<slopes, A>(value - mean, load(base[ch * block * sites + plane + i]), c.min_log_scale, c.step,
                               c.log_step, c.open & (level <= A(0)), c.open & (level >= c.last));
      if constexpr (slopes) mean_slope[ch * TILE + i] = p.mean, log_scale_slope[ch * TILE + i] = p.log_scale;
      return p;
    };
    const A logit = load(params[k * sites + i]), red = c.low + c.step * x[i];
    const SubPixel<A> p = channel(0, red, A(0));
    if constexpr (channels == 1) {
      log_p[i] = logit + p.linear + log_positive(p.numerator / p.denominator);
    } else {
      const A green = c.low + c.step * x[TILE + i], blue = c.low + c.step * x[2 * TILE + i];
      const A c0 = coefficient(load(base[2 * plane + i])), c1 = coefficient(load(base[block * sites + 2 * plane + i])),
              c2 = coefficient(load(base[2 * block * sites + 2 * plane + i]));
      const SubPixel<A> q = channel(1, green, c0 * red), r = channel(2, blue, c1 * red + c2 * green);
      log_p[i] =
          logit + (p.linear + q.linear + r.linear) +
          log_positive(p.numerator * q.numerator * r.numerator / (p.denominator * q.denominator * r.denominator));
    }
  }
}

// log sum_k e^(row k), with e^(row - max) left in the rows if they are to be kept.
template <typename A, typename Row>
GENKERN_INLINE void log_sum_exp(const Row& row, int64_t mixtures, int64_t n, A* __restrict top, A* __restrict sum) {
  for (int64_t i = 0; i < n; i++) top[i] = row(0, i), sum[i] = 0;
  for (int64_t k = 1; k < mixtures; k++) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) top[i] = row(k, i) > top[i] ? row(k, i) : top[i];
  }
  for (int64_t k = 0; k < mixtures; k++) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) sum[i] += decay(top[i] - row(k, i)).power;
  }
}

template <int channels, typename T, typename A>
GENKERN_INLINE void forward_tile(const T* params, int64_t sites, int64_t mixtures, int64_t n, const Constants<A>& c,
                                 const Scratch<A>& s, A* __restrict nll) {
  for (int64_t k = 0; k < mixtures; k++)
    component_loop<channels, false, T, A>(params, sites, mixtures, k, s.x, n, c, s.log_p + k * TILE, nullptr, nullptr);
  A top[TILE], sum[TILE], prior_top[TILE], prior_sum[TILE];
  log_sum_exp([&](int64_t k, int64_t i) { return s.log_p[k * TILE + i]; }, mixtures, n, top, sum);
  log_sum_exp([&](int64_t k, int64_t i) { return A(load(params[k * sites + i])); }, mixtures, n, prior_top, prior_sum);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) nll[i] = (prior_top[i] - top[i]) + log_positive(prior_sum[i] / sum[i]);
}

template <int channels, typename T, typename A>
GENKERN_INLINE void backward_tile(const A* __restrict grad, const T* params, int64_t sites, int64_t mixtures, int64_t n,
                                  const Constants<A>& c, const Scratch<A>& s, T* grad_params) {
  constexpr int kinds = channels == 1 ? 2 : 3;
  for (int64_t k = 0; k < mixtures; k++)
    component_loop<channels, true, T, A>(params, sites, mixtures, k, s.x, n, c, s.log_p + k * TILE,
                                         s.mean + k * channels * TILE, s.log_scale + k * channels * TILE);
  A top[TILE], sum[TILE], prior_top[TILE], prior_sum[TILE];
  log_sum_exp([&](int64_t k, int64_t i) { return s.log_p[k * TILE + i]; }, mixtures, n, top, sum);
  log_sum_exp([&](int64_t k, int64_t i) { return A(load(params[k * sites + i])); }, mixtures, n, prior_top, prior_sum);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) sum[i] = grad[i] / sum[i], prior_sum[i] = grad[i] / prior_sum[i];
  for (int64_t k = 0; k < mixtures; k++) {
    const A* __restrict log_p = s.log_p + k * TILE, * __restrict x = s.x;
    const A* __restrict mean = s.mean + k * channels * TILE, * __restrict scale = s.log_scale + k * channels * TILE;
    const T* __restrict logit = params + k * sites;
    const T* __restrict base = params + (mixtures + k) * sites;
    T* __restrict to = grad_params + k * sites;
    T* __restrict out = grad_params + (mixtures + k) * sites;
    const int64_t block = kinds * mixtures * sites, plane = mixtures * sites;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const A share = decay(top[i] - log_p[i]).power * sum[i];  // of the gradient
      to[i] = store<T>(decay(prior_top[i] - A(load(logit[i]))).power * prior_sum[i] - share);
      const auto channel = [&](int ch) {
        out[ch * block + i] = store<T>(-share * mean[ch * TILE + i]);
        out[ch * block + plane + i] = store<T>(-share * scale[ch * TILE + i]);
      };
      const auto coefficient = [&](int ch, A slope) {
        const Decay<A> d = decay(A(2) * absolute(load(base[ch * block + 2 * plane + i])));
        const A half = A(2) + d.minus_one;
        out[ch * block + 2 * plane + i] = store<T>(-share * slope * (A(4) * d.power / (half * half)));
      };
      channel(0);
      if constexpr (channels == 3) {
        const A red = c.low + c.step * x[i], green = c.low + c.step * x[TILE + i];
        channel(1), channel(2);
        coefficient(0, mean[TILE + i] * red);
        coefficient(1, mean[2 * TILE + i] * red), coefficient(2, mean[2 * TILE + i] * green);
      }
    }
  }
}

#define GENKERN_DEFINE(T, A, CLONES, C)                                                                               \
  CLONES void forward_##C(const T* params, int64_t sites, int64_t mixtures, int64_t n, const Constants<A>& c,         \
                          const Scratch<A>& s, A* nll) {                                                              \
    forward_tile<C, T, A>(params, sites, mixtures, n, c, s, nll);                                                     \
  }                                                                                                                   \
  CLONES void backward_##C(const A* grad, const T* params, int64_t sites, int64_t mixtures, int64_t n,                \
                           const Constants<A>& c, const Scratch<A>& s, T* grad_params) {                              \
    backward_tile<C, T, A>(grad, params, sites, mixtures, n, c, s, grad_params);                                      \
  }
#define GENKERN_DEFINE_BOTH(T, A, CLONES) GENKERN_DEFINE(T, A, CLONES, 1) GENKERN_DEFINE(T, A, CLONES, 3)
GENKERN_DEFINE_BOTH(float, float, GENKERN_CLONES)
GENKERN_DEFINE_BOTH(Half, float, GENKERN_CLONES)
GENKERN_DEFINE_BOTH(BFloat16, float, GENKERN_CLONES)
GENKERN_DEFINE_BOTH(double, double, )

template <typename F>
void with_integer(Integer dtype, const F& f) {
  switch (dtype) {
    case Integer::uint8: return f(uint8_t{});
    case Integer::int16: return f(int16_t{});
    case Integer::int32: return f(int32_t{});
    case Integer::int64: return f(int64_t{});
  }
}

template <typename A>
void read_levels(const Shape& shape, Pixels x, int64_t sample, int64_t first, int64_t n, A* to) {
  with_integer(x.dtype, [&](auto type) {
    using I = decltype(type);
    for (int64_t c = 0; c < shape.channels; c++) {
      const I* from = static_cast<const I*>(x.data) + (sample * shape.channels + c) * shape.sites + first;
      for (int64_t i = 0; i < n; i++) to[c * TILE + i] = A(from[i]);
    }
  });
}

// Calls f(sample, first site, sites) for tiles [begin, end).
template <typename F>
void each_tile(const Shape& shape, int64_t begin, int64_t end, const F& f) {
  for (int64_t number = begin; number < end; number++) {
    const int64_t first = number % shape.tiles() * TILE;
    f(number / shape.tiles(), first, std::min(TILE, shape.sites - first));
  }
}

}  // namespace

template <typename T>
void forward(const Shape& shape, const Levels& levels, const void* params, Pixels x, void* nll, int64_t begin,
             int64_t end) {
  using A = arithmetic_t<T>;
  const Constants<A> constants(levels);
  const Scratch<A> scratch(shape);
  each_tile(shape, begin, end, [&](int64_t b, int64_t first, int64_t n) {
    read_levels(shape, x, b, first, n, scratch.x);
    const T* from = static_cast<const T*>(params) + b * shape.planes() * shape.sites + first;
    A* to = static_cast<A*>(nll) + b * shape.sites + first;
    if (shape.channels == 1)
      forward_1(from, shape.sites, shape.mixtures, n, constants, scratch, to);
    else
      forward_3(from, shape.sites, shape.mixtures, n, constants, scratch, to);
  });
}

template <typename T>
void backward(const Shape& shape, const Levels& levels, const void* grad_nll, const void* params, Pixels x,
              void* grad_params, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const Constants<A> constants(levels);
  const Scratch<A> scratch(shape);
  each_tile(shape, begin, end, [&](int64_t b, int64_t first, int64_t n) {
    read_levels(shape, x, b, first, n, scratch.x);
    const int64_t at = b * shape.planes() * shape.sites + first;
    const T* from = static_cast<const T*>(params) + at;
    T* to = static_cast<T*>(grad_params) + at;
    const A* grad = static_cast<const A*>(grad_nll) + b * shape.sites + first;
    if (shape.channels == 1)
      backward_1(grad, from, shape.sites, shape.mixtures, n, constants, scratch, to);
    else
      backward_3(grad, from, shape.sites, shape.mixtures, n, constants, scratch, to);
  });
}

template <typename A>
void sample(const Shape& shape, const Levels& levels, double temperature, const A* params, const A* noise, void* x,
            Integer dtype, int64_t begin, int64_t end) {
  const Constants<A> c(levels);
  const int64_t K = shape.mixtures, C = shape.channels, block = (C == 1 ? 2 : 3) * K;
  each_tile(shape, begin, end, [&](int64_t b, int64_t first, int64_t n) {
    const A* from = params + b * shape.planes() * shape.sites + first;
    const A* u = noise + b * (C + 1) * shape.sites + first;
    for (int64_t i = 0; i < n; i++) {
      A top = from[i], total = 0;
      int64_t chosen = 0;
      for (int64_t k = 1; k < K; k++)
        if (from[k * shape.sites + i] > top) top = from[k * shape.sites + i], chosen = k;
      if (temperature != 0) {
        const auto weight = [&](int64_t k) { return exp((from[k * shape.sites + i] - top) / A(temperature)); };
        for (int64_t k = 0; k < K; k++) total += weight(k);
        A cumulative = 0;
        const A threshold = u[i] * total;
        for (chosen = 0; chosen < K - 1; chosen++)
          if ((cumulative += weight(chosen)) > threshold) break;
      }
      const auto parameter = [&](int64_t ch, int64_t kind) {
        return from[(K + ch * block + kind * K + chosen) * shape.sites + i];
      };
      A level[3] = {}, value[3] = {};
      for (int64_t ch = 0; ch < C; ch++) {
        A mean = parameter(ch, 0);
        if (ch == 1) mean += tanh(parameter(0, 2)) * value[0];
        if (ch == 2) mean += tanh(parameter(1, 2)) * value[0] + tanh(parameter(2, 2)) * value[1];
        if (temperature != 0) {
          const A v = u[(ch + 1) * shape.sites + i], scale = exp(std::max(parameter(ch, 1), c.min_log_scale));
          mean += A(temperature) * scale * (std::log(v) - std::log1p(-v));
        }
        level[ch] = std::nearbyint(std::min(std::max((mean - c.low) / c.step, A(0)), c.last));
        value[ch] = c.low + c.step * level[ch];
        with_integer(dtype, [&](auto type) {
          static_cast<decltype(type)*>(x)[(b * C + ch) * shape.sites + first + i] = decltype(type)(level[ch]);
        });
      }
    }
  });
}

#define GENKERN_INSTANTIATE(T)                                                                                    \
  template void forward<T>(const Shape&, const Levels&, const void*, Pixels, void*, int64_t, int64_t);            \
  template void backward<T>(const Shape&, const Levels&, const void*, const void*, Pixels, void*, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)
template void sample<float>(const Shape&, const Levels&, double, const float*, const float*, void*, Integer, int64_t,
                            int64_t);
template void sample<double>(const Shape&, const Levels&, double, const double*, const double*, void*, Integer, int64_t,
                             int64_t);

}  // namespace genkern::discretized_mixture_logistics
