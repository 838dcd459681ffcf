#include "cpu.h"

#include <thread>

namespace genkern::autoregressive_conv {
namespace {

constexpr int PIXELS = 6;  // of a row at a time, as far as they do not depend on each other
constexpr int CHAINS = 4;  // sums side by side where each pixel waits for the one before it

template <typename T, int LANES>
struct Lanes {
  typedef T Vector __attribute__((vector_size(LANES * sizeof(T)), may_alias));
};
template <typename T, int LANES>
using Vector = typename Lanes<T, LANES>::Vector;

// One sample while it is solved: [H, columns + W + columns, C], channels in whole vectors, zeros beside the picture.
template <typename T, int LANES>
struct Picture {
  T* data;
  int64_t pixel, row_size, margin;  // elements of a pixel, of a row, and before the first column

  GENKERN_INLINE T* at(int64_t row, int64_t column) const { return data + row * row_size + margin + column * pixel; }
  GENKERN_INLINE Vector<T, LANES>& tile(int64_t row, int64_t column, int64_t first) const {
    return *reinterpret_cast<Vector<T, LANES>*>(at(row, column) + first);
  }
};

// sums[p] += matrix (of which this is one vector of rows, column by column) times the pixel at source + p * pixel
template <typename T, int LANES, int COUNT>
GENKERN_INLINE void add_products(Vector<T, LANES>* sums, const T* matrix, int64_t padded, const T* source,
                                 int64_t pixel, int64_t channel, int64_t channels) {
  for (int64_t c = 0; c < channels; c++) {
    const Vector<T, LANES> column = *reinterpret_cast<const Vector<T, LANES>*>(matrix + c * padded);
#pragma GCC unroll 8
    for (int p = 0; p < COUNT; p++) sums[p] += column * source[p * pixel + c * channel];
  }
}

// L^-1 (y - what the rows above contribute), for pixels side by side.
template <typename T, int LANES, int COUNT>
GENKERN_INLINE void begin_pixels(const Solve<T>& solve, const T* y, const Matrices<T>& matrices,
                                 const Picture<T, LANES>& picture, int64_t row, int64_t column) {
  const Window window = solve.window;
  const int64_t channels = solve.channels, padded = matrices.padded;
  const T* const from = y + row * solve.of_y.row + column * solve.of_y.column;
  for (int64_t first = 0; first < padded; first += LANES) {
    Vector<T, LANES> sums[COUNT] = {};
    add_products<T, LANES, COUNT>(sums, matrices.centre() + first, padded, from, solve.of_y.column, solve.of_y.second,
                                  channels);
    for (int t = 0; t < window.above(); t++) {
      const Tap tap = window.tap(t);
      if (tap.dy > row) break;
      const T* const source = picture.at(row - tap.dy, column - tap.dx);
      add_products<T, LANES, COUNT>(sums, matrices.tap(t) + first, padded, source, padded, 1, channels);
    }
    for (int p = 0; p < COUNT; p++) picture.tile(row, column + p, first) = sums[p];
  }
}

// What the pixels before it in its own row contribute to a pixel.
template <typename T, int LANES>
GENKERN_INLINE void finish_pixel(const Solve<T>& solve, const Matrices<T>& matrices, const Picture<T, LANES>& picture,
                                 int64_t row, int64_t column) {
  const Window window = solve.window;
  const int64_t channels = solve.channels, padded = matrices.padded;
  for (int64_t first = 0; first < padded; first += LANES) {
    Vector<T, LANES> sums[CHAINS] = {picture.tile(row, column, first)};
    for (int t = window.above(); t < window.count(); t++) {
      const T* const matrix = matrices.tap(t) + first;
      const T* const source = picture.at(row, column - window.tap(t).dx);
      int64_t c = 0;
      for (; c + CHAINS <= channels; c += CHAINS) {
#pragma GCC unroll 4
        for (int k = 0; k < CHAINS; k++)
          sums[k] += *reinterpret_cast<const Vector<T, LANES>*>(matrix + (c + k) * padded) * source[c + k];
      }
      for (; c < channels; c++) sums[0] += *reinterpret_cast<const Vector<T, LANES>*>(matrix + c * padded) * source[c];
    }
    picture.tile(row, column, first) = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
}

template <typename T, int LANES>
GENKERN_INLINE void write_row(const Solve<T>& solve, T* x, const Picture<T, LANES>& picture, int64_t row) {
  const T* const from = picture.at(row, 0);
  T* const to = x + row * solve.of_x.row;
  const int64_t channel = solve.of_x.second, column = solve.of_x.column, pixel = picture.pixel;
  if (column == 1 || column == -1) {
    for (int64_t c = 0; c < solve.channels; c++)
      for (int64_t j = 0; j < solve.width; j++) to[c * channel + j * column] = from[j * pixel + c];
  } else {
    for (int64_t j = 0; j < solve.width; j++)
      for (int64_t c = 0; c < solve.channels; c++) to[c * channel + j * column] = from[j * pixel + c];
  }
}

// The rows of one sample whose number modulo `ways` lies in [low, high).
template <typename T, int LANES>
GENKERN_INLINE void solve_rows(const Solve<T>& solve, const Matrices<T>& matrices, const Picture<T, LANES>& picture,
                               int64_t sample, std::atomic<int64_t>* done, int64_t ways, int64_t low, int64_t high) {
  const T* const y = solve.y + sample * solve.of_y.first;
  T* const x = solve.x + sample * solve.of_x.first;
  const int64_t ahead = solve.window.lag() - 1;  // how far the row above must be
  for (int64_t row = 0; row < solve.height; row++) {
    if (row % ways < low || row % ways >= high) continue;
    for (int64_t column = 0; column < solve.width; column += PIXELS) {
      const int64_t end = std::min<int64_t>(column + PIXELS, solve.width);
      if (ways > 1 && row > 0) {
        const int64_t wanted = std::min(end + ahead, solve.width);
        while (done[row - 1].load(std::memory_order_acquire) < wanted) std::this_thread::yield();
      }
      if (end - column == PIXELS) {
        begin_pixels<T, LANES, PIXELS>(solve, y, matrices, picture, row, column);
      } else {
        for (int64_t j = column; j < end; j++) begin_pixels<T, LANES, 1>(solve, y, matrices, picture, row, j);
      }
      if (solve.window.columns > 0)
        for (int64_t j = column; j < end; j++) finish_pixel<T, LANES>(solve, matrices, picture, row, j);
      if (ways > 1) done[row].store(end, std::memory_order_release);
    }
    write_row<T, LANES>(solve, x, picture, row);
  }
}

template <typename T, int LANES>
GENKERN_INLINE void solve_range(const Solve<T>& solve, const Matrices<T>& matrices, const Shares<T>& shares,
                                int64_t begin, int64_t end) {
  const int64_t ways = shares.ways, padded = matrices.padded, margin = solve.window.columns * padded;
  const Zeros<T> own(ways > 1 ? 0 : shares.picture_size);
  for (int64_t sample = begin / ways; sample * ways < end; sample++) {
    T* const memory = ways > 1 ? shares.pictures.data() + sample * shares.picture_size : own.data();
    std::atomic<int64_t>* const done = ways > 1 ? shares.done.data() + sample * solve.height : nullptr;
    const Picture<T, LANES> picture{memory, padded, 2 * margin + solve.width * padded, margin};
    solve_rows<T, LANES>(solve, matrices, picture, sample, done, ways, std::max<int64_t>(begin - sample * ways, 0),
                         std::min(end - sample * ways, ways));
  }
}

// -- the matrices
// ------------------------------------------------------------------------------------------------------

// transposed[n][m] = L^-1[m][n]: column n of the inverse, by forward substitution in all of its rows at once.
GENKERN_INLINE void invert_lower(const double* lower, double* transposed, int64_t n) {  // lower[k][i] = L[i][k]
  for (int64_t m = 0; m < n; m++) {
    double* const column = transposed + m * n;
    std::fill_n(column, n, 0.0);
    column[m] = 1;
    for (int64_t k = m; k < n; k++) {
      const double value = column[k] / lower[k * n + k];
      column[k] = value;
      const double* const below = lower + k * n;
#pragma omp simd
      for (int64_t i = k + 1; i < n; i++) column[i] -= below[i] * value;
    }
  }
}

template <typename T>
GENKERN_INLINE void fill_matrices(const Solve<T>& solve, int64_t padded, T* to) {
  const int64_t n = solve.channels;
  std::vector<double> lower(size_t(n * n)), inverse(size_t(n * n)), column(static_cast<size_t>(n));
  for (int64_t k = 0; k < n; k++)
    for (int64_t i = k; i < n; i++) lower[size_t(k * n + i)] = double(solve.entry(i, k, {0, 0}));
  invert_lower(lower.data(), inverse.data(), n);
  for (int64_t from = 0; from < n; from++)
    for (int64_t i = from; i < n; i++) to[from * padded + i] = T(inverse[size_t(from * n + i)]);
  for (int t = 0; t < solve.window.count(); t++) {
    to += n * padded;
    for (int64_t from = 0; from < n; from++) {
      std::fill(column.begin(), column.end(), 0.0);
      for (int64_t m = 0; m < n; m++) {
        const double value = double(solve.entry(m, from, solve.window.tap(t)));
        const double* const inverted = inverse.data() + m * n;
        double* const sums = column.data();
#pragma omp simd
        for (int64_t i = m; i < n; i++) sums[i] -= inverted[i] * value;
      }
      for (int64_t i = 0; i < n; i++) to[from * padded + i] = T(column[size_t(i)]);
    }
  }
}

// -- one function for each x86-64 level and each size of vector -----------------------------------------------------

#define GENKERN_SOLVE(T, LANES)                                                                                   \
  GENKERN_CLONES void solve_##T##_##LANES(const Solve<T>& solve, const Matrices<T>& matrices,                     \
                                          const Shares<T>& shares, int64_t begin, int64_t end) {                  \
    solve_range<T, LANES>(solve, matrices, shares, begin, end);                                                   \
  }
GENKERN_SOLVE(float, 4)
GENKERN_SOLVE(float, 8)
GENKERN_SOLVE(float, 16)
GENKERN_SOLVE(double, 2)
GENKERN_SOLVE(double, 4)
GENKERN_SOLVE(double, 8)

GENKERN_CLONES void fill_float(const Solve<float>& solve, int64_t padded, float* to) {
  fill_matrices(solve, padded, to);
}
GENKERN_CLONES void fill_double(const Solve<double>& solve, int64_t padded, double* to) {
  fill_matrices(solve, padded, to);
}

}  // namespace

template <>
void Matrices<float>::fill(const Solve<float>& solve, float* to) const {
  fill_float(solve, padded, to);
}
template <>
void Matrices<double>::fill(const Solve<double>& solve, double* to) const {
  fill_double(solve, padded, to);
}

template <>
void solve_units(const Solve<float>& solve, const Matrices<float>& matrices, const Shares<float>& shares, int64_t begin,
                 int64_t end) {
  const auto run = matrices.lanes == 4 ? solve_float_4 : matrices.lanes == 8 ? solve_float_8 : solve_float_16;
  run(solve, matrices, shares, begin, end);
}
template <>
void solve_units(const Solve<double>& solve, const Matrices<double>& matrices, const Shares<double>& shares,
                 int64_t begin, int64_t end) {
  const auto run = matrices.lanes == 2 ? solve_double_2 : matrices.lanes == 4 ? solve_double_4 : solve_double_8;
  run(solve, matrices, shares, begin, end);
}

}  // namespace genkern::autoregressive_conv
