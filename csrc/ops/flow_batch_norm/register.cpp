#include <array>

#include "../../common/dense.h"
#include "flow_batch_norm.h"

namespace genkern::flow_batch_norm {
namespace {

// Mean and biased variance of each channel, [C]; zeros for an empty tensor.
std::tuple<Tensor, Tensor> statistics_cpu(Tensor x) {
  x = dense_in_order(x);
  const int64_t channels = x.size(1);
  Tensor mean = output(x, {channels}, wide(x)), variance = output(x, {channels}, wide(x));
  const Channels shape = channels_of(x);
  dispatch("flow_batch_norm", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = arithmetic_t<T>;
    std::vector<Moments> partial(shape.slots() * channels), whole(channels);
    parallel_units(shape,
                   [&](int64_t begin, int64_t end) { moments<T>(shape, x.data_ptr(), partial.data(), begin, end); });
    for (int64_t slot = 0; slot < shape.slots(); slot++)
      for (int64_t c = 0; c < channels; c++) whole[c].add(partial[slot * channels + c]);
    for (int64_t c = 0; c < channels; c++) {
      data<A>(mean)[c] = A(whole[c].mean());
      data<A>(variance)[c] = A(whole[c].count > 0 ? std::max(whole[c].squares(), 0.0) / whole[c].count : 0.0);
    }
  });
  return {mean, variance};
}

void check_parameters(const Tensor& x, const Tensor& log_scale, const Tensor& bias, const Tensor& mean,
                      const Tensor& variance) {
  for (const Tensor* p : {&log_scale, &bias, &mean, &variance})
    STD_TORCH_CHECK(p->scalar_type() == wide(x) && p->numel() == x.size(1),
                    "flow_batch_norm: parameters and statistics must be [C], float32 or, for float64, float64");
}

// ln f = s - ln(v + eps) / 2
template <typename A>
std::vector<double> log_factors(const Tensor& log_scale, const Tensor& variance, double eps) {
  std::vector<double> logs(log_scale.numel());
  for (size_t c = 0; c < logs.size(); c++)
    logs[c] = double(data<A>(log_scale)[c]) - 0.5 * std::log(double(data<A>(variance)[c]) + eps);
  return logs;
}

std::tuple<Tensor, Tensor> forward_cpu(Tensor x, Tensor log_scale, Tensor bias, Tensor mean, Tensor variance,
                                       double eps) {
  check_parameters(x, log_scale, bias, mean, variance);
  x = dense_in_order(x);
  log_scale = dense(log_scale), bias = dense(bias), mean = dense(mean), variance = dense(variance);
  Tensor y = output_like(x), log_det = output(x, {x.size(0)}, wide(x));
  const Channels shape = channels_of(x);
  dispatch("flow_batch_norm", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = arithmetic_t<T>;
    const A *b = data<A>(bias), *mu = data<A>(mean);
    const std::vector<double> logs = log_factors<A>(log_scale, variance, eps);
    const actnorm::Parameters<A> parameters(shape,
                                            [&](int64_t c) { return std::array<double, 3>{-mu[c], logs[c], b[c]}; });
    parallel_units(shape, [&](int64_t begin, int64_t end) {
      actnorm::apply<T>(shape, parameters, x.data_ptr(), y.data_ptr(), begin, end);
    });
    double sum = 0;
    for (const double log : logs) sum += log;
    std::fill_n(data<A>(log_det), x.size(0), A(sum * double(sites_of(x))));
  });
  return {y, log_det};
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(Tensor grad_y, Tensor grad_log_det, Tensor x, Tensor log_scale,
                                                Tensor bias, Tensor mean, Tensor variance, double eps, bool needs_x,
                                                bool needs_log_scale, bool needs_bias) {
  check_parameters(x, log_scale, bias, mean, variance);
  x = dense_in_order(x);
  log_scale = dense(log_scale), bias = dense(bias), mean = dense(mean), variance = dense(variance);
  grad_y = in_layout_of(x, grad_y), grad_log_det = dense(grad_log_det);
  const int64_t channels = x.size(1);
  Tensor grad_x = needs_x ? output_like(x) : output(x, {0});
  Tensor grad_log_scale = output(log_scale, {needs_log_scale ? channels : 0});
  Tensor grad_bias = output(bias, {needs_bias ? channels : 0});
  const Channels shape = channels_of(x);
  dispatch("flow_batch_norm", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = arithmetic_t<T>;
    const A *mu = data<A>(mean), *v = data<A>(variance);
    const std::vector<double> logs = log_factors<A>(log_scale, variance, eps);
    const actnorm::Parameters<A> centers(shape, [&](int64_t c) { return std::array<double, 3>{-mu[c], 0, 0}; });
    std::vector<double> partial(2 * shape.slots() * channels);
    parallel_units(shape, [&](int64_t begin, int64_t end) {
      actnorm::reduce<T>(shape, centers, grad_y.data_ptr(), x.data_ptr(), nullptr, partial.data(), begin, end);
    });
    const std::vector<double> sums = actnorm::total_of(shape, partial);
    double log_dets = 0;
    for (int64_t b = 0; b < x.size(0); b++) log_dets += data<A>(grad_log_det)[b];
    log_dets *= double(sites_of(x));

    const double count = double(std::max<int64_t>(x.numel() / std::max<int64_t>(channels, 1), 1));
    std::vector<double> slopes(channels), offsets(channels);
    for (int64_t c = 0; c < channels; c++) {
      const double f = std::exp(logs[c]), grad_s = f * sums[2 * c + 1] + log_dets;
      slopes[c] = -grad_s / (count * (double(v[c]) + eps));
      offsets[c] = -f * sums[2 * c] / count;
      if (needs_log_scale) data<A>(grad_log_scale)[c] = A(grad_s);
      if (needs_bias) data<A>(grad_bias)[c] = A(sums[2 * c]);
    }
    if (!needs_x) return;
    const actnorm::Parameters<A> parameters(
        shape, [&](int64_t c) { return std::array<double, 3>{-mu[c], logs[c], offsets[c]}; });
    std::vector<A> slope(shape.parameters());
    shape.each_channel(0, shape.parameters(), [&](int64_t p, int64_t c) { slope[p] = A(slopes[c]); });
    parallel_units(shape, [&](int64_t begin, int64_t end) {
      combine<T>(shape, parameters, slope.data(), grad_y.data_ptr(), x.data_ptr(), grad_x.data_ptr(), begin, end);
    });
  });
  return {grad_x, grad_log_scale, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("flow_batch_norm_statistics", TORCH_BOX(&statistics_cpu));
  m.impl("flow_batch_norm", TORCH_BOX(&forward_cpu));
  m.impl("flow_batch_norm_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::flow_batch_norm
