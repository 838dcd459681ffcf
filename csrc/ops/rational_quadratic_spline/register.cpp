#include "../../common/torch.h"
#include "rational_quadratic_spline.h"

namespace genkern::rational_quadratic_spline {
namespace {

Shape shape_of(const Tensor& x, const Tensor& params, int64_t bins, const std::string& tails, const std::string& layout,
               bool flip) {
  const int64_t batch = x.size(0), channels = x.size(1);
  const int64_t sites = batch * channels == 0 ? 0 : x.numel() / (batch * channels);
  Shape shape{};
  shape.linear = tails == "linear", shape.circular = tails == "circular";
  shape.bins = int(bins);
  shape.count = int(3 * bins) + (shape.linear ? -1 : shape.circular ? 0 : 1);
  const int64_t active = params.size(1) / shape.count;
  shape.batch = batch;
  shape.sample = channels * sites;
  shape.active = active * sites;
  shape.first = flip ? 0 : (channels - active) * sites;
  shape.length = layout == "parameters_last" ? sites : active * sites;
  return shape;
}

constexpr int64_t GRAIN = 1024;  // splines a thread should have at least

int64_t grain(const Shape& shape) { return GRAIN / std::max<int64_t>(shape.active, 1); }

std::tuple<Tensor, Tensor> forward_cpu(Tensor x, Tensor params, std::optional<Tensor> mask, int64_t bins, double bound,
                                       std::string tails, std::string layout, bool flip, double min_bin,
                                       double min_slope, double offset, bool inverse) {
  x = dense(x), params = dense(params);
  if (mask) mask = dense(*mask);
  Tensor y = output_like(x), log_det = output(x, {x.size(0)}, wide(x));
  const Forward call{shape_of(x, params, bins, tails, layout, flip),
                     {bound, min_bin, min_slope, offset, inverse},
                     x.data_ptr(),
                     params.data_ptr(),
                     mask ? data<uint8_t>(*mask) : nullptr,
                     y.data_ptr(),
                     log_det.data_ptr()};
  dispatch("rational_quadratic_spline", x.scalar_type(), [&](auto type) {
    parallel(call.shape.batch, grain(call.shape),
             [&](int64_t begin, int64_t end) { forward<decltype(type)>(call, begin, end); });
  });
  return {y, log_det};
}

std::tuple<Tensor, Tensor> backward_cpu(Tensor grad_y, Tensor grad_log_det, Tensor x, Tensor params,
                                        std::optional<Tensor> mask, int64_t bins, double bound, std::string tails,
                                        std::string layout, bool flip, double min_bin, double min_slope, double offset,
                                        bool inverse) {
  grad_y = dense(grad_y), grad_log_det = dense(grad_log_det), x = dense(x), params = dense(params);
  if (mask) mask = dense(*mask);
  Tensor grad_x = output_like(x), grad_params = output_like(params);
  const Backward call{shape_of(x, params, bins, tails, layout, flip),
                      {bound, min_bin, min_slope, offset, inverse},
                      grad_y.data_ptr(),
                      grad_log_det.data_ptr(),
                      x.data_ptr(),
                      params.data_ptr(),
                      mask ? data<uint8_t>(*mask) : nullptr,
                      grad_x.data_ptr(),
                      grad_params.data_ptr()};
  dispatch("rational_quadratic_spline", x.scalar_type(), [&](auto type) {
    parallel(call.shape.batch, grain(call.shape),
             [&](int64_t begin, int64_t end) { backward<decltype(type)>(call, begin, end); });
  });
  return {grad_x, grad_params};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("rational_quadratic_spline", TORCH_BOX(&forward_cpu));
  m.impl("rational_quadratic_spline_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::rational_quadratic_spline
