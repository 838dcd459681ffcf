#pragma once
// The live taps of a weight, and the determinant of its centre: loops over [C, C, k_h, k_w], which are small.

#include <algorithm>
#include <cmath>
#include <vector>

#include "../../common/dtype.h"
#include "autoregressive_conv.h"

namespace genkern::autoregressive_conv {

struct Kernel {
  int64_t channels, area;
  Live live;

  int64_t centre() const { return area / 2; }
};

template <typename T>
void keep_live(const Kernel& kernel, const T* __restrict from, T* __restrict to) {
  const int columns = 2 * kernel.live.window.columns + 1;
  std::vector<char> kept(size_t(kernel.area));
  for (int t = 0; t < int(kernel.area); t++) kept[size_t(t)] = kernel.live.tap(t / columns, t % columns);
  const int64_t pairs = kernel.channels * kernel.channels;
  const T none = store<T>(arithmetic_t<T>(0));
  for (int64_t pair = 0; pair < pairs; pair++) {
    const T* __restrict source = from + pair * kernel.area;
    T* __restrict target = to + pair * kernel.area;
    for (int64_t t = 0; t < kernel.area; t++) target[t] = kept[size_t(t)] ? source[t] : none;
    if (kernel.live.at_centre(pair / kernel.channels, pair % kernel.channels))
      target[kernel.centre()] = source[kernel.centre()];
  }
}

template <typename T>
double log_diagonal(const Kernel& kernel, const T* weight) {
  double sum = 0;
  for (int64_t c = 0; c < kernel.channels; c++)
    sum += std::log(std::abs(double(load(weight[(c * kernel.channels + c) * kernel.area + kernel.centre()]))));
  return sum;
}

// d ln |L_cc| = d L_cc / L_cc; nothing where nobody asks, also of a singular weight.
template <typename T, typename A = arithmetic_t<T>>
void add_log_diagonal(const Kernel& kernel, A grad_log_det, const T* weight, T* grad) {
  if (grad_log_det == A(0)) return;
  for (int64_t c = 0; c < kernel.channels; c++) {
    const int64_t at = (c * kernel.channels + c) * kernel.area + kernel.centre();
    grad[at] = store<T>(load(grad[at]) + grad_log_det / load(weight[at]));
  }
}

}  // namespace genkern::autoregressive_conv
