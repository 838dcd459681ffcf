#include <limits>

#include "../../common/torch.h"
#include "langevin_step.h"

namespace genkern::langevin_step {
namespace {

constexpr int64_t GRAIN = 16;          // pieces of about 1024 elements that a thread should have at least
constexpr int64_t NORM_GRAIN = 16384;  // elements

const void* each(const std::optional<Tensor>& values) { return values ? values->data_ptr() : nullptr; }

Step describe(const Tensor& x, const Tensor& grad, const Tensor& key, const std::optional<Tensor>& each_a,
              const std::optional<Tensor>& each_b, double a, double b, std::optional<double> limit,
              std::optional<double> low, std::optional<double> high, bool noise_first, int64_t sample_offset) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const int64_t samples = x.size(0);
  return {samples,
          samples == 0 ? 0 : x.numel() / samples,
          uint64_t(*data<int64_t>(key)),
          sample_offset,
          a,
          b,
          each(each_a),
          each(each_b),
          limit.value_or(infinity),
          low.value_or(-infinity),
          high.value_or(infinity),
          noise_first,
          x.data_ptr(),
          grad.data_ptr(),
          nullptr,
          nullptr,
          nullptr};
}

std::optional<Tensor> dense(const std::optional<Tensor>& values) {
  return values ? std::optional<Tensor>(genkern::dense(*values)) : std::nullopt;
}

void run(const Step& call, ScalarType dtype) {
  dispatch("langevin_step", dtype, [&](auto type) {
    parallel(units_of(call), GRAIN, [&](int64_t begin, int64_t end) { step<decltype(type)>(call, begin, end); });
  });
}

Tensor step_cpu(Tensor x, Tensor grad, Tensor key, std::optional<Tensor> each_a, std::optional<Tensor> each_b, double a,
                double b, std::optional<double> limit, std::optional<double> low, std::optional<double> high,
                bool noise_first, int64_t sample_offset) {
  x = genkern::dense(x), grad = genkern::dense(grad), each_a = dense(each_a), each_b = dense(each_b);
  Tensor out = output_like(x);
  Step call = describe(x, grad, key, each_a, each_b, a, b, limit, low, high, noise_first, sample_offset);
  call.out = out.data_ptr();
  run(call, x.scalar_type());
  return out;
}

void step_out_cpu(Tensor x, Tensor grad, Tensor key, std::optional<Tensor> each_a, std::optional<Tensor> each_b,
                  double a, double b, std::optional<double> limit, std::optional<double> low,
                  std::optional<double> high, bool noise_first, int64_t sample_offset, Tensor out) {
  x = genkern::dense(x), grad = genkern::dense(grad), each_a = dense(each_a), each_b = dense(each_b);
  Tensor dense_out = out.is_contiguous() ? out : torch::stable::empty_like(x);
  Step call = describe(x, grad, key, each_a, each_b, a, b, limit, low, high, noise_first, sample_offset);
  call.out = dense_out.data_ptr();
  run(call, x.scalar_type());
  if (!out.is_contiguous()) torch::stable::copy_(out, dense_out);
}

std::tuple<Tensor, Tensor> backward_cpu(Tensor cotangent, Tensor x, Tensor grad, Tensor key,
                                        std::optional<Tensor> each_a, std::optional<Tensor> each_b, double a, double b,
                                        std::optional<double> limit, std::optional<double> low,
                                        std::optional<double> high, bool noise_first, int64_t sample_offset) {
  x = genkern::dense(x), grad = genkern::dense(grad), each_a = dense(each_a), each_b = dense(each_b);
  cotangent = genkern::dense(cotangent);
  Tensor of_x = output_like(x), of_grad = output_like(x);
  Step call = describe(x, grad, key, each_a, each_b, a, b, limit, low, high, noise_first, sample_offset);
  call.cotangent = cotangent.data_ptr();
  call.out = of_x.data_ptr(), call.out_grad = of_grad.data_ptr();
  dispatch("langevin_step", x.scalar_type(), [&](auto type) {
    parallel(units_of(call), GRAIN,
             [&](int64_t begin, int64_t end) { step_backward<decltype(type)>(call, begin, end); });
  });
  return {of_x, of_grad};
}

std::tuple<Tensor, Tensor> norms_cpu(Tensor grad, Tensor key, int64_t sample_offset) {
  grad = genkern::dense(grad);
  const int64_t samples = grad.size(0), elements = samples == 0 ? 0 : grad.numel() / samples;
  Tensor of_grad = output(grad, {samples}, wide(grad)), of_noise = output(grad, {samples}, wide(grad));
  const Norms call{
      elements, uint64_t(*data<int64_t>(key)), sample_offset, grad.data_ptr(), of_grad.data_ptr(), of_noise.data_ptr()};
  dispatch("langevin_norms", grad.scalar_type(), [&](auto type) {
    parallel(samples, NORM_GRAIN / std::max<int64_t>(elements, 1),
             [&](int64_t begin, int64_t end) { norms<decltype(type)>(call, begin, end); });
  });
  return {of_grad, of_noise};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("langevin_step", TORCH_BOX(&step_cpu));
  m.impl("langevin_step_out", TORCH_BOX(&step_out_cpu));
  m.impl("langevin_step_backward", TORCH_BOX(&backward_cpu));
  m.impl("langevin_norms", TORCH_BOX(&norms_cpu));
}

}  // namespace genkern::langevin_step
