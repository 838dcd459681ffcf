#include "../../common/torch.h"
#include "reparameterize.h"

namespace genkern::reparameterize {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }
int64_t elements_of(const Tensor& tensor) { return tensor.size(0) == 0 ? 0 : tensor.numel() / tensor.size(0); }

// Samples that are contiguous in themselves, as halves of a chunked tensor and expanded priors are, or a dense copy.
struct Rows {
  Tensor tensor;
  int64_t stride;

  explicit Rows(const Tensor& given) : tensor(given), stride(given.size(0) > 1 ? given.stride(0) : elements_of(given)) {
    int64_t expected = 1;
    for (int64_t d = given.dim() - 1; d >= 1; d--) {
      if (given.size(d) != 1 && given.stride(d) != expected) {
        tensor = dense(given), stride = elements_of(given);
        return;
      }
      expected *= given.size(d);
    }
  }
};

// A gradient with the strides of `like`, written contiguously.
struct Gradient {
  Tensor result, written;

  explicit Gradient(const Tensor& like)
      : result(output_like(like)), written(result.is_contiguous() ? result : output(like, sizes_of(like))) {}
  Tensor done() {
    if (written.data_ptr() != result.data_ptr()) torch::stable::copy_(result, written);
    return result;
  }
};

Call call_of(const Rows& mean, const Rows& logvar, const Rows* prior_mean, const Rows* prior_logvar, const Tensor& key,
             bool per_element, int64_t sample_offset) {
  Call call{};
  call.elements = elements_of(mean.tensor), call.sample_offset = sample_offset;
  call.key = uint64_t(*data<int64_t>(key)), call.per_element = per_element;
  call.mean = mean.tensor.data_ptr(), call.mean_stride = mean.stride;
  call.logvar = logvar.tensor.data_ptr(), call.logvar_stride = logvar.stride;
  if (prior_mean != nullptr) {
    call.prior_mean = prior_mean->tensor.data_ptr(), call.prior_mean_stride = prior_mean->stride;
    call.prior_logvar = prior_logvar->tensor.data_ptr(), call.prior_logvar_stride = prior_logvar->stride;
  }
  return call;
}

std::tuple<Tensor, Tensor> run_forward(const Tensor& like, const Call& call) {
  const int64_t batch = like.size(0);
  Tensor z = output(like, sizes_of(like));
  Tensor kl = output(like, call.per_element ? sizes_of(like) : std::vector<int64_t>{batch}, wide(like));
  if (call.elements == 0) {
    torch::stable::zero_(kl);
    return {z, kl};
  }
  Forward forward_call{call, z.data_ptr(), kl.data_ptr()};
  dispatch("reparameterize", like.scalar_type(), [&](auto type) {
    parallel(batch, GRAIN / call.elements,
             [&](int64_t begin, int64_t end) { forward<decltype(type)>(forward_call, begin, end); });
  });
  return {z, kl};
}

void run_backward(const Tensor& like, const Backward& call) {
  if (call.elements == 0) return;
  dispatch("reparameterize", like.scalar_type(), [&](auto type) {
    parallel(like.size(0), GRAIN / call.elements,
             [&](int64_t begin, int64_t end) { backward<decltype(type)>(call, begin, end); });
  });
}

std::tuple<Tensor, Tensor> forward_cpu(Tensor mean, Tensor logvar, Tensor key, bool per_element,
                                       int64_t sample_offset) {
  const Rows m(mean), v(logvar);
  return run_forward(mean, call_of(m, v, nullptr, nullptr, key, per_element, sample_offset));
}

std::tuple<Tensor, Tensor> backward_cpu(Tensor grad_z, Tensor grad_kl, Tensor mean, Tensor logvar, Tensor key,
                                        bool per_element, int64_t sample_offset) {
  const Rows m(mean), v(logvar);
  grad_z = dense(grad_z), grad_kl = dense(grad_kl);
  Gradient grad_mean(mean), grad_logvar(logvar);
  Backward call{call_of(m, v, nullptr, nullptr, key, per_element, sample_offset)};
  call.grad_z = grad_z.data_ptr(), call.grad_kl = grad_kl.data_ptr();
  call.grad_mean = grad_mean.written.data_ptr(), call.grad_logvar = grad_logvar.written.data_ptr();
  run_backward(mean, call);
  return {grad_mean.done(), grad_logvar.done()};
}

std::tuple<Tensor, Tensor> prior_forward_cpu(Tensor mean, Tensor logvar, Tensor prior_mean, Tensor prior_logvar,
                                             Tensor key, bool per_element, int64_t sample_offset) {
  const Rows m(mean), v(logvar), pm(prior_mean), pv(prior_logvar);
  return run_forward(mean, call_of(m, v, &pm, &pv, key, per_element, sample_offset));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> prior_backward_cpu(Tensor grad_z, Tensor grad_kl, Tensor mean, Tensor logvar,
                                                              Tensor prior_mean, Tensor prior_logvar, Tensor key,
                                                              bool per_element, int64_t sample_offset) {
  const Rows m(mean), v(logvar), pm(prior_mean), pv(prior_logvar);
  grad_z = dense(grad_z), grad_kl = dense(grad_kl);
  Gradient grad_mean(mean), grad_logvar(logvar), grad_prior_mean(prior_mean), grad_prior_logvar(prior_logvar);
  Backward call{call_of(m, v, &pm, &pv, key, per_element, sample_offset)};
  call.grad_z = grad_z.data_ptr(), call.grad_kl = grad_kl.data_ptr();
  call.grad_mean = grad_mean.written.data_ptr(), call.grad_logvar = grad_logvar.written.data_ptr();
  call.grad_prior_mean = grad_prior_mean.written.data_ptr();
  call.grad_prior_logvar = grad_prior_logvar.written.data_ptr();
  run_backward(mean, call);
  return {grad_mean.done(), grad_logvar.done(), grad_prior_mean.done(), grad_prior_logvar.done()};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("reparameterize", TORCH_BOX(&forward_cpu));
  m.impl("reparameterize_backward", TORCH_BOX(&backward_cpu));
  m.impl("reparameterize_prior", TORCH_BOX(&prior_forward_cpu));
  m.impl("reparameterize_prior_backward", TORCH_BOX(&prior_backward_cpu));
}

}  // namespace genkern::reparameterize
