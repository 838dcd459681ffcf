#include <array>

#include "../../common/dense.h"
#include "actnorm.h"

namespace genkern::actnorm {
namespace {

template <typename A>
Parameters<A> parameters_of(const Channels& shape, const Tensor& log_scale, const Tensor& before, const Tensor& after,
                            bool inverse) {
  const A *s = data<A>(log_scale), *b = data<A>(before), *a = data<A>(after);
  return {shape, [=](int64_t c) {
            return inverse ? std::array<double, 3>{-a[c], -s[c], -b[c]} : std::array<double, 3>{b[c], s[c], a[c]};
          }};
}

void check_parameters(const Tensor& x, const Tensor& log_scale, const Tensor& before, const Tensor& after) {
  for (const Tensor* p : {&log_scale, &before, &after})
    STD_TORCH_CHECK(p->scalar_type() == wide(x) && p->numel() == x.size(1),
                    "actnorm: parameters must be [C], float32 or, for float64, float64");
}

std::tuple<Tensor, Tensor> forward_cpu(Tensor x, Tensor log_scale, Tensor before, Tensor after, bool inverse) {
  check_parameters(x, log_scale, before, after);
  x = dense_in_order(x), log_scale = dense(log_scale), before = dense(before), after = dense(after);
  Tensor y = output_like(x), log_det = output(x, {x.size(0)}, wide(x));
  const Channels shape = channels_of(x);
  dispatch("actnorm", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = arithmetic_t<T>;
    const Parameters<A> parameters = parameters_of<A>(shape, log_scale, before, after, inverse);
    parallel_units(shape, [&](int64_t begin, int64_t end) {
      apply<T>(shape, parameters, x.data_ptr(), y.data_ptr(), begin, end);
    });
    double sum = 0;
    for (int64_t c = 0; c < x.size(1); c++) sum += data<A>(log_scale)[c];
    std::fill_n(data<A>(log_det), x.size(0), A((inverse ? -sum : sum) * double(sites_of(x))));
  });
  return {y, log_det};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_cpu(Tensor grad_y, Tensor grad_log_det, Tensor x, Tensor log_scale,
                                                        Tensor before, Tensor after, bool inverse, bool needs_x,
                                                        bool needs_log_scale, bool needs_before, bool needs_after) {
  check_parameters(x, log_scale, before, after);
  x = dense_in_order(x), log_scale = dense(log_scale), before = dense(before), after = dense(after);
  grad_y = in_layout_of(x, grad_y), grad_log_det = dense(grad_log_det);
  const int64_t channels = x.size(1);
  Tensor grad_x = needs_x ? output_like(x) : output(x, {0});
  Tensor grad_log_scale = output(log_scale, {needs_log_scale ? channels : 0});
  Tensor grad_before = output(before, {needs_before ? channels : 0});
  Tensor grad_after = output(after, {needs_after ? channels : 0});
  const Channels shape = channels_of(x);
  dispatch("actnorm", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = arithmetic_t<T>;
    const A* s = data<A>(log_scale);
    if (!needs_log_scale && !needs_before && !needs_after) {
      const Parameters<A> scale(shape, [=](int64_t c) { return std::array<double, 3>{0, inverse ? -s[c] : s[c], 0}; });
      parallel_units(shape, [&](int64_t begin, int64_t end) {
        apply<T>(shape, scale, grad_y.data_ptr(), grad_x.data_ptr(), begin, end);
      });
      return;
    }
    const Parameters<A> parameters = parameters_of<A>(shape, log_scale, before, after, inverse);
    std::vector<double> partial(2 * shape.slots() * channels);
    parallel_units(shape, [&](int64_t begin, int64_t end) {
      reduce<T>(shape, parameters, grad_y.data_ptr(), x.data_ptr(), needs_x ? grad_x.data_ptr() : nullptr,
                partial.data(), begin, end);
    });
    const std::vector<double> sums = total_of(shape, partial);
    double log_dets = 0;
    for (int64_t b = 0; b < x.size(0); b++) log_dets += data<A>(grad_log_det)[b];
    log_dets *= double(sites_of(x));
    for (int64_t c = 0; c < channels; c++) {
      const double f = std::exp(inverse ? -double(s[c]) : double(s[c])), grad = sums[2 * c], scaled = f * grad;
      const double grad_s = f * sums[2 * c + 1] + log_dets;
      if (needs_log_scale) data<A>(grad_log_scale)[c] = A(inverse ? -grad_s : grad_s);
      if (needs_before) data<A>(grad_before)[c] = A(inverse ? -grad : scaled);
      if (needs_after) data<A>(grad_after)[c] = A(inverse ? -scaled : grad);
    }
  });
  return {grad_x, grad_log_scale, grad_before, grad_after};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("actnorm", TORCH_BOX(&forward_cpu));
  m.impl("actnorm_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::actnorm
