#include "../../common/torch.h"
#include "random.h"

namespace genkern::random {
namespace {

constexpr int64_t GRAIN = 8192;  // quads a thread should have at least

template <typename Draw>
Tensor draw_cpu(Tensor key, int64_t samples, int64_t elements, ScalarType dtype, int64_t sample_offset) {
  Tensor out = output(key, {samples, elements}, dtype);
  const uint64_t seed = uint64_t(*data<int64_t>(key));
  dispatch("random", dtype, [&](auto type) {
    using T = decltype(type);
    T* const to = data<T>(out);
    parallel(samples * quads_of(elements), GRAIN,
             [=](int64_t begin, int64_t end) { fill<Draw>(to, seed, sample_offset, elements, begin, end); });
  });
  return out;
}

Tensor fold_in_cpu(Tensor key, Tensor number, int64_t domain) {
  key = dense(key), number = dense(number);
  Tensor out = torch::stable::empty_like(key);
  const int64_t *keys = data<int64_t>(key), *numbers = data<int64_t>(number);
  int64_t* const to = data<int64_t>(out);
  for (int64_t i = 0; i < key.numel(); i++) {
    to[i] = int64_t(derived_key(uint64_t(keys[i]), uint64_t(numbers[i]), Domain(domain)));
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("random_normal", TORCH_BOX(&draw_cpu<Normal>));
  m.impl("random_uniform", TORCH_BOX(&draw_cpu<Uniform>));
  m.impl("random_fold_in", TORCH_BOX(&fold_in_cpu));
}

}  // namespace genkern::random
