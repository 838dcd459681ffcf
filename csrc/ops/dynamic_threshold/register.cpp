#include "../../common/torch.h"
#include "dynamic_threshold.h"

namespace genkern::dynamic_threshold {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

Tensor dynamic_threshold_cpu(Tensor x, int64_t below, double weight, double lowest, double highest) {
  x = dense(x);
  Tensor threshold = output(x, {x.size(0)}, wide(x));
  if (x.size(0) == 0) return threshold;
  const int64_t elements = x.numel() / x.size(0);
  const Quantile call{elements, below, weight, lowest, highest, x.data_ptr(), threshold.data_ptr()};
  dispatch("dynamic_threshold", x.scalar_type(), [&](auto type) {
    parallel(x.size(0), GRAIN / elements, [&](int64_t begin, int64_t end) { run<decltype(type)>(call, begin, end); });
  });
  return threshold;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) { m.impl("dynamic_threshold", TORCH_BOX(&dynamic_threshold_cpu)); }

}  // namespace genkern::dynamic_threshold
