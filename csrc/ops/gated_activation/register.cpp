#include "../../common/dense.h"
#include "gated_activation.h"

namespace genkern::gated_activation {
namespace {

// A term of one dimension and no elements is absent; so is a bias of no elements.
bool present(const Tensor& term) { return term.dim() > 1 || term.numel() > 0; }
const void* pointer(const Tensor& term) { return present(term) ? term.data_ptr() : nullptr; }

bool use_channels_last(const Tensor& x) { return !x.is_contiguous() && x.dim() >= 4 && channels_last(x); }

Shape shape_of(const Tensor& x, const Terms& terms, bool last) {
  const int64_t batch = x.size(0), channels = x.size(1) / 2, sites = sites_of(x);
  if (last || sites == 1)  // without a condition, all samples are one
    return terms.condition == nullptr ? Shape(true, 1, channels, batch * sites) : Shape(true, batch, channels, sites);
  if (terms.bias == nullptr && terms.condition == nullptr) return Shape(false, batch, 1, channels * sites);
  return Shape(false, batch, channels, sites);
}

int64_t grain(const Shape& shape) { return 8192 / std::max<int64_t>(shape.depth * shape.width, 1); }

Tensor in_order(const Tensor& tensor, bool last) { return last ? dense_channels_last(tensor) : dense(tensor); }

// [B, C, *] in the order of x.
Tensor halved(Tensor x) {
  const bool last = use_channels_last(x);
  Tensor half = torch::stable::narrow(x, 1, 0, x.size(1) / 2);
  if (last) return output_like(half);
  return output(x, {half.sizes().begin(), half.sizes().end()});
}

Tensor forward_cpu(Tensor x, Tensor bias, Tensor condition, Tensor link) {
  const bool last = use_channels_last(x);
  x = in_order(x, last), bias = dense(bias), condition = dense(condition);
  if (present(link)) link = in_order(link, last);
  Tensor y = halved(x);
  const Terms terms{pointer(bias), pointer(condition)};
  const Shape shape = shape_of(x, terms, last);
  dispatch("gated_activation", x.scalar_type(), [&](auto type) {
    parallel(shape.units(), grain(shape), [&](int64_t begin, int64_t end) {
      forward<decltype(type)>(shape, terms, x.data_ptr(), pointer(link), y.data_ptr(), begin, end);
    });
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_cpu(Tensor grad_y, Tensor x, Tensor bias, Tensor condition,
                                                        Tensor link, bool needs_x, bool needs_bias,
                                                        bool needs_condition, bool needs_link) {
  const bool last = use_channels_last(x);
  x = in_order(x, last), grad_y = in_order(grad_y, last), bias = dense(bias), condition = dense(condition);
  if (present(link)) link = in_order(link, last);
  const Terms terms{pointer(bias), pointer(condition)};
  needs_bias = needs_bias && present(bias);
  needs_condition = needs_condition && present(condition);
  needs_link = needs_link && present(link);
  Tensor grad_x = needs_x ? output_like(x) : output(x, {0});
  Tensor grad_link = needs_link ? output_like(link) : output(x, {0});
  Tensor grad_bias = output(x, {needs_bias ? x.size(1) : 0});
  Tensor grad_condition = needs_condition ? output_like(condition) : output(x, {0});
  const Shape shape = shape_of(x, terms, last);
  const int64_t raw = 2 * shape.channels;
  std::vector<double> sums(needs_bias || needs_condition ? shape.batch * shape.deep * raw : 0);
  dispatch("gated_activation", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(shape.units(), grain(shape), [&](int64_t begin, int64_t end) {
      backward<T>(shape, terms, grad_y.data_ptr(), x.data_ptr(), pointer(link), needs_x ? grad_x.data_ptr() : nullptr,
                  needs_link ? grad_link.data_ptr() : nullptr, sums.empty() ? nullptr : sums.data(), begin, end);
    });
    using A = arithmetic_t<T>;
    std::vector<double> total(needs_bias ? x.size(1) : 0), of_sample(raw);
    for (int64_t b = 0; b < (sums.empty() ? 0 : shape.batch); b++) {
      std::fill(of_sample.begin(), of_sample.end(), 0.0);
      for (int64_t d = 0; d < shape.deep; d++)
        for (int64_t c = 0; c < raw; c++) of_sample[c] += sums[(b * shape.deep + d) * raw + c];
      if (needs_condition)
        for (int64_t c = 0; c < raw; c++) data<T>(grad_condition)[b * raw + c] = store<T>(A(of_sample[c]));
      if (needs_bias)
        for (int64_t c = 0; c < raw; c++) total[c] += of_sample[c];
    }
    if (needs_bias)
      for (int64_t c = 0; c < x.size(1); c++) data<T>(grad_bias)[c] = store<T>(A(total[c]));
  });
  return {grad_x, grad_bias, grad_condition, grad_link};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("gated_activation", TORCH_BOX(&forward_cpu));
  m.impl("gated_activation_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::gated_activation
