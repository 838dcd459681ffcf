#include "../../common/dense.h"
#include "../random/staged.h"
#include "q_sample.h"

namespace genkern::q_sample {
namespace {

constexpr int64_t GRAIN = 4;  // stretches a thread should have at least

std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

int64_t elements_of(const Tensor& tensor) { return tensor.size(0) == 0 ? 0 : tensor.numel() / tensor.size(0); }

void run_forward(const Tensor& x0, const Tensor& a, const Tensor& s, const Tensor& key, int64_t sample_offset,
                 const Tensor& x_t) {
  const Forward call{x0.size(0),    elements_of(x0), uint64_t(*data<int64_t>(key)),
                     sample_offset, x0.data_ptr(),   a.data_ptr(),
                     s.data_ptr(),  x_t.data_ptr()};
  dispatch("q_sample", x0.scalar_type(), [&](auto type) {
    parallel(Stages(call.batch, call.elements).count(), GRAIN,
             [&](int64_t begin, int64_t end) { forward<decltype(type)>(call, begin, end); });
  });
}

Tensor forward_cpu(Tensor x0, Tensor a, Tensor s, Tensor key, int64_t sample_offset) {
  const Tensor source = dense(x0);
  Tensor x_t = output(x0, sizes_of(x0));
  run_forward(source, dense(a), dense(s), key, sample_offset, x_t);
  return in_order_of(x0, x_t);
}

void out_cpu(Tensor x0, Tensor a, Tensor s, Tensor key, int64_t sample_offset, Tensor out) {
  const Tensor source = dense(x0);
  Tensor x_t = out.is_contiguous() ? out : output(x0, sizes_of(x0));
  run_forward(source, dense(a), dense(s), key, sample_offset, x_t);
  if (!out.is_contiguous()) torch::stable::copy_(out, x_t);
}

template <typename A>
void total(const std::vector<double>& parts, int64_t count, const Tensor& out) {
  for (int64_t b = 0; b < out.size(0); b++) data<A>(out)[b] = A(sum_of_parts(parts.data(), b, count));
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(Tensor grad, Tensor x0, Tensor a, Tensor s, Tensor key,
                                                int64_t sample_offset, bool needs_x0, bool needs_a, bool needs_s) {
  const Tensor dense_grad = dense(grad), source = dense(x0);
  const int64_t batch = x0.size(0), elements = elements_of(x0);
  const Stages stages(batch, elements);
  Tensor grad_x0 = needs_x0 ? output(x0, sizes_of(x0)) : output(x0, {0});
  Tensor grad_a = output(a, {needs_a ? batch : 0}), grad_s = output(s, {needs_s ? batch : 0});
  std::vector<double> a_parts(needs_a ? batch * stages.parts : 0), s_parts(needs_s ? batch * stages.parts : 0);
  a = dense(a);
  const Backward call{batch,
                      elements,
                      uint64_t(*data<int64_t>(key)),
                      sample_offset,
                      dense_grad.data_ptr(),
                      source.data_ptr(),
                      a.data_ptr(),
                      needs_x0 ? grad_x0.data_ptr() : nullptr,
                      needs_a ? a_parts.data() : nullptr,
                      needs_s ? s_parts.data() : nullptr};
  dispatch("q_sample", x0.scalar_type(), [&](auto type) {
    using A = arithmetic_t<decltype(type)>;
    parallel(stages.count(), GRAIN, [&](int64_t begin, int64_t end) { backward<decltype(type)>(call, begin, end); });
    if (needs_a) total<A>(a_parts, stages.parts, grad_a);
    if (needs_s) total<A>(s_parts, stages.parts, grad_s);
  });
  return {needs_x0 ? in_order_of(x0, grad_x0) : grad_x0, grad_a, grad_s};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("q_sample", TORCH_BOX(&forward_cpu));
  m.impl("q_sample_out", TORCH_BOX(&out_cpu));
  m.impl("q_sample_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::q_sample
