#include "../../common/torch.h"
#include "radial.h"

namespace genkern::radial {
namespace {

int64_t units_a_thread(int64_t size) { return 16384 / (PER_UNIT * std::max<int64_t>(size, 1)); }

std::tuple<Tensor, Tensor> forward_cpu(Tensor x, Tensor center, Tensor raw_a, Tensor raw_b, bool inverse) {
  x = dense(x), center = dense(center), raw_a = dense(raw_a), raw_b = dense(raw_b);
  Tensor y = output_like(x), log_det = output(x, {x.size(0)}, wide(x));
  const Forward call{x.size(0),         x.size(1),        center.dim() == 1, inverse,      x.data_ptr(),
                     center.data_ptr(), raw_a.data_ptr(), raw_b.data_ptr(),  y.data_ptr(), log_det.data_ptr()};
  dispatch("radial", x.scalar_type(), [&](auto type) {
    parallel(units_of(call.batch), units_a_thread(call.size),
             [&](int64_t begin, int64_t end) { forward<decltype(type)>(call, begin, end); });
  });
  return {y, log_det};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_cpu(Tensor grad_y, Tensor grad_log_det, Tensor x, Tensor center,
                                                        Tensor raw_a, Tensor raw_b, bool inverse) {
  grad_y = dense(grad_y), grad_log_det = dense(grad_log_det);
  x = dense(x), center = dense(center), raw_a = dense(raw_a), raw_b = dense(raw_b);
  Tensor grad_x = output_like(x), grad_center = output_like(center), grad_raw_a = output_like(raw_a),
         grad_raw_b = output_like(raw_b);
  const bool shared = center.dim() == 1;
  const int64_t batch = x.size(0), size = x.size(1), width = partial_width(size);
  std::vector<double> partial(shared ? units_of(batch) * width : 0);
  const Backward call{batch,
                      size,
                      shared,
                      inverse,
                      grad_y.data_ptr(),
                      grad_log_det.data_ptr(),
                      x.data_ptr(),
                      center.data_ptr(),
                      raw_a.data_ptr(),
                      raw_b.data_ptr(),
                      grad_x.data_ptr(),
                      grad_center.data_ptr(),
                      grad_raw_a.data_ptr(),
                      grad_raw_b.data_ptr(),
                      partial.data()};
  dispatch("radial", x.scalar_type(), [&](auto type) {
    parallel(units_of(batch), units_a_thread(size),
             [&](int64_t begin, int64_t end) { backward<decltype(type)>(call, begin, end); });
    if (shared) finish<decltype(type)>(call, total_of_units(partial, width).data());
  });
  return {grad_x, grad_center, grad_raw_a, grad_raw_b};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("radial", TORCH_BOX(&forward_cpu));
  m.impl("radial_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::radial
