#pragma once
// Flow batch normalisation: y = e^s (x - mu) / sqrt(v + eps) + b with the mean and biased variance of the batch,
//   log|det J| = sites * sum (s - ln(v + eps) / 2).
// Dinh et al. 2017 (arXiv:1605.08803), section 3.7. The gradient flows through mu and v as well:
//   grad_x = f g + slope (x - mu) + shift,  f = e^s / sqrt(v + eps),
//   slope = -(f sum g (x - mu) + sites sum grad_log_det) / (N (v + eps)),  shift = -f sum g / N.

#include "../actnorm/actnorm.h"

namespace genkern::flow_batch_norm {

// Count, mean and sum of squared deviations of what was added, about an anchor: the first mean that came.
// The anchor is at most sqrt(count) deviations off, which double precision does not notice.
struct Moments {
  double count = 0, anchor = 0, first = 0, second = 0;

  void add(double n, double mean, double squares) {
    if (count == 0) anchor = mean;
    const double d = mean - anchor;
    count += n, first += n * d, second += squares + n * d * d;
  }
  void add(const Moments& other) {
    if (other.count == 0) return;
    if (count == 0) anchor = other.anchor;
    const double d = other.anchor - anchor;
    count += other.count, first += other.first + other.count * d;
    second += other.second + d * (2 * other.first + other.count * d);
  }
  double mean() const { return count == 0 ? 0 : anchor + first / count; }
  double squares() const { return count == 0 ? 0 : second - first * first / count; }
};

// `partial` is [slots, C].
template <typename T>
void moments(const Channels& shape, const void* x, Moments* partial, int64_t begin, int64_t end);

// grad_x = f * grad_y + slope * (x + center) + offset, slope by parameter index.
template <typename T>
void combine(const Channels& shape, const actnorm::Parameters<arithmetic_t<T>>& parameters,
             const arithmetic_t<T>* slope, const void* grad_y, const void* x, void* grad_x, int64_t begin, int64_t end);

}  // namespace genkern::flow_batch_norm
