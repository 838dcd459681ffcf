#include "../../common/dense.h"
#include "concat_elu.h"

namespace genkern::concat_elu {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

bool use_channels_last(const Tensor& x) { return !x.is_contiguous() && x.dim() == 4 && channels_last(x); }

Tensor in_order(const Tensor& tensor, bool last) { return last ? dense_channels_last(tensor) : dense(tensor); }

int64_t row_length(const Tensor& x, bool last) { return x.size(1) * (last ? 1 : sites_of(x)); }

Tensor forward_cpu(Tensor x) {
  const bool last = use_channels_last(x);
  x = in_order(x, last);
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes[1] *= 2;
  using torch::headeronly::MemoryFormat;
  Tensor y = last ? poisoned(torch::stable::empty(sizes, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                                  MemoryFormat::ChannelsLast))
                  : output(x, sizes);
  dispatch("concat_elu", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(x.numel(), GRAIN,
             [&](int64_t begin, int64_t end) { forward<T>(data<T>(x), data<T>(y), row_length(x, last), begin, end); });
  });
  return y;
}

Tensor backward_cpu(Tensor grad_y, Tensor x) {
  const bool last = use_channels_last(x);
  x = in_order(x, last), grad_y = in_order(grad_y, last);
  Tensor grad_x = output_like(x);
  dispatch("concat_elu", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(x.numel(), GRAIN, [&](int64_t begin, int64_t end) {
      backward<T>(data<T>(grad_y), data<T>(x), data<T>(grad_x), row_length(x, last), begin, end);
    });
  });
  return grad_x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("concat_elu", TORCH_BOX(&forward_cpu));
  m.impl("concat_elu_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::concat_elu
