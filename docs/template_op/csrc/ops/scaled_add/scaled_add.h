#pragma once
// Scaled addition: y = decay * x + scale * update. Free of torch, so that C++ and CUDA may share it.

#include "../../common/dtype.h"

namespace genkern::scaled_add {

template <typename T>
GENKERN_HD T add(T x, T update, T decay, T scale) {
  return decay * x + scale * update;
}

// Elements [begin, end). T is the storage type; arithmetic is in float32, or float64 for float64.
template <typename T>
void forward(const T* x, const T* update, arithmetic_t<T> decay, arithmetic_t<T> scale, T* y, int64_t begin,
             int64_t end);
template <typename T>
void backward(const T* grad_y, arithmetic_t<T> decay, arithmetic_t<T> scale, T* grad_x, T* grad_update, int64_t begin,
              int64_t end);

}  // namespace genkern::scaled_add
