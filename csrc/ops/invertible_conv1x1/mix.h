#pragma once
// One square matrix for every pixel of [B, C, N], C x N contiguous: y_p = W x_p + b, where the vectors are pixels, so
// that nothing is packed but W. Its gradients: of x the same product with W', of W and b sums over all pixels,
//   g_W = sum_p g_p x_p',   g_b = sum_p g_p.

#include <algorithm>
#include <cstdint>

#include "../../common/dtype.h"

namespace genkern::invertible_conv1x1 {

constexpr int64_t STRIP = 64;  // pixels in a strip: the tile's widest, whatever the vectors

// Strips of the B x N pixels, in order. Pictures that are smaller than a strip share one.
struct Strips {
  int64_t batch, channels, sites;

  bool within() const { return sites >= STRIP; }  // a strip belongs to one picture
  int64_t per_picture() const { return (sites + STRIP - 1) / STRIP; }
  int64_t pixels() const { return batch * sites; }
  int64_t count() const { return within() ? batch * per_picture() : (pixels() + STRIP - 1) / STRIP; }
  int64_t start(int64_t strip) const {  // its first pixel
    if (!within()) return std::min(strip * STRIP, pixels());
    return strip / per_picture() * sites + strip % per_picture() * STRIP;
  }
  int64_t offset(int64_t pixel) const { return pixel / sites * channels * sites + pixel % sites; }  // of its channel 0

  // Strips in a unit of the sums over pixels, whose g and x stay in the second-level cache.
  int64_t per_unit() const { return channels <= 32 ? 16 : 8; }
  int64_t units() const { return (count() + per_unit() - 1) / per_unit(); }

  // The sums are shared among tasks: some rows of g_W each, and of few channels a part of the units, too.
  static constexpr int64_t TASKS = 32;
  int64_t rows_of_task() const { return std::max<int64_t>((channels + TASKS - 1) / TASKS, 24) / 6 * 6; }
  int64_t groups() const { return (channels + rows_of_task() - 1) / rows_of_task(); }
  int64_t parts() const { return std::min(units(), std::max<int64_t>(TASKS / groups(), 1)); }
};

// W [C, C], or W', in blocks of a tile's rows [C, rows].
template <typename T>
void pack(const T* weight, int64_t channels, bool transposed, arithmetic_t<T>* packed);

// Strips [begin, end) of y; no bias: zero.
template <typename T>
void mix(const Strips& strips, const T* x, const arithmetic_t<T>* packed, const arithmetic_t<T>* bias, T* y,
         int64_t begin, int64_t end);

// Rows [first_row, last_row) of the sums g_W [C, C] and g_b [C] over the units [begin, end), in order, added to what is
// there.
template <typename T>
void sums(const Strips& strips, const T* grad_y, const T* x, int64_t begin, int64_t end, int64_t first_row,
          int64_t last_row, double* grad_weight, double* grad_bias);

}  // namespace genkern::invertible_conv1x1
