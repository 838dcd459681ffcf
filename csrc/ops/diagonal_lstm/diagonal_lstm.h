#pragma once
// LSTMs over the cells p = (i, j) of a picture, in waves of cells that do not depend on each other:
//   a(p) = x(p) + sum_k W_k h(p + d_k),   o, f, i = sigmoid(a_o), sigmoid(a_f), sigmoid(a_i),   g = tanh(a_g),
//   c(p) = f c(p + d_c) + i g,   h(p) = o tanh c(p),   h = c = 0 outside of the picture.
// diagonal  waves are i + j = t;  d_0 = (-1, 0), d_1 = (0, -1);       d_c = (0, -1)
// rows      waves are i = t;      d_k = (-1, k - (taps - 1) / 2);     d_c = (-1, 0)
// Only the cells of the picture are computed, none of the padding of the skewed map.
// van den Oord et al. 2016 (arXiv:1601.06759), section 3.1-3.2 and eq. 3.

#include "../../common/math.h"

namespace genkern::diagonal_lstm {

struct Lattice {
  int64_t height, width, hidden;
  int taps;
  bool diagonal;

  GENKERN_HD int64_t gates() const { return 4 * hidden; }
  GENKERN_HD int64_t cells() const { return height * width; }
  GENKERN_HD int64_t waves() const { return diagonal ? height + width - 1 : height; }
  // A wave's cells by position: rows of the picture on a diagonal, columns in a row.
  GENKERN_HD int64_t begin(int64_t wave) const { return diagonal && wave >= width ? wave - width + 1 : 0; }
  GENKERN_HD int64_t end(int64_t wave) const {
    if (!diagonal) return width;
    return wave + 1 < height ? wave + 1 : height;
  }
  GENKERN_HD int64_t row(int64_t wave, int64_t position) const { return diagonal ? position : wave; }
  GENKERN_HD int64_t column(int64_t wave, int64_t position) const { return diagonal ? wave - position : position; }
  // Where a tap looks, and where the cell state comes from: rows and columns from the cell.
  GENKERN_HD int64_t tap_row(int tap) const { return diagonal && tap == 1 ? 0 : -1; }
  GENKERN_HD int64_t tap_column(int tap) const { return diagonal ? -tap : tap - (taps - 1) / 2; }
  GENKERN_HD int64_t carry_row() const { return diagonal ? 0 : -1; }
  GENKERN_HD int64_t carry_column() const { return diagonal ? -1 : 0; }
};

template <typename T>
GENKERN_HD T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

// The gates in place of their sums, and the state after them.
template <typename T>
GENKERN_HD void step(T* o, T* f, T* i, T* g, T c_before, T* c, T* h) {
  *o = sigmoid(*o), *f = sigmoid(*f), *i = sigmoid(*i), *g = tanh(*g);
  *c = *f * c_before + *i * *g;
  *h = *o * tanh(*c);
}

// The gradients of the sums in place of the gates; `carried` is the gradient of c from the cell after it, and becomes
// that of c_before.
template <typename T>
GENKERN_HD void step_back(T* o, T* f, T* i, T* g, T c_before, T c, T grad_h, T* carried) {
  const T t = tanh(c);
  const T grad_c = *carried + grad_h * *o * (T(1) - t * t);
  *carried = grad_c * *f;
  const T grad_o = grad_h * t * *o * (T(1) - *o);
  const T grad_f = grad_c * c_before * *f * (T(1) - *f);
  const T grad_i = grad_c * *g * *i * (T(1) - *i);
  *g = grad_c * *i * (T(1) - *g * *g);
  *o = grad_o, *f = grad_f, *i = grad_i;
}

// x and its gradient [B, H, W, 4h], weight [4h, h, taps], h and its gradient [B, H, W, h]; all contiguous.
template <typename T>
struct Forward {
  Lattice lattice;
  int64_t batch;
  const T* x;
  const T* weight;
  T* h;
};

template <typename T>
struct Backward {
  Lattice lattice;
  int64_t batch;
  const T* grad_h;
  const T* x;
  const T* weight;
  T* grad_x;
  T* grad_weight;
};

// Samples are walked in groups, which depend on the shape alone and not on the number of threads.
int64_t samples_in_group(const Lattice& lattice);

// A group at a time; `packed` is the weight as the loops read it, made once by `pack`.
template <typename T>
void forward(const Forward<T>& call, const T* packed, int64_t first_group, int64_t last_group);

// Slot s of `slots` takes every group of a contiguous share and sums its part of grad_weight into `sums`.
template <typename T>
void backward(const Backward<T>& call, const T* packed, const T* packed_transposed, T* sums, int64_t slots,
              int64_t first_slot, int64_t last_slot);

// Sizes, in elements, of the packed weight and of the sums of one slot.
template <typename T>
int64_t packed_size(const Lattice& lattice, bool transposed);
template <typename T>
int64_t sums_size(const Lattice& lattice);
template <typename T>
void pack(const Lattice& lattice, const T* weight, bool transposed, T* packed);
template <typename T>
void add_slots(const Lattice& lattice, const T* sums, int64_t slots, T* grad_weight);

}  // namespace genkern::diagonal_lstm
