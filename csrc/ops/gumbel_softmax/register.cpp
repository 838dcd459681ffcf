#include "../../common/torch.h"
#include "gumbel_softmax.h"

namespace genkern::gumbel_softmax {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

// Logits [samples, panels, classes, inner], contiguous.
Call call_of(const Tensor& logits, const Tensor& key, double temperature, bool hard, int64_t sample_offset) {
  Call call{};
  call.panels = logits.size(1), call.classes = logits.size(2), call.inner = logits.size(3);
  call.sample_offset = sample_offset, call.key = uint64_t(*data<int64_t>(key));
  call.temperature = temperature, call.hard = hard, call.logits = logits.data_ptr();
  return call;
}

Tensor forward_cpu(Tensor logits, Tensor key, double temperature, bool hard, int64_t sample_offset) {
  logits = dense(logits);
  Tensor y = output_like(logits);
  if (logits.numel() == 0) return y;
  Call call = call_of(logits, key, temperature, hard, sample_offset);
  call.out = y.data_ptr();
  dispatch("gumbel_softmax", logits.scalar_type(), [&](auto type) {
    parallel(logits.size(0), GRAIN / call.elements(),
             [&](int64_t begin, int64_t end) { forward<decltype(type)>(call, begin, end); });
  });
  return y;
}

Tensor backward_cpu(Tensor grad, Tensor logits, Tensor key, double temperature, bool hard, int64_t sample_offset) {
  Tensor result = output_like(logits), grad_logits = result;
  logits = dense(logits), grad = dense(grad);
  if (logits.numel() == 0) return result;
  if (!result.is_contiguous()) grad_logits = output_like(logits);
  Call call = call_of(logits, key, temperature, hard, sample_offset);
  call.grad = grad.data_ptr(), call.out = grad_logits.data_ptr();
  dispatch("gumbel_softmax", logits.scalar_type(), [&](auto type) {
    parallel(logits.size(0), GRAIN / call.elements(),
             [&](int64_t begin, int64_t end) { backward<decltype(type)>(call, begin, end); });
  });
  if (grad_logits.data_ptr() != result.data_ptr()) torch::stable::copy_(result, grad_logits);
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("gumbel_softmax", TORCH_BOX(&forward_cpu));
  m.impl("gumbel_softmax_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::gumbel_softmax
