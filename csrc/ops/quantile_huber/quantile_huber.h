#pragma once
// Quantile Huber loss: |tau - 1{u < 0}| L(u) / kappa, u = x - q, L(u) / kappa = u^2 / (2 kappa) or |u| - kappa / 2.
// Ostrovski et al. 2018 (arXiv:1806.05575), eq. 3.

#include "../../common/math.h"

namespace genkern::quantile_huber {

// Elements [begin, end). T is the storage type; gradients that are null are not written.
template <typename T>
void forward(const T* x, const T* q, const T* tau, double kappa, arithmetic_t<T>* loss, int64_t begin, int64_t end);
template <typename T>
void backward(const arithmetic_t<T>* grad, const T* x, const T* q, const T* tau, double kappa, T* grad_x, T* grad_q,
              T* grad_tau, int64_t begin, int64_t end);

}  // namespace genkern::quantile_huber
