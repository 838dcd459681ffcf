#include "../../common/torch.h"
#include "plu_weight.h"

namespace genkern::plu_weight {
namespace {

// A factor, dense, of one dtype and of as many elements as it must have.
Tensor checked(const Tensor& tensor, const Tensor& like, int64_t elements) {
  STD_TORCH_CHECK(tensor.scalar_type() == like.scalar_type() && tensor.numel() == elements,
                  "plu_weight: factors must be [C, C] and [C] of one dtype");
  return dense(tensor);
}

struct Arguments {
  Tensor p, lower, upper, log_s, sign_s, log_scale, bias;

  Arguments(Tensor p, Tensor lower, Tensor upper, Tensor log_s, Tensor sign_s, Tensor log_scale, Tensor bias)
      : p(dense(p)), lower(dense(lower)) {
    const int64_t n = lower.size(0);
    STD_TORCH_CHECK(p.scalar_type() == ScalarType::Long && p.numel() == n, "plu_weight: p must be int64 [C]");
    for (int64_t i = 0; i < n; i++) {
      const int64_t row = data<int64_t>(this->p)[i];
      STD_TORCH_CHECK(row >= 0 && row < n, "plu_weight: p must be a permutation of 0 to C - 1; got ", row, ".");
    }
    this->upper = checked(upper, lower, n * n), this->log_s = checked(log_s, lower, n);
    this->sign_s = checked(sign_s, lower, n), this->log_scale = checked(log_scale, lower, n);
    this->bias = checked(bias, lower, n);
  }

  template <typename T>
  Factors factors() const {
    return {lower.size(0),  data<int64_t>(p), data<T>(lower),     data<T>(upper),
            data<T>(log_s), data<T>(sign_s),  data<T>(log_scale), data<T>(bias)};
  }
};

template <typename T>
std::vector<double> widened(const Tensor& tensor) {
  std::vector<double> values(tensor.numel());
  for (size_t i = 0; i < values.size(); i++) values[i] = load(data<T>(tensor)[i]);
  return values;
}

template <typename T>
void narrow(const std::vector<double>& values, const Tensor& to) {
  for (size_t i = 0; i < values.size(); i++) data<T>(to)[i] = store<T>(arithmetic_t<T>(values[i]));
}

std::tuple<Tensor, Tensor, Tensor> forward_cpu(Tensor p, Tensor lower, Tensor upper, Tensor log_s, Tensor sign_s,
                                               Tensor log_scale, Tensor bias) {
  const Arguments arguments(p, lower, upper, log_s, sign_s, log_scale, bias);
  const int64_t n = lower.size(0);
  Tensor weight = output(lower, {n, n}), shift = output(lower, {n}), log_abs_det = output(lower, {}, wide(lower));
  dispatch("plu_weight", lower.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = arithmetic_t<T>;
    const Factors factors = arguments.factors<T>();
    const Weight result(factors);
    for (int64_t i = 0; i < n; i++) {
      const double* row = result.product.data() + factors.p[i] * n;
      double sum = 0;
      for (int64_t j = 0; j < n; j++) {
        data<T>(weight)[i * n + j] = store<T>(A(row[j] * factors.scale[j]));
        sum += row[j] * factors.bias[j];
      }
      data<T>(shift)[i] = store<T>(A(sum));
    }
    *data<A>(log_abs_det) = A(factors.log_abs_det);
  });
  return {weight, shift, log_abs_det};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward_cpu(Tensor grad_weight, Tensor grad_shift,
                                                                Tensor grad_log_abs_det, Tensor p, Tensor lower,
                                                                Tensor upper, Tensor log_s, Tensor sign_s,
                                                                Tensor log_scale, Tensor bias) {
  const Arguments arguments(p, lower, upper, log_s, sign_s, log_scale, bias);
  const int64_t n = lower.size(0);
  grad_weight = checked(grad_weight, lower, n * n), grad_shift = checked(grad_shift, lower, n);
  Tensor of_lower = output(lower, {n, n}), of_upper = output(lower, {n, n}), of_log_s = output(lower, {n}),
         of_log_scale = output(lower, {n}), of_bias = output(lower, {n});
  dispatch("plu_weight", lower.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Gradients found(arguments.factors<T>(), widened<T>(grad_weight), widened<T>(grad_shift),
                          *data<arithmetic_t<T>>(grad_log_abs_det));
    narrow<T>(found.lower, of_lower), narrow<T>(found.upper, of_upper), narrow<T>(found.log_s, of_log_s);
    narrow<T>(found.log_scale, of_log_scale), narrow<T>(found.bias, of_bias);
  });
  return {of_lower, of_upper, of_log_s, of_log_scale, of_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("plu_weight", TORCH_BOX(&forward_cpu));
  m.impl("plu_weight_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::plu_weight
