#include "shapes.h"

namespace genkern::causal_sample {
namespace {

Tensor causal_sample_cpu(Tensor x, Tensor weights, Tensor conditions, Tensor features, Tensor noise, Tensor free,
                         std::vector<int64_t> code, int64_t levels, double temperature) {
  Program program;
  const char* wrong = program.read(code, weights.numel(), conditions.size(1), levels);
  STD_TORCH_CHECK(wrong == nullptr, "causal_sample: program cannot be run: ", wrong ? wrong : "", ".");
  weights = dense(weights), conditions = dense(conditions), features = dense(features), noise = dense(noise);
  free = dense(free);
  check_shapes(program, x, features, noise);
  Tensor drawn = torch::stable::clone(dense(x));
  const auto run = [&](auto type) {
    using T = decltype(type);
    const Call<T> call{&program,
                       data<T>(weights),
                       data<T>(conditions),
                       data<T>(features),
                       data<T>(noise),
                       data<int32_t>(drawn),
                       data<bool>(free),
                       conditions.size(1),
                       x.size(2),
                       x.size(3),
                       levels,
                       T(temperature)};
    parallel(x.size(0), 1, [&](int64_t begin, int64_t end) { sample(call, begin, end); });
  };
  if (weights.scalar_type() == ScalarType::Double)
    run(double{});
  else
    run(float{});
  return drawn;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) { m.impl("causal_sample", TORCH_BOX(&causal_sample_cpu)); }

}  // namespace genkern::causal_sample
