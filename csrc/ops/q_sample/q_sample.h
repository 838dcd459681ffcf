#pragma once
// The forward process of diffusion: x_t = a x_0 + s eps, with a and s of each sample, and eps the noise of a key.
// Ho et al. 2020 (arXiv:2006.11239), eq. 4. Nothing is kept of the noise: the backward pass draws it again.

#include <cstdint>

namespace genkern::q_sample {

struct Forward {
  int64_t batch, elements;  // of a sample
  uint64_t key;
  int64_t sample_offset;
  const void *x0, *a, *s;
  void* x_t;
};

// grad_x0 = a g, grad_a = sum g x_0, grad_s = sum g eps; those that are null are not computed.
struct Backward {
  int64_t batch, elements;
  uint64_t key;
  int64_t sample_offset;
  const void *grad, *x0, *a;
  void* grad_x0;
  double *grad_a, *grad_s;  // [batch, parts of a sample]
};

// Stretches [begin, end) of the batch. T is the storage type.
template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end);
template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end);

}  // namespace genkern::q_sample
