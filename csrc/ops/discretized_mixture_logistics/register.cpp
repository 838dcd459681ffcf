#include "../../common/dense.h"
#include "discretized_mixture_logistics.h"

namespace genkern::discretized_mixture_logistics {
namespace {

constexpr int64_t GRAIN = 4;  // tiles a thread should have at least

Integer integer_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte: return Integer::uint8;
    case ScalarType::Short: return Integer::int16;
    case ScalarType::Int: return Integer::int32;
    case ScalarType::Long: return Integer::int64;
    default: STD_TORCH_CHECK(false, "discretized_mixture_logistics: x must be uint8, int16, int32 or int64");
  }
}

Shape shape_of(const Tensor& params, int64_t channels) {
  return {params.size(0), sites_of(params), params.size(1) / (channels == 1 ? 3 : 10), channels};
}

Levels levels_of(int64_t count, double low, double high, bool open_edges, double min_log_scale) {
  return {count, low, (high - low) / double(count - 1), min_log_scale, open_edges};
}

std::vector<int64_t> with_channels(const Tensor& params, std::optional<int64_t> channels) {
  std::vector<int64_t> sizes(params.sizes().begin(), params.sizes().end());
  if (channels)
    sizes[1] = *channels;
  else
    sizes.erase(sizes.begin() + 1);
  return sizes;
}

Tensor forward_cpu(Tensor params, Tensor x, int64_t levels, double low, double high, bool open_edges,
                   double min_log_scale) {
  params = dense(params), x = dense(x);
  Tensor nll = output(params, with_channels(params, std::nullopt), wide(params));
  const Shape shape = shape_of(params, x.size(1));
  const Levels of = levels_of(levels, low, high, open_edges, min_log_scale);
  const Pixels pixels{x.data_ptr(), integer_of(x.scalar_type())};
  dispatch("discretized_mixture_logistics", params.scalar_type(), [&](auto type) {
    parallel(shape.batch * shape.tiles(), GRAIN, [&](int64_t begin, int64_t end) {
      forward<decltype(type)>(shape, of, params.data_ptr(), pixels, nll.data_ptr(), begin, end);
    });
  });
  return nll;
}

Tensor backward_cpu(Tensor grad_nll, Tensor params, Tensor x, int64_t levels, double low, double high, bool open_edges,
                    double min_log_scale) {
  params = dense(params), x = dense(x), grad_nll = dense(grad_nll);
  Tensor grad_params = output_like(params);
  const Shape shape = shape_of(params, x.size(1));
  const Levels of = levels_of(levels, low, high, open_edges, min_log_scale);
  const Pixels pixels{x.data_ptr(), integer_of(x.scalar_type())};
  dispatch("discretized_mixture_logistics", params.scalar_type(), [&](auto type) {
    parallel(shape.batch * shape.tiles(), GRAIN, [&](int64_t begin, int64_t end) {
      backward<decltype(type)>(shape, of, grad_nll.data_ptr(), params.data_ptr(), pixels, grad_params.data_ptr(), begin,
                               end);
    });
  });
  return grad_params;
}

Tensor sample_cpu(Tensor params, Tensor noise, int64_t levels, double low, double high, double min_log_scale,
                  double temperature, ScalarType dtype) {
  params = dense(params), noise = dense(noise);
  const int64_t channels = noise.size(1) - 1;
  Tensor x = output(params, with_channels(params, channels), dtype);
  const Shape shape = shape_of(params, channels);
  const Levels of = levels_of(levels, low, high, true, min_log_scale);
  const auto draw = [&](auto type) {
    using A = decltype(type);
    parallel(shape.batch * shape.tiles(), GRAIN, [&](int64_t begin, int64_t end) {
      sample<A>(shape, of, temperature, data<A>(params), data<A>(noise), x.data_ptr(), integer_of(dtype), begin, end);
    });
  };
  if (params.scalar_type() == ScalarType::Double)
    draw(double{});
  else
    draw(float{});
  return x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("discretized_mixture_logistics", TORCH_BOX(&forward_cpu));
  m.impl("discretized_mixture_logistics_backward", TORCH_BOX(&backward_cpu));
  m.impl("discretized_mixture_logistics_sample", TORCH_BOX(&sample_cpu));
}

}  // namespace genkern::discretized_mixture_logistics
