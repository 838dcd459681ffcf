#pragma once
// Blocks of elements as the loops want them, one row for each parameter, filled from tensors of any dtype and layout.

#include <algorithm>
#include <utility>
#include <vector>

#include "rational_quadratic_spline.h"

namespace genkern::rational_quadratic_spline {
namespace {

constexpr int LANES = 64;  // elements a block: each loop below is over them, with the bins outside

// One block of elements, all arrays [.., LANES].
template <typename A>
struct Block {
  A *x, *y, *grad_y, *log_slope, *grad_log_det;  // input, output, its gradient; log dy/dx and its gradient
  A* raw;                                        // [2 K + K + 1]: widths, heights, slopes at all knots
  A* grad_raw;
  A *e_x, *e_y;  // [K]: softmax before its division
  int32_t* passes;
};

// A block's memory. Lanes beyond the last element keep what they held: zeros at first, then older elements.
template <typename A>
struct Workspace : Block<A> {
  explicit Workspace(const Shape& shape)
      : memory(size_t((5 + 2 * knots(shape) + 2 * shape.bins) * LANES), A(0)), flags(LANES, 0) {
    A* at = memory.data();
    const auto take = [&](int rows) { return std::exchange(at, at + rows * LANES); };
    this->x = take(1), this->y = take(1), this->grad_y = take(1), this->log_slope = take(1);
    this->grad_log_det = take(1);
    this->raw = take(knots(shape)), this->grad_raw = take(knots(shape));
    this->e_x = take(shape.bins), this->e_y = take(shape.bins);
    this->passes = flags.data();
  }
  static int knots(const Shape& shape) { return 3 * shape.bins + 1; }

 private:
  std::vector<A> memory;
  std::vector<int32_t> flags;
};

// Cuts elements [from, from + count) at multiples of `length`: calls f(lane, row, i, run) for each run.
template <typename F>
GENKERN_INLINE void for_runs(int64_t length, int64_t from, int64_t count, const F& f) {
  int64_t row = from / length, i = from - row * length;
  for (int64_t lane = 0; lane < count; row++, i = 0) {
    const int64_t run = std::min(count - lane, length - i);
    f(lane, row, i, run);
    lane += run;
  }
}

// Rows of 4 numbers to columns, in registers.
template <typename T, typename A>
GENKERN_INLINE void transpose(const T* from, int64_t from_row, A* to) {
  A tile[4][4];
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < 4; k++) tile[k][i] = load(from[i * from_row + k]);
  for (int k = 0; k < 4; k++)
    for (int i = 0; i < 4; i++) to[k * LANES + i] = tile[k][i];
}

template <typename T, typename A>
GENKERN_INLINE void transpose_back(const A* from, T* to, int64_t to_row) {
  A tile[4][4];
  for (int k = 0; k < 4; k++)
    for (int i = 0; i < 4; i++) tile[i][k] = from[k * LANES + i];
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < 4; k++) to[i * to_row + k] = store<T>(tile[i][k]);
}

// The parameters of `count` elements, from memory to the block.
template <typename T, typename A>
void read_params(const Shape& shape, const T* params, int64_t from, int64_t count, A* rows) {
  const int parameters = shape.count;
  if (shape.length == 1) {
    params += from * parameters;
    for (int64_t j = 0; j < count; j += 4) {
      const int64_t last = std::min<int64_t>(j + 4, count);
      int p = 0;
      if (last == j + 4)
        for (; p + 4 <= parameters; p += 4) transpose(params + j * parameters + p, parameters, rows + p * LANES + j);
      for (; p < parameters; p++)
        for (int64_t i = j; i < last; i++) rows[p * LANES + i] = load(params[i * parameters + p]);
    }
    return;
  }
  const int64_t length = shape.length;
  for_runs(length, from, count, [&](int64_t lane, int64_t row, int64_t i, int64_t run) {
    const T* source = params + row * parameters * length + i;
    for (int p = 0; p < parameters; p++)
      for (int64_t j = 0; j < run; j++) rows[p * LANES + lane + j] = load(source[p * length + j]);
  });
}

// Their gradients, from the block to memory.
template <typename T, typename A>
void write_params(const Shape& shape, const A* rows, int64_t from, int64_t count, T* params) {
  const int parameters = shape.count;
  if (shape.length == 1) {
    params += from * parameters;
    for (int64_t j = 0; j < count; j += 4) {
      const int64_t last = std::min<int64_t>(j + 4, count);
      int p = 0;
      if (last == j + 4)
        for (; p + 4 <= parameters; p += 4)
          transpose_back(rows + p * LANES + j, params + j * parameters + p, parameters);
      for (; p < parameters; p++)
        for (int64_t i = j; i < last; i++) params[i * parameters + p] = store<T>(rows[p * LANES + i]);
    }
    return;
  }
  const int64_t length = shape.length;
  for_runs(length, from, count, [&](int64_t lane, int64_t row, int64_t i, int64_t run) {
    T* target = params + row * parameters * length + i;
    for (int p = 0; p < parameters; p++)
      for (int64_t j = 0; j < run; j++) target[p * length + j] = store<T>(rows[p * LANES + lane + j]);
  });
}

// Fills a block with `count` elements, the first of which is number `from` of all.
template <typename T, typename A>
void read_block(const Shape& shape, const T* x, const T* params, const uint8_t* mask, int64_t from, int64_t count,
                const Block<A>& block) {
  for_runs(shape.active, from, count, [&](int64_t lane, int64_t sample, int64_t element, int64_t run) {
    const T* source = x + sample * shape.sample + shape.first + element;
    for (int64_t j = 0; j < run; j++) block.x[lane + j] = load(source[j]);
    if (mask != nullptr)
      for (int64_t j = 0; j < run; j++) block.passes[lane + j] = mask[element + j];
  });
  const int bins = shape.bins;
  A* raw = block.raw;
  if (shape.linear) {  // the widths and heights, then the slopes from the second knot on
    read_params(shape, params, from, count, raw);
    A* slopes = raw + 2 * bins * LANES;
    std::copy_backward(slopes, slopes + (bins - 1) * LANES, slopes + bins * LANES);
  } else {
    read_params(shape, params, from, count, raw);
    if (shape.circular) std::copy_n(raw + 2 * bins * LANES, LANES, raw + 3 * bins * LANES);
  }
}

// Copies the elements of a sample that pass unchanged.
template <typename T>
void copy_passive(const Shape& shape, const T* from, T* to) {
  std::copy_n(from, shape.first, to);
  const int64_t end = shape.first + shape.active;
  std::copy_n(from + end, shape.sample - end, to + end);
}

}  // namespace
}  // namespace genkern::rational_quadratic_spline
