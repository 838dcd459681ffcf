#pragma once
// From tensors to pointers and strides, for both devices.

#include "../../common/torch.h"
#include "autoregressive_conv.h"

namespace genkern::autoregressive_conv {

inline Strides strides_of(const Tensor& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

inline Window window_of(const Tensor& weight, bool square) {
  return {int(weight.size(2) / 2), int(weight.size(3) / 2), square};
}

inline Live live_of(const Tensor& weight, bool square, bool reverse) { return {window_of(weight, square), reverse}; }

template <typename T>
Solve<T> solve_of(const Tensor& y, const Tensor& weight, const Tensor& x, bool square, bool reverse) {
  Solve<T> solve{data<T>(y), data<T>(weight), data<T>(x), strides_of(y), strides_of(weight),       strides_of(x),
                 y.size(0),  y.size(1),       y.size(2),  y.size(3),     window_of(weight, square)};
  return reverse ? reversed(solve) : solve;
}

}  // namespace genkern::autoregressive_conv
