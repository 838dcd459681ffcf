#pragma once
// The loss of a denoising network: the mean over each sample of r^2, r = output - (p x_0 + q eps), with p and q of each
// sample, and eps the noise of a key, drawn again here and in the backward pass. Ho et al. 2020 (arXiv:2006.11239),
// eq. 14 (p = 0, q = 1).

#include <cstdint>

namespace genkern::diffusion_loss {

struct Inputs {
  int64_t batch, elements;  // of a sample
  uint64_t key;
  int64_t sample_offset;
  const void *output, *x0, *p, *q;
};

// With c = 2 g / elements: grad_output = c r, grad_x0 = -p c r, grad_p = -sum c r x_0, grad_q = -sum c r eps; those
// that are null are not computed.
struct Gradients {
  const void* grad;
  void *output, *x0;
  double *p, *q;  // [batch, parts of a sample]
};

// Stretches [begin, end) of the batch; squares is [batch, parts of a sample]. T is the storage type.
template <typename T>
void forward(const Inputs& call, double* squares, int64_t begin, int64_t end);
template <typename T>
void backward(const Inputs& call, const Gradients& to, int64_t begin, int64_t end);

}  // namespace genkern::diffusion_loss
