#include "../../common/torch.h"
#include "dequantize.h"

namespace genkern::dequantize {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

Integer integer(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte: return Integer::uint8;
    case ScalarType::Short: return Integer::int16;
    case ScalarType::Int: return Integer::int32;
    case ScalarType::Long: return Integer::int64;
    default: STD_TORCH_CHECK(false, "dequantize: wanted uint8, int16, int32 or int64");
  }
}

std::vector<int64_t> sizes_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

std::tuple<Tensor, Tensor> dequantize_cpu(Tensor x, Tensor key, int64_t levels, std::optional<double> alpha,
                                          double margin, ScalarType dtype, int64_t sample_offset) {
  x = dense(x);
  Tensor y = output(x, sizes_of(x), dtype);
  const int64_t batch = x.size(0), elements = batch == 0 ? 0 : x.numel() / batch;
  Tensor log_det = output(x, {batch}, wide(y));
  const Dequantize call{elements,
                        levels,
                        alpha.value_or(-1.0),
                        margin,
                        uint64_t(*data<int64_t>(key)),
                        sample_offset,
                        integer(x.scalar_type()),
                        x.data_ptr(),
                        y.data_ptr(),
                        log_det.data_ptr()};
  dispatch("dequantize", dtype, [&](auto type) {
    parallel(batch, GRAIN / std::max<int64_t>(elements, 1),
             [&](int64_t begin, int64_t end) { dequantize<decltype(type)>(call, begin, end); });
  });
  return {y, log_det};
}

Tensor quantize_cpu(Tensor y, int64_t levels, std::optional<double> alpha, ScalarType dtype) {
  y = dense(y);
  Tensor x = output(y, sizes_of(y), dtype);
  const Quantize call{levels, alpha.value_or(-1.0), integer(dtype), y.data_ptr(), x.data_ptr()};
  dispatch("quantize", y.scalar_type(), [&](auto type) {
    parallel(y.numel(), GRAIN, [&](int64_t begin, int64_t end) { quantize<decltype(type)>(call, begin, end); });
  });
  return x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("dequantize", TORCH_BOX(&dequantize_cpu));
  m.impl("quantize", TORCH_BOX(&quantize_cpu));
}

}  // namespace genkern::dequantize
