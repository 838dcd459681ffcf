#include "../../common/torch.h"
#include "categorical_sample.h"

namespace genkern::categorical_sample {
namespace {

constexpr int64_t GRAIN = 16384;  // elements a thread should have at least

std::tuple<Tensor, Tensor> sample_cpu(Tensor logits, Tensor noise, double temperature, int64_t top_k) {
  logits = dense(logits), noise = dense(noise);
  const int64_t outer = logits.size(0), classes = logits.size(1), inner = logits.size(2);
  Tensor index = output(logits, {outer, inner}, ScalarType::Long);
  Tensor log_prob = output(logits, {outer, inner}, wide(logits));
  const Call call{classes,
                  inner,
                  outer * inner,
                  temperature,
                  top_k,
                  logits.data_ptr(),
                  noise.data_ptr(),
                  data<int64_t>(index),
                  log_prob.data_ptr()};
  dispatch("categorical_sample", logits.scalar_type(), [&](auto type) {
    parallel(call.columns, std::max(GRAIN / classes, Call::WIDTH),
             [&](int64_t begin, int64_t end) { sample<decltype(type)>(call, begin, end); });
  });
  return {index, log_prob};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) { m.impl("categorical_sample", TORCH_BOX(&sample_cpu)); }

}  // namespace genkern::categorical_sample
