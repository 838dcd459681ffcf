// The only file that sees torch: tensors become pointers, and the loops run on torch's threads.

#include "../../common/torch.h"
#include "scaled_add.h"

namespace genkern::scaled_add {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

Tensor forward_cpu(Tensor x, Tensor update, double decay, double scale) {
  x = dense(x), update = dense(update);
  Tensor y = output_like(x);
  dispatch("scaled_add", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(x.numel(), GRAIN, [&](int64_t begin, int64_t end) {
      forward<T>(data<T>(x), data<T>(update), decay, scale, data<T>(y), begin, end);
    });
  });
  return y;
}

std::tuple<Tensor, Tensor> backward_cpu(Tensor grad_y, Tensor x, Tensor /*update*/, double decay, double scale) {
  grad_y = dense(grad_y);
  Tensor grad_x = output_like(grad_y), grad_update = output_like(grad_y);
  dispatch("scaled_add", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    parallel(x.numel(), GRAIN, [&](int64_t begin, int64_t end) {
      backward<T>(data<T>(grad_y), decay, scale, data<T>(grad_x), data<T>(grad_update), begin, end);
    });
  });
  return {grad_x, grad_update};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("scaled_add", TORCH_BOX(&forward_cpu));
  m.impl("scaled_add_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::scaled_add
