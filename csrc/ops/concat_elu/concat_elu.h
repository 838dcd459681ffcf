#pragma once
// Concatenated ELU: y = [elu(x), elu(-x)], elu(x) = x for x > 0, e^x - 1 for x <= 0.
// Salimans et al. 2017 (arXiv:1701.05517). x is rows of `length` elements, y rows of twice as many.

#include "../../common/math.h"

namespace genkern::concat_elu {

// Elements [begin, end) of x. T is the storage type.
template <typename T>
void forward(const T* x, T* y, int64_t length, int64_t begin, int64_t end);
template <typename T>
void backward(const T* grad_y, const T* x, T* grad_x, int64_t length, int64_t begin, int64_t end);

}  // namespace genkern::concat_elu
