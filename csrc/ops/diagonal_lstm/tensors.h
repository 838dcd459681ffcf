#pragma once
// What the CPU and the CUDA kernels are told of their tensors.

#include "../../common/torch.h"
#include "diagonal_lstm.h"

namespace genkern::diagonal_lstm {

inline Lattice lattice_of(const Tensor& x, const Tensor& weight, const std::string& order) {
  return {x.size(1), x.size(2), weight.size(1), int(weight.size(2)), order == "diagonal"};
}

// The state is carried in float32 or wider, so half precision is widened as a whole and rounded once at the end.
inline Tensor widened(const Tensor& tensor) {
  return dense(tensor.scalar_type() == wide(tensor) ? tensor : torch::stable::to(tensor, wide(tensor)));
}

}  // namespace genkern::diagonal_lstm
