#include "../../common/torch.h"
#include "quantile_huber.h"

namespace genkern::quantile_huber {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

Tensor forward_cpu(Tensor x, Tensor q, Tensor tau, double kappa) {
  x = dense(x), q = dense(q), tau = dense(tau);
  Tensor loss = output(x, {x.sizes().begin(), x.sizes().end()}, wide(x));
  dispatch("quantile_huber", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(x.numel(), GRAIN, [&](int64_t begin, int64_t end) {
      forward<T>(data<T>(x), data<T>(q), data<T>(tau), kappa, data<arithmetic_t<T>>(loss), begin, end);
    });
  });
  return loss;
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(Tensor grad, Tensor x, Tensor q, Tensor tau, double kappa, bool needs_x,
                                                bool needs_q, bool needs_tau) {
  grad = dense(grad), x = dense(x), q = dense(q), tau = dense(tau);
  Tensor grad_x = needs_x ? output_like(x) : output(x, {0}), grad_q = needs_q ? output_like(q) : output(x, {0});
  Tensor grad_tau = needs_tau ? output_like(tau) : output(x, {0});
  dispatch("quantile_huber", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(x.numel(), GRAIN, [&](int64_t begin, int64_t end) {
      backward<T>(data<arithmetic_t<T>>(grad), data<T>(x), data<T>(q), data<T>(tau), kappa,
                  needs_x ? data<T>(grad_x) : nullptr, needs_q ? data<T>(grad_q) : nullptr,
                  needs_tau ? data<T>(grad_tau) : nullptr, begin, end);
    });
  });
  return {grad_x, grad_q, grad_tau};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("quantile_huber", TORCH_BOX(&forward_cpu));
  m.impl("quantile_huber_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::quantile_huber
