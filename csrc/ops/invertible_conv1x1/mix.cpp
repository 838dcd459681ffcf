#include "mix.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../random/random.h"

namespace genkern::invertible_conv1x1 {
namespace {
// Rows of the next tile, of those that are left.
GENKERN_INLINE int64_t block_rows(int64_t left) { return left >= 6 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }
}  // namespace
}  // namespace genkern::invertible_conv1x1

#define GENKERN_TILE "../ops/invertible_conv1x1/tile.h"
#include "../../common/levels.h"

namespace genkern::invertible_conv1x1 {

template <typename T>
void pack(const T* weight, int64_t channels, bool transposed, arithmetic_t<T>* packed) {
  const int64_t row_stride = transposed ? 1 : channels, column_stride = transposed ? channels : 1;
  for (int64_t row = 0; row < channels;) {
    const int64_t rows = block_rows(channels - row);
    for (int64_t c = 0; c < channels; c++)
      for (int64_t r = row; r < row + rows; r++) *packed++ = load(weight[r * row_stride + c * column_stride]);
    row += rows;
  }
}

template <typename T>
void mix(const Strips& strips, const T* x, const arithmetic_t<T>* packed, const arithmetic_t<T>* bias, T* y,
         int64_t begin, int64_t end) {
  GENKERN_AT_LEVEL(mix_strips(strips, x, packed, bias, y, begin, end));
}

template <typename T>
void sums(const Strips& strips, const T* grad_y, const T* x, int64_t begin, int64_t end, int64_t first_row,
          int64_t last_row, double* grad_weight, double* grad_bias) {
  GENKERN_AT_LEVEL(unit_sums(strips, grad_y, x, begin, end, first_row, last_row, grad_weight, grad_bias));
}

#define GENKERN_INSTANTIATE(T)                                                                                    \
  template void pack<T>(const T*, int64_t, bool, arithmetic_t<T>*);                                               \
  template void mix<T>(const Strips&, const T*, const arithmetic_t<T>*, const arithmetic_t<T>*, T*, int64_t, int64_t); \
  template void sums<T>(const Strips&, const T*, const T*, int64_t, int64_t, int64_t, int64_t, double*, double*);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::invertible_conv1x1
