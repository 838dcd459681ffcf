#include "../../common/torch.h"
#include "affine_coupling.h"

namespace genkern::affine_coupling {
namespace {

// How x and params lie in memory; both must lie the same way.
Shape shape_of(const Tensor& x, const Tensor& params, bool last, bool additive, const std::string& layout, bool flip) {
  const int64_t batch = x.size(0), channels = x.size(1);
  const int64_t sites = batch * channels == 0 ? 0 : x.numel() / (batch * channels);
  const int64_t raw = params.size(1), active = additive ? raw : raw / 2, passive = channels - active;
  Shape shape{};
  shape.batch = batch;
  shape.x_batch = channels * sites;
  shape.p_batch = raw * sites;
  if (last) {  // a run for each site
    shape.rows = shape.passive_rows = sites, shape.length = active, shape.passive_length = passive;
    shape.x_row = channels, shape.p_row = raw;
    shape.x_active = flip ? 0 : passive, shape.x_passive = flip ? active : 0;
    shape.p_scale = layout == "shift_scale" ? active : 0;
    shape.p_shift = layout == "shift_scale" || additive ? 0 : active;
  } else if (layout == "interleaved" && !additive) {  // a run for each channel: shift, scale, shift, scale, ...
    shape.rows = active, shape.length = sites;
    shape.passive_rows = 1, shape.passive_length = passive * sites;
    shape.x_row = sites, shape.p_row = 2 * sites;
    shape.x_active = flip ? 0 : passive * sites, shape.x_passive = flip ? active * sites : 0;
    shape.p_scale = sites, shape.p_shift = 0;
  } else {  // one run
    shape.rows = shape.passive_rows = 1, shape.length = active * sites, shape.passive_length = passive * sites;
    shape.x_row = shape.p_row = 0;
    shape.x_active = flip ? 0 : passive * sites, shape.x_passive = flip ? active * sites : 0;
    shape.p_scale = layout == "shift_scale" ? active * sites : 0;
    shape.p_shift = layout == "shift_scale" || additive ? 0 : active * sites;
  }
  return shape;
}

Scale scale_of(const std::string& name) {
  if (name == "exp") return Scale::exp;
  if (name == "tanh") return Scale::tanh;
  if (name == "sigmoid") return Scale::sigmoid;
  return Scale::none;
}

// Channels-last runs are used where they are long enough to fill a vector and nothing needs another order.
bool use_channels_last(const Tensor& x, const Tensor& params, bool masked, const std::string& layout) {
  return channels_last(x) && channels_last(params) && !x.is_contiguous() && !masked && layout != "interleaved" &&
         params.size(1) >= 32;
}

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

int64_t grain(const Shape& shape) { return GRAIN / std::max<int64_t>(shape.x_batch, 1); }

std::tuple<Tensor, Tensor> forward_cpu(Tensor x, Tensor params, std::optional<Tensor> mask, std::string scale,
                                       double bound, std::string layout, bool flip, bool inverse) {
  const bool last = use_channels_last(x, params, mask.has_value(), layout);
  if (!last) x = dense(x), params = dense(params);
  if (mask) mask = dense(*mask);
  Tensor y = output_like(x), log_det = output(x, {x.size(0)}, wide(x));
  const Scale kind = scale_of(scale);
  const Forward call{shape_of(x, params, last, kind == Scale::none, layout, flip),
                     kind,
                     inverse,
                     bound,
                     x.data_ptr(),
                     params.data_ptr(),
                     mask ? data<uint8_t>(*mask) : nullptr,
                     y.data_ptr(),
                     log_det.data_ptr()};
  dispatch("affine_coupling", x.scalar_type(), [&](auto type) {
    parallel(call.shape.batch, grain(call.shape),
             [&](int64_t begin, int64_t end) { forward<decltype(type)>(call, begin, end); });
  });
  return {y, log_det};
}

std::tuple<Tensor, Tensor> backward_cpu(Tensor grad_y, Tensor grad_log_det, Tensor x, Tensor params,
                                        std::optional<Tensor> mask, std::string scale, double bound, std::string layout,
                                        bool flip, bool inverse) {
  const bool last = use_channels_last(x, params, mask.has_value(), layout);
  if (!last) x = dense(x), params = dense(params);
  grad_y = last ? dense_channels_last(grad_y) : dense(grad_y);
  if (mask) mask = dense(*mask);
  grad_log_det = dense(grad_log_det);
  Tensor grad_x = output_like(x), grad_params = output_like(params);
  const Scale kind = scale_of(scale);
  const Backward call{shape_of(x, params, last, kind == Scale::none, layout, flip),
                      kind,
                      inverse,
                      bound,
                      grad_y.data_ptr(),
                      grad_log_det.data_ptr(),
                      x.data_ptr(),
                      params.data_ptr(),
                      mask ? data<uint8_t>(*mask) : nullptr,
                      grad_x.data_ptr(),
                      grad_params.data_ptr()};
  dispatch("affine_coupling", x.scalar_type(), [&](auto type) {
    parallel(call.shape.batch, grain(call.shape),
             [&](int64_t begin, int64_t end) { backward<decltype(type)>(call, begin, end); });
  });
  return {grad_x, grad_params};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("affine_coupling", TORCH_BOX(&forward_cpu));
  m.impl("affine_coupling_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::affine_coupling
