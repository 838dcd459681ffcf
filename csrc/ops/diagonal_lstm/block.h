#pragma once
// A picture by one block of threads, wave after wave: what the CUDA kernels run, and what a test runs on the CPU with a
// block of ordinary threads. A thread takes one channel of CELLS neighbouring cells of the wave, so that a weight which
// it has read serves all of them; the threads wait for each other between waves. The state lives in device memory.

#include "diagonal_lstm.h"

namespace genkern::diagonal_lstm {

constexpr int CELLS = 4;

// One picture: x, gates [H, W, 4h]; h, c [H, W, h].
template <typename T>
struct Picture {
  const T* x;
  T* gates;  // null: not kept
  T* c;
  T* h;
  const T* grad_h;
};

template <typename T>
GENKERN_HD T value_or_zero(const T* from, int64_t index) {
  return from == nullptr ? T(0) : from[index];
}

// The cell that lies so many rows and columns from one of the wave, or null outside of the picture.
template <typename T>
GENKERN_HD T* neighbour(const Lattice& lattice, T* map, int64_t size, int64_t row, int64_t column) {
  const bool inside = row >= 0 && row < lattice.height && column >= 0 && column < lattice.width;
  return inside ? map + (row * lattice.width + column) * size : nullptr;
}

// Calls f(first position, one beyond the last, channel) for this thread's share of a wave.
template <typename Block, typename F>
GENKERN_HD void share(const Lattice& lattice, int64_t wave, const Block& block, const F& f) {
  const int64_t begin = lattice.begin(wave), end = lattice.end(wave);
  const int64_t items = (end - begin + CELLS - 1) / CELLS * lattice.hidden;
  for (int64_t item = block.thread(); item < items; item += block.threads()) {
    const int64_t first = begin + item / lattice.hidden * CELLS;
    f(first, first + CELLS < end ? first + CELLS : end, item % lattice.hidden);
  }
}

// `weight` is [taps, h, 4h].
template <typename T, typename Block>
GENKERN_HD void picture_forward(const Lattice& lattice, const Picture<T>& picture, const T* weight,
                                const Block& block) {
  const int64_t hidden = lattice.hidden, gates = lattice.gates();
  for (int64_t wave = 0; wave < lattice.waves(); wave++) {
    share(lattice, wave, block, [&](int64_t first, int64_t last, int64_t k) {
      T sums[CELLS][4] = {};
      for (int n = 0; n < CELLS && first + n < last; n++) {
        const int64_t row = lattice.row(wave, first + n), column = lattice.column(wave, first + n);
        for (int gate = 0; gate < 4; gate++)
          sums[n][gate] = picture.x[(row * lattice.width + column) * gates + gate * hidden + k];
      }
      for (int tap = 0; tap < lattice.taps; tap++) {
        const T* from[CELLS] = {};
        for (int n = 0; n < CELLS && first + n < last; n++)
          from[n] = neighbour<const T>(lattice, picture.h, hidden, lattice.row(wave, first + n) + lattice.tap_row(tap),
                                       lattice.column(wave, first + n) + lattice.tap_column(tap));
        const T* w = weight + tap * hidden * gates + k;
        for (int64_t in = 0; in < hidden; in++, w += gates)
          for (int n = 0; n < CELLS; n++) {
            const T value = value_or_zero(from[n], in);
            for (int gate = 0; gate < 4; gate++) sums[n][gate] += value * w[gate * hidden];
          }
      }
      for (int n = 0; n < CELLS && first + n < last; n++) {
        const int64_t row = lattice.row(wave, first + n), column = lattice.column(wave, first + n);
        const int64_t cell = row * lattice.width + column;
        const T* before =
            neighbour<const T>(lattice, picture.c, hidden, row + lattice.carry_row(), column + lattice.carry_column());
        T* const s = sums[n];
        step(s, s + 1, s + 2, s + 3, value_or_zero(before, k), picture.c + cell * hidden + k,
             picture.h + cell * hidden + k);
        if (picture.gates != nullptr)
          for (int gate = 0; gate < 4; gate++) picture.gates[cell * gates + gate * hidden + k] = s[gate];
      }
    });
    block.sync();
  }
}

// After `picture_forward`: the gradients of the sums in place of the gates. `weight` is [taps, 4h, h].
template <typename T, typename Block>
GENKERN_HD void picture_backward(const Lattice& lattice, const Picture<T>& picture, const T* weight,
                                 const Block& block) {
  const int64_t hidden = lattice.hidden, gates = lattice.gates();
  for (int64_t wave = lattice.waves() - 1; wave >= 0; wave--) {
    share(lattice, wave, block, [&](int64_t first, int64_t last, int64_t k) {
      T grads[CELLS] = {};
      for (int tap = 0; tap < lattice.taps; tap++) {
        const T* from[CELLS] = {};  // the cell that sees this one through the tap
        for (int n = 0; n < CELLS && first + n < last; n++)
          from[n] =
              neighbour<const T>(lattice, picture.gates, gates, lattice.row(wave, first + n) - lattice.tap_row(tap),
                                 lattice.column(wave, first + n) - lattice.tap_column(tap));
        const T* w = weight + tap * gates * hidden + k;
        for (int64_t gate = 0; gate < gates; gate++, w += hidden)
          for (int n = 0; n < CELLS; n++) grads[n] += value_or_zero(from[n], gate) * *w;
      }
      for (int n = 0; n < CELLS && first + n < last; n++) {
        const int64_t row = lattice.row(wave, first + n), column = lattice.column(wave, first + n);
        const int64_t cell = row * lattice.width + column, rows = lattice.carry_row(), columns = lattice.carry_column();
        const T* before = neighbour<const T>(lattice, picture.c, hidden, row + rows, column + columns);
        const T* after = neighbour<const T>(lattice, picture.c, hidden, row - rows, column - columns);
        T carried = value_or_zero(after, k);
        T* const a = picture.gates + cell * gates + k;
        T* const c = picture.c + cell * hidden + k;
        step_back(a, a + hidden, a + 2 * hidden, a + 3 * hidden, value_or_zero(before, k), *c,
                  grads[n] + picture.grad_h[cell * hidden + k], &carried);
        *c = carried;
      }
    });
    block.sync();
  }
}

}  // namespace genkern::diagonal_lstm
