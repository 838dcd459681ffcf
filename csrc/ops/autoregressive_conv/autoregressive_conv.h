#pragma once
// The inverse of a convolution in which a pixel sees itself and some of the pixels before it in raster order:
//   y_p = L x_p + sum_t M_t x_{p - t}   =>   x_p = L^-1 (y_p - sum_t M_t x_{p - t}),   L lower triangular.
// The opposite order is the same walk from the other end, over pixels and channels alike: its strides are negative.

#include <cstdint>

#include "../../common/macros.h"

namespace genkern::autoregressive_conv {

// A source that lies `dy` rows above and `dx` columns before.
struct Tap {
  int dy, dx;
};

// Which taps of a kernel are read beside the centre: all those before it in raster order, or (square) those neither
// below it nor after it.
struct Window {
  int rows, columns;  // above and on either side of the centre
  bool square;

  GENKERN_HD int in_a_row() const { return square ? columns + 1 : 2 * columns + 1; }
  GENKERN_HD int above() const { return rows * in_a_row(); }  // taps in rows above; those beside the centre follow
  GENKERN_HD int count() const { return above() + columns; }
  GENKERN_HD Tap tap(int t) const {
    if (t >= above()) return {0, t - above() + 1};
    return {1 + t / in_a_row(), t % in_a_row() - (square ? 0 : columns)};
  }
  // Pixels with the same column + lag * row do not see each other.
  GENKERN_HD int lag() const { return square ? 1 : columns + 1; }
  // The front of a pixel is at most so many behind that of one that sees it.
  GENKERN_HD int reach() const { return rows * lag() + columns; }
};

// Which entries of the weight [to, from, row, column] are read at all.
struct Live {
  Window window;
  bool reverse;

  GENKERN_HD bool centre(int row, int column) const { return row == window.rows && column == window.columns; }
  // A tap beside the centre, of any two channels.
  GENKERN_HD bool tap(int row, int column) const {
    const int dy = reverse ? row - window.rows : window.rows - row;  // how far above
    const int dx = reverse ? column - window.columns : window.columns - column;
    return (dy > 0 || (dy == 0 && dx > 0)) && (!window.square || dx >= 0);
  }
  GENKERN_HD bool at_centre(int64_t to, int64_t from) const { return reverse ? from >= to : from <= to; }
};

struct Strides {
  int64_t first, second, row, column;
};

template <typename T>
struct Solve {
  const T* y;       // [B, C, H, W]
  const T* weight;  // [C, C, k, k]
  T* x;             // like y
  Strides of_y, of_weight, of_x;
  int64_t batch, channels, height, width;
  Window window;

  // Entry of the matrix by which a tap multiplies its source; {0, 0} is the centre.
  GENKERN_HD T entry(int64_t to, int64_t from, Tap tap) const {
    return weight[to * of_weight.first + from * of_weight.second + (window.rows - tap.dy) * of_weight.row +
                  (window.columns - tap.dx) * of_weight.column];
  }
};

// The same walk from the other end of a tensor [_, _, H, W] in the dimensions that are given.
template <typename T>
void reverse_dimension(T** data, int64_t* stride, int64_t size) {
  *data += (size - 1) * *stride;
  *stride = -*stride;
}

template <typename T>
Solve<T> reversed(Solve<T> solve) {
  const int64_t kernel_rows = 2 * solve.window.rows + 1, kernel_columns = 2 * solve.window.columns + 1;
  reverse_dimension(&solve.y, &solve.of_y.second, solve.channels);
  reverse_dimension(&solve.y, &solve.of_y.row, solve.height);
  reverse_dimension(&solve.y, &solve.of_y.column, solve.width);
  reverse_dimension(&solve.x, &solve.of_x.second, solve.channels);
  reverse_dimension(&solve.x, &solve.of_x.row, solve.height);
  reverse_dimension(&solve.x, &solve.of_x.column, solve.width);
  reverse_dimension(&solve.weight, &solve.of_weight.first, solve.channels);
  reverse_dimension(&solve.weight, &solve.of_weight.second, solve.channels);
  reverse_dimension(&solve.weight, &solve.of_weight.row, kernel_rows);
  reverse_dimension(&solve.weight, &solve.of_weight.column, kernel_columns);
  return solve;
}

}  // namespace genkern::autoregressive_conv
