#include "../../common/torch.h"
#include "gaussian_log_prob.h"

namespace genkern::gaussian_log_prob {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

// The sum over a sample has no order, so channels-last tensors are read as they lie where all of them lie so.
bool all_channels_last(const Tensor& x, const Tensor& mean, const Tensor& log_std) {
  return !x.is_contiguous() && channels_last(x) && channels_last(mean) && channels_last(log_std);
}

struct Parameter {
  Tensor tensor;
  int64_t stride;  // between samples; 0 where all share one
};

Parameter parameter(const Tensor& tensor, bool last) {
  const int64_t batch = tensor.size(0), elements = batch == 0 ? 0 : tensor.numel() / batch;
  if (last) return {tensor, elements};
  if (batch > 1 && tensor.stride(0) == 0) return {dense(torch::stable::select(tensor, 0, 0)), 0};
  return {dense(tensor), elements};
}

// A gradient with the strides of `like`, written in the order in which the inputs are read.
struct Gradient {
  Tensor result, written;

  Gradient(const Tensor& like, bool last) : result(output_like(like)), written(result) {
    if (last ? !channels_last(result) : !result.is_contiguous()) written = output(like, sizes_of(like));
  }
  static std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }
  Tensor done() {
    if (written.data_ptr() != result.data_ptr()) torch::stable::copy_(result, written);
    return result;
  }
};

int64_t grain(int64_t elements) { return GRAIN / std::max<int64_t>(elements, 1); }

Tensor run_forward(const Tensor& like, const Forward& partial) {
  const int64_t batch = like.size(0);
  Tensor log_prob = output(like, {batch}, wide(like));
  Forward call = partial;
  call.elements = batch == 0 ? 0 : like.numel() / batch;
  call.log_prob = log_prob.data_ptr();
  dispatch("gaussian_log_prob", like.scalar_type(), [&](auto type) {
    parallel(batch, grain(call.elements),
             [&](int64_t begin, int64_t end) { forward<decltype(type)>(call, begin, end); });
  });
  return log_prob;
}

void run_backward(const Tensor& like, const Backward& call) {
  dispatch("gaussian_log_prob", like.scalar_type(), [&](auto type) {
    parallel(like.size(0), grain(call.elements),
             [&](int64_t begin, int64_t end) { backward<decltype(type)>(call, begin, end); });
  });
}

Tensor forward_cpu(Tensor x, Tensor mean, Tensor log_std) {
  const bool last = all_channels_last(x, mean, log_std);
  if (!last) x = dense(x);
  const Parameter m = parameter(mean, last), s = parameter(log_std, last);
  return run_forward(x, {0, m.stride, s.stride, x.data_ptr(), m.tensor.data_ptr(), s.tensor.data_ptr(), nullptr});
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(Tensor grad, Tensor x, Tensor mean, Tensor log_std) {
  const bool last = all_channels_last(x, mean, log_std);
  Gradient grad_x(x, last), grad_mean(mean, last), grad_log_std(log_std, last);
  if (!last) x = dense(x);
  grad = dense(grad);
  const Parameter m = parameter(mean, last), s = parameter(log_std, last);
  const int64_t batch = x.size(0), elements = batch == 0 ? 0 : x.numel() / batch;
  run_backward(x,
               {elements, m.stride, s.stride, grad.data_ptr(), x.data_ptr(), m.tensor.data_ptr(), s.tensor.data_ptr(),
                grad_x.written.data_ptr(), grad_mean.written.data_ptr(), grad_log_std.written.data_ptr()});
  return {grad_x.done(), grad_mean.done(), grad_log_std.done()};
}

Tensor standard_forward_cpu(Tensor x) {
  if (!channels_last(x)) x = dense(x);
  return run_forward(x, {0, 0, 0, x.data_ptr(), nullptr, nullptr, nullptr});
}

Tensor standard_backward_cpu(Tensor grad, Tensor x) {
  const bool last = !x.is_contiguous() && channels_last(x);
  Gradient grad_x(x, last);
  if (!last) x = dense(x);
  grad = dense(grad);
  const int64_t batch = x.size(0), elements = batch == 0 ? 0 : x.numel() / batch;
  run_backward(x, {elements, 0, 0, grad.data_ptr(), x.data_ptr(), nullptr, nullptr, grad_x.written.data_ptr(), nullptr,
                   nullptr});
  return grad_x.done();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("gaussian_log_prob", TORCH_BOX(&forward_cpu));
  m.impl("gaussian_log_prob_backward", TORCH_BOX(&backward_cpu));
  m.impl("standard_normal_log_prob", TORCH_BOX(&standard_forward_cpu));
  m.impl("standard_normal_log_prob_backward", TORCH_BOX(&standard_backward_cpu));
}

}  // namespace genkern::gaussian_log_prob
