#include "../../common/torch.h"
#include "squeeze.h"

namespace genkern::squeeze {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

Tensor run_cpu(Tensor x, int64_t factor, std::string layout, bool inverse) {
  x = dense(x);
  const int64_t batch = x.size(0), f = factor;
  const std::vector<int64_t> sizes =
      inverse ? std::vector<int64_t>{batch, x.size(1) / (f * f), x.size(2) * f, x.size(3) * f}
              : std::vector<int64_t>{batch, x.size(1) * f * f, x.size(2) / f, x.size(3) / f};
  Tensor out = output(x, sizes);
  if (x.numel() == 0) return out;
  const Tensor& large = inverse ? out : x;
  const Call call{large.size(1),       large.size(2), large.size(3), f,
                  layout == "ordered", inverse,       x.data_ptr(),  out.data_ptr()};
  const auto planes = [&](auto type) {
    parallel(batch * call.channels, GRAIN / std::max<int64_t>(call.height * call.width, 1),
             [&](int64_t begin, int64_t end) { run<decltype(type)>(call, begin, end); });
  };
  switch (x.element_size()) {
    case 1: planes(uint8_t{}); break;
    case 2: planes(uint16_t{}); break;
    case 4: planes(uint32_t{}); break;
    case 8: planes(uint64_t{}); break;
    default: STD_TORCH_CHECK(false, "squeeze: x must have elements of 1, 2, 4 or 8 bytes");
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) { m.impl("squeeze", TORCH_BOX(&run_cpu)); }

}  // namespace genkern::squeeze
