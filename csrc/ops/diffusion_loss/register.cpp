#include "../../common/dense.h"
#include "../random/staged.h"
#include "diffusion_loss.h"

namespace genkern::diffusion_loss {
namespace {

constexpr int64_t GRAIN = 4;  // stretches a thread should have at least

std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

// Contiguous inputs, which live as long as the call.
struct Call {
  Tensor output, x0, p, q;
  Inputs inputs;
  Stages stages;

  Call(const Tensor& given_output, const Tensor& given_x0, const Tensor& given_p, const Tensor& given_q,
       const Tensor& key, int64_t sample_offset)
      : output(dense(given_output)),
        x0(dense(given_x0)),
        p(dense(given_p)),
        q(dense(given_q)),
        inputs{output.size(0),
               output.size(0) == 0 ? 0 : output.numel() / output.size(0),
               uint64_t(*data<int64_t>(key)),
               sample_offset,
               output.data_ptr(),
               x0.data_ptr(),
               p.data_ptr(),
               q.data_ptr()},
        stages(inputs.batch, inputs.elements) {}
};

template <typename A>
void total(const std::vector<double>& parts, int64_t count, double scale, const Tensor& out) {
  for (int64_t b = 0; b < out.size(0); b++) data<A>(out)[b] = A(scale * sum_of_parts(parts.data(), b, count));
}

Tensor forward_cpu(Tensor given_output, Tensor x0, Tensor p, Tensor q, Tensor key, int64_t sample_offset) {
  const Call call(given_output, x0, p, q, key, sample_offset);
  Tensor loss = output(given_output, {call.inputs.batch}, wide(given_output));
  std::vector<double> squares(call.inputs.batch * call.stages.parts);
  dispatch("diffusion_loss", given_output.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(call.stages.count(), GRAIN,
             [&](int64_t begin, int64_t end) { forward<T>(call.inputs, squares.data(), begin, end); });
    total<arithmetic_t<T>>(squares, call.stages.parts, 1.0 / std::max<int64_t>(call.inputs.elements, 1), loss);
  });
  return loss;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_cpu(Tensor grad, Tensor given_output, Tensor x0, Tensor p, Tensor q,
                                                        Tensor key, int64_t sample_offset, bool needs_output,
                                                        bool needs_x0, bool needs_p, bool needs_q) {
  const Call call(given_output, x0, p, q, key, sample_offset);
  const Tensor dense_grad = dense(grad);
  const int64_t batch = call.inputs.batch, parts = call.stages.parts;
  Tensor grad_output = output(given_output, needs_output ? sizes_of(given_output) : std::vector<int64_t>{0});
  Tensor grad_x0 = output(x0, needs_x0 ? sizes_of(x0) : std::vector<int64_t>{0});
  Tensor grad_p = output(p, {needs_p ? batch : 0}), grad_q = output(q, {needs_q ? batch : 0});
  std::vector<double> p_parts(needs_p ? batch * parts : 0), q_parts(needs_q ? batch * parts : 0);
  const Gradients to{dense_grad.data_ptr(), needs_output ? grad_output.data_ptr() : nullptr,
                     needs_x0 ? grad_x0.data_ptr() : nullptr, needs_p ? p_parts.data() : nullptr,
                     needs_q ? q_parts.data() : nullptr};
  dispatch("diffusion_loss", given_output.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(call.stages.count(), GRAIN, [&](int64_t begin, int64_t end) { backward<T>(call.inputs, to, begin, end); });
    if (needs_p) total<arithmetic_t<T>>(p_parts, parts, 1.0, grad_p);
    if (needs_q) total<arithmetic_t<T>>(q_parts, parts, 1.0, grad_q);
  });
  return {needs_output ? in_order_of(given_output, grad_output) : grad_output,
          needs_x0 ? in_order_of(x0, grad_x0) : grad_x0, grad_p, grad_q};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("diffusion_loss", TORCH_BOX(&forward_cpu));
  m.impl("diffusion_loss_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::diffusion_loss
