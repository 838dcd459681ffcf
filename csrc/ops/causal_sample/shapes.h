#pragma once
// Whether the pictures fit the program: what registration on the CPU and on CUDA share.

#include "../../common/torch.h"
#include "causal_sample.h"

namespace genkern::causal_sample {

inline void check_shapes(const Program& program, const Tensor& x, const Tensor& features, const Tensor& noise) {
  STD_TORCH_CHECK(x.size(1) == program.sub_pixels, "causal_sample: x must have ", program.sub_pixels, " channels; got ",
                  x.size(1), ".");
  STD_TORCH_CHECK(noise.size(1) == program.noises(), "causal_sample: noise must have ", program.noises(),
                  " numbers for a pixel; got ", noise.size(1), ".");
  const int64_t coarsest = program.coarsest();
  STD_TORCH_CHECK(x.size(2) % coarsest == 0 && x.size(3) % coarsest == 0,
                  "causal_sample: x must have a height and a width that are multiples of ", coarsest, "; got ",
                  x.size(2), " and ", x.size(3), ".");
  const int64_t size = program.features < 0 ? 0 : program.buffers[size_t(program.features)].size;
  STD_TORCH_CHECK(features.size(3) == size, "causal_sample: features must have ", size, " channels; got ",
                  features.size(3), ".");
}

}  // namespace genkern::causal_sample
