#include "../../common/dense.h"
#include "../random/staged.h"
#include "gaussian_kl.h"

namespace genkern::gaussian_kl {
namespace {

constexpr int64_t GRAIN = 4;  // stretches a thread should have at least

std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

// Contiguous inputs, which live as long as the call.
struct Call {
  Tensor mean, logvar, prior_mean, prior_logvar;
  Inputs inputs;
  Stages stages;

  Call(const Tensor& m, const Tensor& v, const Tensor& n, const Tensor& w)
      : mean(dense(m)),
        logvar(dense(v)),
        prior_mean(dense(n)),
        prior_logvar(dense(w)),
        inputs{mean.size(0),          mean.size(0) == 0 ? 0 : mean.numel() / mean.size(0),
               mean.data_ptr(),       logvar.data_ptr(),
               prior_mean.data_ptr(), prior_logvar.data_ptr()},
        stages(inputs.batch, inputs.elements) {}
};

template <typename A>
void total(const std::vector<double>& parts, int64_t count, const Tensor& out) {
  for (int64_t b = 0; b < out.size(0); b++) data<A>(out)[b] = A(sum_of_parts(parts.data(), b, count));
}

Tensor forward_cpu(Tensor mean, Tensor logvar, Tensor prior_mean, Tensor prior_logvar) {
  const Call call(mean, logvar, prior_mean, prior_logvar);
  Tensor kl = output(mean, {call.inputs.batch}, wide(mean));
  std::vector<double> sums(call.inputs.batch * call.stages.parts);
  dispatch("gaussian_kl", mean.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(call.stages.count(), GRAIN,
             [&](int64_t begin, int64_t end) { forward<T>(call.inputs, sums.data(), begin, end); });
    total<arithmetic_t<T>>(sums, call.stages.parts, kl);
  });
  return kl;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_cpu(Tensor grad, Tensor mean, Tensor logvar, Tensor prior_mean,
                                                        Tensor prior_logvar, bool needs_mean, bool needs_logvar,
                                                        bool needs_prior_mean, bool needs_prior_logvar) {
  const Call call(mean, logvar, prior_mean, prior_logvar);
  const Tensor dense_grad = dense(grad);
  const auto fresh = [](const Tensor& like, bool needed) {
    return output(like, needed ? sizes_of(like) : std::vector<int64_t>{0});
  };
  const auto pointer = [](const Tensor& tensor, bool needed) { return needed ? tensor.data_ptr() : nullptr; };
  const auto done = [](const Tensor& like, const Tensor& tensor, bool needed) {
    return needed ? in_order_of(like, tensor) : tensor;
  };
  const Tensor m = fresh(mean, needs_mean), v = fresh(logvar, needs_logvar), n = fresh(prior_mean, needs_prior_mean),
               w = fresh(prior_logvar, needs_prior_logvar);
  const Gradients to{dense_grad.data_ptr(), pointer(m, needs_mean), pointer(v, needs_logvar),
                     pointer(n, needs_prior_mean), pointer(w, needs_prior_logvar)};
  dispatch("gaussian_kl", mean.scalar_type(), [&](auto type) {
    parallel(call.stages.count(), GRAIN,
             [&](int64_t begin, int64_t end) { backward<decltype(type)>(call.inputs, to, begin, end); });
  });
  return {done(mean, m, needs_mean), done(logvar, v, needs_logvar), done(prior_mean, n, needs_prior_mean),
          done(prior_logvar, w, needs_prior_logvar)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("gaussian_kl", TORCH_BOX(&forward_cpu));
  m.impl("gaussian_kl_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::gaussian_kl
