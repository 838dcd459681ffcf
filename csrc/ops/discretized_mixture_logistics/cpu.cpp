#include <algorithm>
#include <vector>

#include "discretized_mixture_logistics.h"
#include "draw.h"

namespace genkern::discretized_mixture_logistics {
namespace {

constexpr int64_t TILE = Shape::TILE;

// What a tile needs beside its parameters; rows of TILE values.
template <typename A>
struct Scratch {
  std::vector<A> memory;
  A *value, *edge;      // [C]
  A *log_p, *prior;     // [K]
  A *mean, *log_scale;  // slopes, [K, C]
  A* coefficient;       // slopes of three tanh, [K, 3]
  explicit Scratch(const Shape& shape)
      : memory((2 * shape.channels + shape.mixtures * (5 + 2 * shape.channels)) * TILE) {
    const int64_t C = shape.channels, K = shape.mixtures;
    value = memory.data(), edge = value + C * TILE, log_p = edge + C * TILE, prior = log_p + K * TILE;
    mean = prior + K * TILE, log_scale = mean + K * C * TILE, coefficient = log_scale + K * C * TILE;
  }
};

// tanh of three rows and, with `slopes`, its derivative; one division for all.
template <bool slopes, typename T, typename A>
GENKERN_INLINE void coefficient_loop(const T* __restrict c0, const T* __restrict c1, const T* __restrict c2, int64_t n,
                                     A* __restrict value, A* __restrict slope) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A a0 = load(c0[i]), a1 = load(c1[i]), a2 = load(c2[i]);
    const Decay<A> d0 = decay(A(2) * absolute(a0)), d1 = decay(A(2) * absolute(a1)), d2 = decay(A(2) * absolute(a2));
    const A q0 = A(1) + d0.power, q1 = A(1) + d1.power, q2 = A(1) + d2.power;
    const A inverse = A(1) / (q0 * q1 * q2), r0 = inverse * (q1 * q2), r1 = inverse * (q0 * q2),
            r2 = inverse * (q0 * q1);
    value[i] = (a0 < A(0) ? d0.minus_one : -d0.minus_one) * r0;
    value[TILE + i] = (a1 < A(0) ? d1.minus_one : -d1.minus_one) * r1;
    value[2 * TILE + i] = (a2 < A(0) ? d2.minus_one : -d2.minus_one) * r2;
    if constexpr (slopes) {
      slope[i] = A(4) * d0.power * (r0 * r0);
      slope[TILE + i] = A(4) * d1.power * (r1 * r1);
      slope[2 * TILE + i] = A(4) * d2.power * (r2 * r2);
    }
  }
}

// One channel under one component, added to what the channels before it gave.
template <int channel, bool slopes, typename T, typename A>
GENKERN_INLINE void channel_loop(const T* __restrict mean, const T* __restrict log_scale, const A* __restrict value,
                                 const A* __restrict edge, const A* __restrict coefficient, int64_t n,
                                 const Constants<A> c, A* __restrict linear, A* __restrict ratio,
                                 A* __restrict mean_slope, A* __restrict log_scale_slope) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    A centred = value[channel * TILE + i] - load(mean[i]);
    if constexpr (channel == 1) centred -= coefficient[i] * value[i];
    if constexpr (channel == 2)
      centred -= coefficient[TILE + i] * value[i] + coefficient[2 * TILE + i] * value[TILE + i];
    const SubPixel<A> p = sub_pixel<slopes, A>(centred, load(log_scale[i]), edge[channel * TILE + i], c);
    linear[i] = (channel ? linear[i] : A(0)) + p.linear;
    ratio[i] = (channel ? ratio[i] : A(1)) * p.ratio;
    if constexpr (slopes) mean_slope[channel * TILE + i] = p.mean, log_scale_slope[channel * TILE + i] = p.log_scale;
  }
}

// Log-probability of a tile under component k, its logit added; with `slopes`, derivatives of each sub-pixel. In short
// loops: the chain of a sub-pixel is long, and a processor that runs ahead must see several.
template <int channels, bool slopes, typename T, typename A>
GENKERN_INLINE void component(const T* params, int64_t sites, int64_t mixtures, int64_t k, int64_t n,
                              const Constants<A>& c, const Scratch<A>& s) {
  const T* base = params + (mixtures + k) * sites;
  const int64_t plane = mixtures * sites;
  A coefficient[3 * TILE], linear[TILE], ratio[TILE];
  A *mean = s.mean + k * channels * TILE, *log_scale = s.log_scale + k * channels * TILE;
  A* slope = s.coefficient + k * 3 * TILE;
  if constexpr (channels == 3)
    coefficient_loop<slopes, T, A>(base + 2 * plane, base + 5 * plane, base + 8 * plane, n, coefficient, slope);
  channel_loop<0, slopes, T, A>(base, base + plane, s.value, s.edge, coefficient, n, c, linear, ratio, mean, log_scale);
  if constexpr (channels == 3) {
    channel_loop<1, slopes, T, A>(base + 3 * plane, base + 4 * plane, s.value, s.edge, coefficient, n, c, linear, ratio,
                                  mean, log_scale);
    channel_loop<2, slopes, T, A>(base + 6 * plane, base + 7 * plane, s.value, s.edge, coefficient, n, c, linear, ratio,
                                  mean, log_scale);
  }
  const T* __restrict logit = params + k * sites;
  A* __restrict prior = s.prior + k * TILE, * __restrict log_p = s.log_p + k * TILE;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A here = load(logit[i]);
    prior[i] = here;
    log_p[i] = here + linear[i] + log_positive(ratio[i]);
  }
}

// Sums of e^(row k - max), which stay in the rows.
template <typename A>
GENKERN_INLINE void sum_exp(A* __restrict rows, int64_t mixtures, int64_t n, A* __restrict top, A* __restrict sum) {
  for (int64_t i = 0; i < n; i++) top[i] = rows[i], sum[i] = 0;
  for (int64_t k = 1; k < mixtures; k++) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) top[i] = rows[k * TILE + i] > top[i] ? rows[k * TILE + i] : top[i];
  }
  for (int64_t k = 0; k < mixtures; k++) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const A power = decay(top[i] - rows[k * TILE + i]).power;
      rows[k * TILE + i] = power, sum[i] += power;
    }
  }
}

template <int channels, typename T, typename A>
GENKERN_INLINE void forward_tile(const T* params, int64_t sites, int64_t mixtures, int64_t n, const Constants<A>& c,
                                 const Scratch<A>& s, A* __restrict nll) {
  for (int64_t k = 0; k < mixtures; k++) component<channels, false, T, A>(params, sites, mixtures, k, n, c, s);
  A top[TILE], sum[TILE], prior_top[TILE], prior_sum[TILE];
  sum_exp(s.log_p, mixtures, n, top, sum);
  sum_exp(s.prior, mixtures, n, prior_top, prior_sum);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) nll[i] = (prior_top[i] - top[i]) + log_positive(prior_sum[i] / sum[i]);
}

template <int channels, typename T, typename A>
GENKERN_INLINE void backward_tile(const A* __restrict grad, const T* params, int64_t sites, int64_t mixtures, int64_t n,
                                  const Constants<A>& c, const Scratch<A>& s, T* grad_params) {
  constexpr int kinds = channels == 1 ? 2 : 3;
  for (int64_t k = 0; k < mixtures; k++) component<channels, true, T, A>(params, sites, mixtures, k, n, c, s);
  A top[TILE], sum[TILE], prior_top[TILE], prior_sum[TILE];
  sum_exp(s.log_p, mixtures, n, top, sum);
  sum_exp(s.prior, mixtures, n, prior_top, prior_sum);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) sum[i] = grad[i] / sum[i], prior_sum[i] = grad[i] / prior_sum[i];
  for (int64_t k = 0; k < mixtures; k++) {
    const A* __restrict power = s.log_p + k * TILE, * __restrict prior = s.prior + k * TILE;
    const A* __restrict mean = s.mean + k * channels * TILE, * __restrict scale = s.log_scale + k * channels * TILE;
    const A* __restrict slope = s.coefficient + k * 3 * TILE, * __restrict value = s.value;
    T* __restrict to = grad_params + k * sites;
    T* __restrict out = grad_params + (mixtures + k) * sites;
    const int64_t block = kinds * mixtures * sites, plane = mixtures * sites;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const A share = power[i] * sum[i];  // of the gradient
      to[i] = store<T>(prior[i] * prior_sum[i] - share);
      const auto channel = [&](int ch) {
        out[ch * block + i] = store<T>(-share * mean[ch * TILE + i]);
        out[ch * block + plane + i] = store<T>(-share * scale[ch * TILE + i]);
      };
      const auto coefficient = [&](int ch, A others) {
        out[ch * block + 2 * plane + i] = store<T>(-share * (slope[ch * TILE + i] * others));
      };
      channel(0);
      if constexpr (channels == 3) {
        channel(1), channel(2);
        coefficient(0, mean[TILE + i] * value[i]);
        coefficient(1, mean[2 * TILE + i] * value[i]), coefficient(2, mean[2 * TILE + i] * value[TILE + i]);
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

// Values of the levels, and which of them are open ends.
template <typename A>
void read_levels(const Shape& shape, Pixels x, int64_t sample, int64_t first, int64_t n, const Constants<A>& constants,
                 const Scratch<A>& to) {
  const A low = constants.low, step = constants.step, last = constants.last, open = constants.open ? A(1) : A(0);
  with_integer(x.dtype, [&](auto type) {
    using I = decltype(type);
    for (int64_t c = 0; c < shape.channels; c++) {
      const I* from = static_cast<const I*>(x.data) + (sample * shape.channels + c) * shape.sites + first;
      A* __restrict value = to.value + c * TILE, * __restrict edge = to.edge + c * TILE;
      for (int64_t i = 0; i < n; i++) {
        const A level = A(from[i]);
        value[i] = low + step * level;
        edge[i] = level <= A(0) ? -open : (level >= last ? open : A(0));
      }
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
    read_levels(shape, x, b, first, n, constants, scratch);
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
    read_levels(shape, x, b, first, n, constants, scratch);
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

void draw(const Draw<float>& d, const float* params, int64_t stride, const float* noise, int64_t noise_stride,
          float* level) {
  draw_pixel(d, params, stride, noise, noise_stride, level);
}
void draw(const Draw<double>& d, const double* params, int64_t stride, const double* noise, int64_t noise_stride,
          double* level) {
  draw_pixel(d, params, stride, noise, noise_stride, level);
}

template <typename A>
void sample(const Shape& shape, const Levels& levels, double temperature, const A* params, const A* noise, void* x,
            Integer dtype, int64_t begin, int64_t end) {
  const Constants<A> c(levels);
  const int64_t C = shape.channels, sites = shape.sites;
  const Draw<A> d{C, shape.mixtures, c.low, c.step, c.last, c.min_log_scale, A(temperature)};
  each_tile(shape, begin, end, [&](int64_t b, int64_t first, int64_t n) {
    for (int64_t i = first; i < first + n; i++) {
      A level[3];
      draw(d, params + b * shape.planes() * sites + i, sites, noise + b * (C + 1) * sites + i, sites, level);
      with_integer(dtype, [&](auto type) {
        auto* const to = static_cast<decltype(type)*>(x) + b * C * sites + i;
        for (int64_t ch = 0; ch < C; ch++) to[ch * sites] = decltype(type)(level[ch]);
      });
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
