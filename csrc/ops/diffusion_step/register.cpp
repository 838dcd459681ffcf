#include "../../common/torch.h"
#include "diffusion_step.h"

namespace genkern::diffusion_step {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

bool same_sizes(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); d++)
    if (a.size(d) != b.size(d)) return false;
  return true;
}

// Contiguous inputs, kept alive, and pointers to them; tensors that are not of the shape of x are absent.
struct Inputs {
  std::vector<Tensor> alive;
  const Tensor& like;

  const void* pointer(const Tensor& tensor) { return alive.emplace_back(dense(tensor)).data_ptr(); }
  const void* optional(const Tensor& tensor) { return same_sizes(tensor, like) ? pointer(tensor) : nullptr; }
};

Tensor contiguous_or_new(const Tensor& out) { return out.is_contiguous() ? out : output(out, sizes_of(out)); }

void compute(Tensor x, Tensor model_output, Tensor unconditional, Tensor previous, Tensor log_variance,
             Tensor coefficients, std::optional<Tensor> threshold, std::optional<Tensor> key,
             std::optional<Tensor> step, double guidance, double rescale, double low, double high,
             int64_t sample_offset, void* out, void* x0) {
  if (x.numel() == 0) return;
  Inputs inputs{{}, x};
  inputs.alive.reserve(9);
  Step call{};
  call.batch = x.size(0), call.elements = x.numel() / x.size(0), call.rows = coefficients.size(0);
  call.x = inputs.pointer(x), call.model_output = inputs.pointer(model_output);
  call.unconditional = inputs.optional(unconditional);
  call.previous = inputs.optional(previous);
  call.log_variance = inputs.optional(log_variance);
  call.coefficients = inputs.pointer(coefficients);
  if (threshold) call.threshold = inputs.pointer(*threshold);
  if (key) call.key = static_cast<const int64_t*>(inputs.pointer(*key)), call.keys = key->numel();
  if (step) call.step = static_cast<const int64_t*>(inputs.pointer(*step)), call.steps = step->numel();
  call.guidance = guidance, call.rescale = rescale, call.low = low, call.high = high;
  call.sample_offset = sample_offset, call.out = out, call.x0 = x0;
  std::vector<double> ratios;
  dispatch("diffusion_step", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    if (call.unconditional && rescale != 0) {
      ratios.resize(call.batch);
      parallel(call.batch, GRAIN / call.elements,
               [&](int64_t begin, int64_t end) { spread_ratios<T>(call, ratios.data(), begin, end); });
      call.ratios = ratios.data();
    }
    parallel(call.batch * spans(call), GRAIN / std::min(call.elements, SPAN),
             [&](int64_t begin, int64_t end) { run<T>(call, begin, end); });
  });
}

std::tuple<Tensor, Tensor> diffusion_step_cpu(Tensor x, Tensor model_output, Tensor unconditional, Tensor previous,
                                              Tensor log_variance, Tensor coefficients, std::optional<Tensor> threshold,
                                              std::optional<Tensor> key, std::optional<Tensor> step, double guidance,
                                              double rescale, double low, double high, bool return_x0,
                                              int64_t sample_offset) {
  Tensor out = output(x, sizes_of(x)), x0 = output(x, return_x0 ? sizes_of(x) : std::vector<int64_t>{0});
  compute(x, model_output, unconditional, previous, log_variance, coefficients, threshold, key, step, guidance, rescale,
          low, high, sample_offset, out.data_ptr(), return_x0 ? x0.data_ptr() : nullptr);
  return {out, x0};
}

void diffusion_step_out_cpu(Tensor x, Tensor model_output, Tensor unconditional, Tensor previous, Tensor log_variance,
                            Tensor coefficients, std::optional<Tensor> threshold, std::optional<Tensor> key,
                            std::optional<Tensor> step, double guidance, double rescale, double low, double high,
                            bool return_x0, int64_t sample_offset, Tensor out, Tensor x0) {
  const Tensor to = contiguous_or_new(out), to_x0 = contiguous_or_new(x0);
  compute(x, model_output, unconditional, previous, log_variance, coefficients, threshold, key, step, guidance, rescale,
          low, high, sample_offset, to.data_ptr(), return_x0 ? to_x0.data_ptr() : nullptr);
  if (!out.is_contiguous()) torch::stable::copy_(out, to);
  if (!x0.is_contiguous()) torch::stable::copy_(x0, to_x0);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("diffusion_step", TORCH_BOX(&diffusion_step_cpu));
  m.impl("diffusion_step_out", TORCH_BOX(&diffusion_step_out_cpu));
}

}  // namespace genkern::diffusion_step
