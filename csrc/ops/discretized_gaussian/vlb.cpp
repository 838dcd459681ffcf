// Terms of the variational bound: the divergence of two Gaussians, or the decoder over the bins of pixels.

#include "../../common/excess.h"
#include "bins.h"

namespace genkern::discretized_gaussian {
namespace {

template <typename A>
struct Row {
  A of_x_t, of_output, mean_x0, mean_x_t, log_variance_q, low, high, decoder;
};

template <typename A>
GENKERN_HD A raw_estimate(const Row<A>& row, A x_t, A output) {
  return row.of_x_t * x_t + row.of_output * output;
}

template <typename A>
GENKERN_HD A estimate(const Row<A>& row, A limit, A x_t, A output) {
  return bounded(raw_estimate(row, x_t, output), -limit, limit);
}

template <typename A>
GENKERN_HD A log_variance_of(const Row<A>& row, A v) {
  const A half = A(0.5) * (v + A(1));
  return half * row.high + (A(1) - half) * row.low;
}

// Divergences of a sample whose variance is one number: e^d - 1 - d comes once, the squares are summed.
template <typename A>
GENKERN_INLINE double squares_loop(const Row<A> row, A limit, const A* __restrict x0, const A* __restrict x_t,
                                   const A* __restrict output, int64_t n) {
  const A of_x_t = row.of_x_t, of_output = row.of_output;
  return sum_over<A>(n, [=](int64_t i) {
    const A error = x0[i] - bounded(of_x_t * x_t[i] + of_output * output[i], -limit, limit);
    return error * error;
  });
}

template <typename A>
GENKERN_INLINE double divergences_loop(const Row<A> row, A limit, const A* __restrict x0, const A* __restrict x_t,
                                       const A* __restrict output, const A* __restrict v, int64_t n) {
  const A inverse_q = exp(-row.log_variance_q), half_span = A(0.5) * (row.high - row.low);
  const A shift = row.log_variance_q - row.low, most = A(80) + row.log_variance_q;
  const A of_x_t = row.of_x_t, of_output = row.of_output, scale = row.mean_x0 * row.mean_x0 * inverse_q;
  const double twice = sum_over<A>(n, [=](int64_t i) {
    const A beyond = (v[i] + A(1)) * half_span - shift;  // l - c4: without cancellation where c4 is c5
    const A d = -beyond < most ? -beyond : most;
    const A error = x0[i] - bounded(of_x_t * x_t[i] + of_output * output[i], -limit, limit);
    const Exponential<A> e = exponential(d);
    return e.excess + (d + beyond) + error * error * (e.power * scale);
  });
  return 0.5 * twice;
}

// Derivatives by the estimate of x_0, and by l if there is v.
template <bool learned, typename A>
GENKERN_INLINE void slopes_loop(const Row<A> row, A limit, const A* __restrict x0, const A* __restrict x_t,
                                const A* __restrict output, const A* __restrict v, int64_t n, A* __restrict by_estimate,
                                A* __restrict by_log_variance) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A l = learned ? log_variance_of(row, v[i]) : row.low, least = l < A(-80) ? A(-80) : l;
    const A inverse = exp(-least);
    const A error = row.mean_x0 * (x0[i] - estimate(row, limit, x_t[i], output[i]));
    by_estimate[i] = -row.mean_x0 * error * inverse;
    const A within = l < A(-80) ? A(0) : exp(row.log_variance_q - least) + error * error * inverse;
    if constexpr (learned) by_log_variance[i] = A(0.5) * (A(1) - within);
  }
}

// The Gaussian of the decoder, for every pixel.
template <bool learned, typename A>
GENKERN_INLINE void decoder_loop(const Row<A> row, A limit, const A* __restrict x_t, const A* __restrict output,
                                 const A* __restrict v, int64_t n, A* __restrict mean, A* __restrict log_std) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    mean[i] = row.mean_x0 * estimate(row, limit, x_t[i], output[i]) + row.mean_x_t * x_t[i];
    log_std[i] = A(0.5) * (learned ? log_variance_of(row, v[i]) : row.low);
  }
}

// From derivatives by the estimate to those by x_t and the output, where it was not clipped.
template <typename T, typename A>
GENKERN_INLINE void pull_loop(const Row<A> row, A limit, const A* __restrict x_t, const A* __restrict output,
                              const A* __restrict by_estimate, int64_t n, A scale, A direct,
                              const A* __restrict by_mean, T* __restrict to, A factor) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const A raw = raw_estimate(row, x_t[i], output[i]);
    const A inside = (raw >= -limit) & (raw <= limit) ? by_estimate[i] : A(0);
    to[i] = store<T>(scale * (factor * inside + direct * by_mean[i]));
  }
}

#define GENKERN_DEFINE(A, CLONES)                                                                                  \
  CLONES double squares(const Row<A>& row, A limit, const A* x0, const A* x_t, const A* output, int64_t n) {       \
    return squares_loop(row, limit, x0, x_t, output, n);                                                           \
  }                                                                                                                \
  CLONES double divergences(const Row<A>& row, A limit, const A* x0, const A* x_t, const A* output, const A* v,    \
                            int64_t n) {                                                                           \
    return divergences_loop(row, limit, x0, x_t, output, v, n);                                                    \
  }                                                                                                                \
  CLONES void slopes(const Row<A>& row, A limit, const A* x0, const A* x_t, const A* output, const A* v, int64_t n, \
                     A* by_estimate, A* by_log_variance) {                                                         \
    if (v)                                                                                                         \
      slopes_loop<true>(row, limit, x0, x_t, output, v, n, by_estimate, by_log_variance);                          \
    else                                                                                                           \
      slopes_loop<false>(row, limit, x0, x_t, output, v, n, by_estimate, by_log_variance);                         \
  }                                                                                                                \
  CLONES void decoder(const Row<A>& row, A limit, const A* x_t, const A* output, const A* v, int64_t n, A* mean,   \
                      A* log_std) {                                                                                \
    if (v)                                                                                                         \
      decoder_loop<true>(row, limit, x_t, output, v, n, mean, log_std);                                            \
    else                                                                                                           \
      decoder_loop<false>(row, limit, x_t, output, v, n, mean, log_std);                                           \
  }
GENKERN_DEFINE(float, GENKERN_CLONES)
GENKERN_DEFINE(double, )

#define GENKERN_DEFINE_PULL(T, A, CLONES)                                                                        \
  CLONES void pull(const Row<A>& row, A limit, const A* x_t, const A* output, const A* by_estimate, int64_t n, A scale, \
                   A direct, const A* by_mean, T* to, A factor) {                                                \
    pull_loop(row, limit, x_t, output, by_estimate, n, scale, direct, by_mean, to, factor);                      \
  }
GENKERN_DEFINE_PULL(float, float, GENKERN_CLONES)
GENKERN_DEFINE_PULL(Half, float, GENKERN_CLONES)
GENKERN_DEFINE_PULL(BFloat16, float, GENKERN_CLONES)
GENKERN_DEFINE_PULL(double, double, )

template <typename A>
A limit_of(const Terms& call) {
  return call.clip ? A(1) : std::numeric_limits<A>::infinity();
}

// A part of a sample, in the arithmetic type.
template <typename T, typename A = arithmetic_t<T>>
struct Part {
  A copies[4][STAGE];
  const A *x0, *x_t, *output, *v;
  Row<A> row;

  void read(const Terms& call, int64_t b, int64_t at, int64_t n) {
    x0 = widened<T>(call.x0, at, n, copies[0]);
    x_t = widened<T>(call.x_t, at, n, copies[1]);
    output = widened<T>(call.output, at, n, copies[2]);
    v = call.variance ? widened<T>(call.variance, at, n, copies[3]) : nullptr;
    row = static_cast<const Row<A>*>(call.coefficients)[b];
  }
};

// The stretches in an order in which every run of them has its share of the decoder's, which take far longer.
template <typename T>
struct Order {
  const Stages& stages;
  std::vector<int64_t> samples;  // the first of each group, those without a decoder before those with one
  int64_t slow = 0;              // stretches of a decoder

  Order(const Terms& call, const Stages& stages) : stages(stages) {
    const auto* const rows = static_cast<const Row<arithmetic_t<T>>*>(call.coefficients);
    for (int64_t b = 0; b < call.batch; b += stages.together) samples.push_back(b);
    const auto first_slow =
        std::stable_partition(samples.begin(), samples.end(), [&](int64_t b) { return rows[b].decoder == 0; });
    slow = (samples.end() - first_slow) * stages.parts;
  }

  int64_t operator[](int64_t i) const {
    const int64_t count = stages.count(), before = i * slow / count;  // decoders' among the first i
    const int64_t at = (i + 1) * slow / count > before ? count - slow + before : i - before;
    return samples[at / stages.parts] / stages.together * stages.parts + at % stages.parts;
  }
};

}  // namespace

template <typename T>
void forward(const Terms& call, double* sums, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const Stages stages(call.batch, call.elements);
  const Order<T> order(call, stages);
  const A limit = limit_of<A>(call);
  Part<T> p;
  A mean[STAGE], log_std[STAGE];
  int64_t known = -1;                // the sample of
  double constant = 0, inverse = 0;  // its divergence where the means agree, of one element, and 1 / variance
  for (int64_t i = begin; i < end; i++) {
    const int64_t u = order[i];
    const Stretch part = stages.stretch(u);
    const int64_t n = part.count;
    for (int64_t b = part.sample; b < part.sample + part.samples; b++) {
      p.read(call, b, b * call.elements + part.first, n);
      double& sum = sums[b * stages.parts + u % stages.parts];
      if (p.row.decoder != A(0)) {
        decoder(p.row, limit, p.x_t, p.output, p.v, n, mean, log_std);
        sum = -sum_of_bins(call.cdf, p.x0, mean, log_std, n, call.levels);
      } else if (p.v) {
        sum = divergences(p.row, limit, p.x0, p.x_t, p.output, p.v, n);
      } else {
        if (b != known) {
          const double l = p.row.low, least = std::max(l, -80.0), d = p.row.log_variance_q - least, c = p.row.mean_x0;
          known = b, constant = std::expm1(d) - d + (l - least), inverse = c * c * std::exp(-least);
        }
        sum = 0.5 * (double(n) * constant + squares(p.row, limit, p.x0, p.x_t, p.output, n) * inverse);
      }
    }
  }
}

template <typename T>
void backward(const Terms& call, const TermGradients& to, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const Stages stages(call.batch, call.elements);
  const Order<T> order(call, stages);
  const A limit = limit_of<A>(call);
  Part<T> p;
  A mean[STAGE], log_std[STAGE], by_estimate[STAGE], by_log_variance[STAGE] = {}, by_mean[STAGE];
  const A zeros[STAGE] = {};
  for (int64_t i = begin; i < end; i++) {
    const Stretch part = stages.stretch(order[i]);
    const int64_t n = part.count;
    for (int64_t b = part.sample; b < part.sample + part.samples; b++) {
      const int64_t at = b * call.elements + part.first;
      const A g = static_cast<const A*>(to.grad)[b];
      p.read(call, b, at, n);
      A by_x0 = A(1), through = A(0), scale_v = A(0.5) * (p.row.high - p.row.low) * g;  // of the mean's derivative
      if (p.row.decoder != A(0)) {
        decoder(p.row, limit, p.x_t, p.output, p.v, n, mean, log_std);
        slopes_of_bins(call.cdf, p.x0, mean, log_std, n, call.levels, by_mean, by_log_variance);
        for (int64_t k = 0; k < n; k++) by_estimate[k] = -p.row.mean_x0 * by_mean[k];
        through = -p.row.mean_x_t, scale_v *= A(-0.5);
      } else {
        slopes(p.row, limit, p.x0, p.x_t, p.output, p.v, n, by_estimate, by_log_variance);
        by_x0 = A(-1);
      }
      const A* const x0_slopes = p.row.decoder != A(0) ? by_mean : by_estimate;
      const A* const direct = p.row.decoder != A(0) ? by_mean : zeros;
      if (to.x0) store_loop(x0_slopes, static_cast<T*>(to.x0) + at, n, by_x0 * g);
      if (to.x_t)
        pull(p.row, limit, p.x_t, p.output, by_estimate, n, g, through, direct, static_cast<T*>(to.x_t) + at,
             p.row.of_x_t);
      if (to.output)
        pull(p.row, limit, p.x_t, p.output, by_estimate, n, g, A(0), zeros, static_cast<T*>(to.output) + at,
             p.row.of_output);
      if (to.variance) store_loop(by_log_variance, static_cast<T*>(to.variance) + at, n, scale_v);
    }
  }
}

#define GENKERN_INSTANTIATE(T)                                          \
  template void forward<T>(const Terms&, double*, int64_t, int64_t);    \
  template void backward<T>(const Terms&, const TermGradients&, int64_t, int64_t);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::discretized_gaussian
