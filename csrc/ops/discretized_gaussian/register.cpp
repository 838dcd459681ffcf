#include "../../common/dense.h"
#include "../random/staged.h"
#include "discretized_gaussian.h"

namespace genkern::discretized_gaussian {
namespace {

constexpr int64_t GRAIN = 4;  // stretches a thread should have at least

std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }
int64_t elements_of(const Tensor& tensor) { return tensor.size(0) == 0 ? 0 : tensor.numel() / tensor.size(0); }
Cdf cdf_of(const std::string& name) { return name == "tanh" ? Cdf::tanh : Cdf::erf; }

// One number for each sample, expanded over all dimensions but the first.
bool shared_within_samples(const Tensor& tensor) {
  bool expanded = false;
  for (int64_t d = 1; d < tensor.dim(); d++) {
    if (tensor.size(d) == 1) continue;
    if (tensor.stride(d) != 0) return false;
    expanded = true;
  }
  return expanded && tensor.numel() > 0;
}

Tensor first_of_each(Tensor tensor) {
  while (tensor.dim() > 1) tensor = torch::stable::select(tensor, tensor.dim() - 1, 0);
  return dense(tensor);
}

// A gradient: nothing where it is not needed, contiguous until `done`.
struct Gradient {
  bool needed;
  Tensor like, written;

  Gradient(const Tensor& like, bool needed)
      : needed(needed), like(like), written(output(like, needed ? sizes_of(like) : std::vector<int64_t>{0})) {}
  void* data() const { return needed ? written.data_ptr() : nullptr; }
  Tensor done() const { return needed ? in_order_of(like, written) : written; }
};

template <typename A>
void total(const std::vector<double>& parts, int64_t count, const Tensor& out) {
  for (int64_t b = 0; b < out.size(0); b++) data<A>(out)[b] = A(sum_of_parts(parts.data(), b, count));
}

template <typename Call>
Tensor sums_of(const char* op, const Tensor& like, const Call& call) {
  const Stages stages(call.batch, call.elements);
  Tensor result = output(like, {call.batch}, wide(like));
  std::vector<double> sums(call.batch * stages.parts);
  dispatch(op, like.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(stages.count(), GRAIN, [&](int64_t begin, int64_t end) { forward<T>(call, sums.data(), begin, end); });
    total<arithmetic_t<T>>(sums, stages.parts, result);
  });
  return result;
}

template <typename Call, typename To>
void run_backward(const char* op, const Tensor& like, const Call& call, const To& to) {
  dispatch(op, like.scalar_type(), [&](auto type) {
    parallel(Stages(call.batch, call.elements).count(), GRAIN,
             [&](int64_t begin, int64_t end) { backward<decltype(type)>(call, to, begin, end); });
  });
}

// Contiguous inputs, which live as long as the call.
struct BinCall {
  bool shared;
  Tensor x, mean, log_std;
  Bins bins;

  BinCall(const Tensor& given_x, const Tensor& given_mean, const Tensor& given_log_std, int64_t levels,
          const std::string& cdf)
      : shared(shared_within_samples(given_log_std)),
        x(dense(given_x)),
        mean(dense(given_mean)),
        log_std(shared ? first_of_each(given_log_std) : dense(given_log_std)),
        bins{x.size(0), elements_of(x), levels,          cdf_of(cdf),
             shared,    x.data_ptr(),   mean.data_ptr(), log_std.data_ptr()} {}
};

Tensor forward_cpu(Tensor x, Tensor mean, Tensor log_std, int64_t levels, std::string cdf) {
  return sums_of("discretized_gaussian", x, BinCall(x, mean, log_std, levels, cdf).bins);
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(Tensor grad, Tensor x, Tensor mean, Tensor log_std, int64_t levels,
                                                std::string cdf, bool needs_x, bool needs_mean, bool needs_log_std) {
  const BinCall call(x, mean, log_std, levels, cdf);
  const Tensor dense_grad = dense(grad);
  const Gradient by_x(x, needs_x), by_mean(mean, needs_mean), by_log_std(log_std, needs_log_std);
  const BinGradients to{dense_grad.data_ptr(), by_x.data(), by_mean.data(), by_log_std.data()};
  run_backward("discretized_gaussian", x, call.bins, to);
  return {by_x.done(), by_mean.done(), by_log_std.done()};
}

struct TermCall {
  Tensor x0, x_t, output, variance, coefficients;
  Terms terms;

  TermCall(const Tensor& given_x0, const Tensor& given_x_t, const Tensor& given_output, const Tensor* given_variance,
           const Tensor& given_coefficients, bool clip, int64_t levels, const std::string& cdf)
      : x0(dense(given_x0)),
        x_t(dense(given_x_t)),
        output(dense(given_output)),
        variance(given_variance ? dense(*given_variance) : x0),
        coefficients(dense(given_coefficients)),
        terms{x0.size(0),
              elements_of(x0),
              levels,
              cdf_of(cdf),
              clip,
              x0.data_ptr(),
              x_t.data_ptr(),
              output.data_ptr(),
              given_variance ? variance.data_ptr() : nullptr,
              coefficients.data_ptr()} {}
};

Tensor term_cpu(Tensor x0, Tensor x_t, Tensor output, Tensor variance, Tensor coefficients, bool clip, int64_t levels,
                std::string cdf) {
  return sums_of("vlb_term", x0, TermCall(x0, x_t, output, &variance, coefficients, clip, levels, cdf).terms);
}

Tensor fixed_term_cpu(Tensor x0, Tensor x_t, Tensor output, Tensor coefficients, bool clip, int64_t levels,
                      std::string cdf) {
  return sums_of("vlb_term", x0, TermCall(x0, x_t, output, nullptr, coefficients, clip, levels, cdf).terms);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> term_backward_cpu(Tensor grad, Tensor x0, Tensor x_t, Tensor output,
                                                             Tensor variance, Tensor coefficients, bool clip,
                                                             int64_t levels, std::string cdf, bool needs_x0,
                                                             bool needs_x_t, bool needs_output, bool needs_variance) {
  const TermCall call(x0, x_t, output, &variance, coefficients, clip, levels, cdf);
  const Tensor dense_grad = dense(grad);
  const Gradient by_x0(x0, needs_x0), by_x_t(x_t, needs_x_t), by_output(output, needs_output),
      by_variance(variance, needs_variance);
  run_backward("vlb_term", x0, call.terms,
               TermGradients{dense_grad.data_ptr(), by_x0.data(), by_x_t.data(), by_output.data(), by_variance.data()});
  return {by_x0.done(), by_x_t.done(), by_output.done(), by_variance.done()};
}

std::tuple<Tensor, Tensor, Tensor> fixed_term_backward_cpu(Tensor grad, Tensor x0, Tensor x_t, Tensor output,
                                                           Tensor coefficients, bool clip, int64_t levels,
                                                           std::string cdf, bool needs_x0, bool needs_x_t,
                                                           bool needs_output) {
  const TermCall call(x0, x_t, output, nullptr, coefficients, clip, levels, cdf);
  const Tensor dense_grad = dense(grad);
  const Gradient by_x0(x0, needs_x0), by_x_t(x_t, needs_x_t), by_output(output, needs_output);
  run_backward("vlb_term", x0, call.terms,
               TermGradients{dense_grad.data_ptr(), by_x0.data(), by_x_t.data(), by_output.data(), nullptr});
  return {by_x0.done(), by_x_t.done(), by_output.done()};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("discretized_gaussian", TORCH_BOX(&forward_cpu));
  m.impl("discretized_gaussian_backward", TORCH_BOX(&backward_cpu));
  m.impl("vlb_term", TORCH_BOX(&term_cpu));
  m.impl("vlb_term_backward", TORCH_BOX(&term_backward_cpu));
  m.impl("vlb_term_fixed", TORCH_BOX(&fixed_term_cpu));
  m.impl("vlb_term_fixed_backward", TORCH_BOX(&fixed_term_backward_cpu));
}

}  // namespace genkern::discretized_gaussian
