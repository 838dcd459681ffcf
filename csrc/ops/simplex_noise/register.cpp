#include "../../common/torch.h"
#include "simplex_noise.h"

namespace genkern::simplex_noise {
namespace {

constexpr int64_t GRAIN = 4096;  // pixels a thread should have at least

// Fields [B, height, width] of seeds [B], float32 or float64.
Tensor simplex_noise_cpu(Tensor seeds, std::optional<Tensor> given_t, int64_t height, int64_t width, int64_t octaves,
                         double persistence, double frequency, ScalarType dtype) {
  seeds = dense(seeds);
  const int64_t batch = seeds.size(0);
  Tensor out = output(seeds, {batch, height, width}, dtype);
  const Field field{height, width, int(octaves), persistence, frequency};
  Tensor t = given_t ? dense(*given_t) : seeds;
  const double* const ts = given_t ? data<double>(t) : nullptr;
  const int64_t* const keys = data<int64_t>(seeds);
  std::vector<Tables> tables;
  for (int64_t b = 0; b < batch; b++) tables.push_back(tables_of(keys[b], ts != nullptr));
  const auto fill = [&](auto* to) {
    parallel(batch * height, GRAIN / std::max<int64_t>(width * octaves, 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        const int64_t b = i / height, stop = std::min(end, (b + 1) * height);
        rows(field, tables[b], ts ? ts + b : nullptr, i - b * height, stop - b * height, to + b * height * width);
        i = stop;
      }
    });
  };
  if (dtype == ScalarType::Double)
    fill(data<double>(out));
  else
    fill(data<float>(out));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) { m.impl("simplex_noise", TORCH_BOX(&simplex_noise_cpu)); }

}  // namespace genkern::simplex_noise
