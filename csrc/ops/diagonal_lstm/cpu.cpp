#include <algorithm>
#include <memory>
#include <vector>

#include "diagonal_lstm.h"

namespace genkern::diagonal_lstm {
namespace {

constexpr int ROWS = 6;  // cells times one vector of outputs: what stays in registers

template <typename T>
struct Simd;
template <>
struct Simd<float> {
  typedef float type __attribute__((vector_size(64)));
};
template <>
struct Simd<double> {
  typedef double type __attribute__((vector_size(64)));
};
template <typename T>
using Vector = typename Simd<T>::type;
template <typename T>
constexpr int64_t LANES = 64 / sizeof(T);
template <typename T>
int64_t padded(int64_t n) {
  return (n + LANES<T> - 1) / LANES<T> * LANES<T>;
}

// Pictures of a group, each with a border of zeros on all sides, so that no tap asks where it is.
struct Border {
  int64_t margin, pitch, area;

  explicit Border(const Lattice& lattice)
      : margin(lattice.diagonal ? 1 : lattice.taps / 2),
        pitch(lattice.width + 2 * margin),
        area((lattice.height + 2) * pitch) {}
  GENKERN_INLINE int64_t at(int64_t row, int64_t column) const { return (row + 1) * pitch + column + margin; }
  GENKERN_INLINE int64_t shift(int64_t rows, int64_t columns) const { return rows * pitch + columns; }
};

template <typename T>
struct Maps {
  Lattice lattice;
  Border border;
  int64_t hidden, gates;  // elements of a cell, up to whole vectors
  int64_t samples;
  std::vector<int64_t> shifts;  // of the taps, in cells
  int64_t carry;
  std::vector<int64_t> cells;  // of the wave under way
  Vector<T>* memory;
  T *g, *h, *c, *d;  // gates, then their gradients; h; c, then its gradient; gradient of h

  Maps(const Lattice& lattice, bool backward)
      : lattice(lattice),
        border(lattice),
        hidden(padded<T>(lattice.hidden)),
        gates(padded<T>(lattice.gates())),
        samples(samples_in_group(lattice)),
        carry(border.shift(lattice.carry_row(), lattice.carry_column())) {
    for (int tap = 0; tap < lattice.taps; tap++)
      shifts.push_back(border.shift(lattice.tap_row(tap), lattice.tap_column(tap)));
    cells.reserve(size_t(samples * std::max(lattice.height, lattice.width)));
    const int64_t of_h = samples * border.area * hidden, of_gates = samples * border.area * gates;
    const int64_t total = of_gates + (backward ? 3 : 2) * of_h;
    memory = new Vector<T>[size_t(total / LANES<T>)]();
    g = reinterpret_cast<T*>(memory);
    h = g + of_gates, c = h + of_h, d = backward ? c + of_h : nullptr;
  }
  ~Maps() { delete[] memory; }
  Maps(const Maps&) = delete;
  Maps& operator=(const Maps&) = delete;
};

// out(p) += sum over taps of in(p + shift) B, for one vector of the outputs of some cells.
template <typename T>
struct Product {
  const T* in;
  int64_t in_stride, depth;
  const int64_t* shifts;
  int taps;
  bool backwards;  // shifts the other way round
  const T* packed;
  T* out;
  int64_t out_stride;
};

template <int rows, typename T>
GENKERN_INLINE void multiply(const Product<T>& p, const int64_t* cells, int64_t tile) {
  Vector<T> sums[rows];
  for (int r = 0; r < rows; r++)
    sums[r] = *reinterpret_cast<const Vector<T>*>(p.out + cells[r] * p.out_stride + tile * LANES<T>);
  const Vector<T>* weight = reinterpret_cast<const Vector<T>*>(p.packed) + tile * p.taps * p.depth;
  for (int tap = 0; tap < p.taps; tap++) {
    const int64_t shift = p.backwards ? -p.shifts[tap] : p.shifts[tap];
    const T* from[rows];
    for (int r = 0; r < rows; r++) from[r] = p.in + (cells[r] + shift) * p.in_stride;
    for (int64_t k = 0; k < p.depth; k++) {
      const Vector<T> w = *weight++;
      for (int r = 0; r < rows; r++) sums[r] += from[r][k] * w;
    }
  }
  for (int r = 0; r < rows; r++)
    *reinterpret_cast<Vector<T>*>(p.out + cells[r] * p.out_stride + tile * LANES<T>) = sums[r];
}

template <typename T>
GENKERN_INLINE void multiply_all(const Product<T>& p, const std::vector<int64_t>& cells) {
  const int64_t count = int64_t(cells.size());
  for (int64_t tile = 0; tile < p.out_stride / LANES<T>; tile++) {
    int64_t r = 0;
    for (; r + ROWS <= count; r += ROWS) multiply<ROWS>(p, &cells[size_t(r)], tile);
    switch (count - r) {
      case 5: multiply<5>(p, &cells[size_t(r)], tile); break;
      case 4: multiply<4>(p, &cells[size_t(r)], tile); break;
      case 3: multiply<3>(p, &cells[size_t(r)], tile); break;
      case 2: multiply<2>(p, &cells[size_t(r)], tile); break;
      case 1: multiply<1>(p, &cells[size_t(r)], tile); break;
      default: break;
    }
  }
}

template <typename T>
GENKERN_INLINE void step_cell(T* __restrict gates, const T* __restrict c_before, T* __restrict c, T* __restrict h,
                              int64_t hidden) {
#pragma omp simd
  for (int64_t k = 0; k < hidden; k++)
    step(gates + k, gates + hidden + k, gates + 2 * hidden + k, gates + 3 * hidden + k, c_before[k], c + k, h + k);
}

// The gradient that the next cell carried here replaces its c; that of c_before goes in place of this c.
template <typename T>
GENKERN_INLINE void step_cell_back(T* __restrict gates, const T* __restrict c_before, T* __restrict c,
                                   const T* __restrict carried, const T* __restrict grad_h, int64_t hidden) {
#pragma omp simd
  for (int64_t k = 0; k < hidden; k++) {
    T grad = carried[k];
    step_back(gates + k, gates + hidden + k, gates + 2 * hidden + k, gates + 3 * hidden + k, c_before[k], c[k],
              grad_h[k], &grad);
    c[k] = grad;
  }
}

template <typename T>
GENKERN_INLINE void cells_of_wave(Maps<T>& maps, int64_t wave, int64_t samples) {
  const Lattice& lattice = maps.lattice;
  maps.cells.clear();
  for (int64_t s = 0; s < samples; s++)
    for (int64_t n = lattice.begin(wave); n < lattice.end(wave); n++)
      maps.cells.push_back(s * maps.border.area + maps.border.at(lattice.row(wave, n), lattice.column(wave, n)));
}

// Between a dense [samples, H, W, size] and the maps, whose cells lie `stride` apart.
template <bool into_map, typename T, typename Dense>
GENKERN_INLINE void copy_picture(const Maps<T>& maps, T* map, int64_t stride, Dense* dense, int64_t size,
                                 int64_t samples) {
  const Lattice& lattice = maps.lattice;
  for (int64_t s = 0; s < samples; s++)
    for (int64_t i = 0; i < lattice.height; i++)
      for (int64_t j = 0; j < lattice.width; j++, dense += size) {
        T* const cell = map + (s * maps.border.area + maps.border.at(i, j)) * stride;
        if constexpr (into_map)
          std::copy_n(dense, size, cell);
        else
          std::copy_n(cell, size, dense);
      }
}

template <typename T>
GENKERN_INLINE void run_forward(Maps<T>& maps, const T* x, const T* packed, int64_t samples) {
  const int64_t hidden = maps.lattice.hidden;
  copy_picture<true>(maps, maps.g, maps.gates, x, maps.lattice.gates(), samples);
  const Product<T> product{maps.h, maps.hidden, hidden, maps.shifts.data(), maps.lattice.taps,
                           false,  packed,      maps.g, maps.gates};
  for (int64_t wave = 0; wave < maps.lattice.waves(); wave++) {
    cells_of_wave(maps, wave, samples);
    multiply_all(product, maps.cells);
    for (const int64_t cell : maps.cells)
      step_cell(maps.g + cell * maps.gates, maps.c + (cell + maps.carry) * maps.hidden, maps.c + cell * maps.hidden,
                maps.h + cell * maps.hidden, hidden);
  }
}

template <typename T>
GENKERN_INLINE void run_backward(Maps<T>& maps, const T* grad_h, const T* packed_transposed, int64_t samples) {
  const int64_t hidden = maps.lattice.hidden;
  copy_picture<true>(maps, maps.d, maps.hidden, grad_h, hidden, samples);
  const Product<T> product{
      maps.g, maps.gates, maps.lattice.gates(), maps.shifts.data(), maps.lattice.taps, true, packed_transposed,
      maps.d, maps.hidden};
  for (int64_t wave = maps.lattice.waves() - 1; wave >= 0; wave--) {
    cells_of_wave(maps, wave, samples);
    multiply_all(product, maps.cells);
    for (const int64_t cell : maps.cells)
      step_cell_back(maps.g + cell * maps.gates, maps.c + (cell + maps.carry) * maps.hidden,
                     maps.c + cell * maps.hidden, maps.c + (cell - maps.carry) * maps.hidden,
                     maps.d + cell * maps.hidden, hidden);
  }
}

// sums[tap, k, gate] += sum over cells of h_k(p + shift) g_gate(p): `rows` values of k, one vector of gates.
template <int rows, typename T>
GENKERN_INLINE void outer(const Maps<T>& maps, int64_t samples, int tap, int64_t k, int64_t tile, T* sums) {
  const Lattice& lattice = maps.lattice;
  T* const target = sums + (tap * lattice.hidden + k) * maps.gates + tile * LANES<T>;
  Vector<T> total[rows];
  for (int r = 0; r < rows; r++) total[r] = *reinterpret_cast<Vector<T>*>(target + r * maps.gates);
  for (int64_t s = 0; s < samples; s++)
    for (int64_t i = 0; i < lattice.height; i++) {
      const int64_t cell = s * maps.border.area + maps.border.at(i, 0);
      const T* h = maps.h + (cell + maps.shifts[size_t(tap)]) * maps.hidden + k;
      const T* g = maps.g + cell * maps.gates + tile * LANES<T>;
      for (int64_t j = 0; j < lattice.width; j++, h += maps.hidden, g += maps.gates) {
        const Vector<T> grad = *reinterpret_cast<const Vector<T>*>(g);
        for (int r = 0; r < rows; r++) total[r] += h[r] * grad;
      }
    }
  for (int r = 0; r < rows; r++) *reinterpret_cast<Vector<T>*>(target + r * maps.gates) = total[r];
}

template <typename T>
GENKERN_INLINE void accumulate_weight(const Maps<T>& maps, int64_t samples, T* sums) {
  const int64_t hidden = maps.lattice.hidden;
  for (int64_t tile = 0; tile < maps.gates / LANES<T>; tile++)
    for (int tap = 0; tap < maps.lattice.taps; tap++) {
      int64_t k = 0;
      for (; k + 8 <= hidden; k += 8) outer<8>(maps, samples, tap, k, tile, sums);
      for (; k < hidden; k++) outer<1>(maps, samples, tap, k, tile, sums);
    }
}

template <typename T>
GENKERN_INLINE void forward_groups(const Forward<T>& call, const T* packed, int64_t first, int64_t last) {
  Maps<T> maps(call.lattice, false);
  for (int64_t group = first; group < last; group++) {
    const int64_t sample = group * maps.samples, count = std::min(maps.samples, call.batch - sample);
    const int64_t cell = sample * call.lattice.cells();
    run_forward(maps, call.x + cell * call.lattice.gates(), packed, count);
    copy_picture<false>(maps, maps.h, maps.hidden, call.h + cell * call.lattice.hidden, call.lattice.hidden, count);
  }
}

template <typename T>
GENKERN_INLINE void backward_slots(const Backward<T>& call, const T* packed, const T* packed_transposed, T* sums,
                                   int64_t slots, int64_t first, int64_t last) {
  Maps<T> maps(call.lattice, true);
  const int64_t groups = (call.batch + maps.samples - 1) / maps.samples;
  const int64_t size = call.lattice.taps * call.lattice.hidden * maps.gates;
  for (int64_t slot = first; slot < last; slot++) {
    T* const sum = sums + slot * size;
    std::fill_n(sum, size, T(0));
    for (int64_t group = slot * groups / slots; group < (slot + 1) * groups / slots; group++) {
      const int64_t sample = group * maps.samples, count = std::min(maps.samples, call.batch - sample);
      const int64_t cell = sample * call.lattice.cells(), gates = call.lattice.gates();
      run_forward(maps, call.x + cell * gates, packed, count);
      run_backward(maps, call.grad_h + cell * call.lattice.hidden, packed_transposed, count);
      copy_picture<false>(maps, maps.g, maps.gates, call.grad_x + cell * gates, gates, count);
      accumulate_weight(maps, count, sum);
    }
  }
}

GENKERN_CLONES void forward_float(const Forward<float>& call, const float* packed, int64_t first, int64_t last) {
  forward_groups(call, packed, first, last);
}
void forward_double(const Forward<double>& call, const double* packed, int64_t first, int64_t last) {
  forward_groups(call, packed, first, last);
}
GENKERN_CLONES void backward_float(const Backward<float>& call, const float* packed, const float* transposed,
                                   float* sums, int64_t slots, int64_t first, int64_t last) {
  backward_slots(call, packed, transposed, sums, slots, first, last);
}
void backward_double(const Backward<double>& call, const double* packed, const double* transposed, double* sums,
                     int64_t slots, int64_t first, int64_t last) {
  backward_slots(call, packed, transposed, sums, slots, first, last);
}

}  // namespace

// Enough cells in a wave to fill a few blocks of rows, also in small pictures.
int64_t samples_in_group(const Lattice& lattice) {
  const int64_t width = lattice.diagonal ? std::min(lattice.height, lattice.width) : lattice.width;
  return std::clamp<int64_t>(4 * ROWS / std::max<int64_t>(width, 1), 1, 8);
}

template <>
void forward(const Forward<float>& call, const float* packed, int64_t first, int64_t last) {
  forward_float(call, packed, first, last);
}
template <>
void forward(const Forward<double>& call, const double* packed, int64_t first, int64_t last) {
  forward_double(call, packed, first, last);
}
template <>
void backward(const Backward<float>& call, const float* packed, const float* transposed, float* sums, int64_t slots,
              int64_t first, int64_t last) {
  backward_float(call, packed, transposed, sums, slots, first, last);
}
template <>
void backward(const Backward<double>& call, const double* packed, const double* transposed, double* sums, int64_t slots,
              int64_t first, int64_t last) {
  backward_double(call, packed, transposed, sums, slots, first, last);
}

// packed[tile, tap, in, lane]: forward from h to gates, transposed from gates to h.
template <typename T>
int64_t packed_size(const Lattice& lattice, bool transposed) {
  return lattice.taps *
         (transposed ? lattice.gates() * padded<T>(lattice.hidden) : lattice.hidden * padded<T>(lattice.gates()));
}

template <typename T>
void pack(const Lattice& lattice, const T* weight, bool transposed, T* packed) {
  const int64_t inputs = transposed ? lattice.gates() : lattice.hidden;
  const int64_t outputs = transposed ? lattice.hidden : lattice.gates();
  for (int64_t tile = 0; tile < padded<T>(outputs) / LANES<T>; tile++)
    for (int tap = 0; tap < lattice.taps; tap++)
      for (int64_t in = 0; in < inputs; in++)
        for (int64_t out = tile * LANES<T>; out < (tile + 1) * LANES<T>; out++) {
          const int64_t gate = transposed ? in : out, k = transposed ? out : in;
          *packed++ = out < outputs ? weight[(gate * lattice.hidden + k) * lattice.taps + tap] : T(0);
        }
}

template <typename T>
int64_t sums_size(const Lattice& lattice) {
  return lattice.taps * lattice.hidden * padded<T>(lattice.gates());
}

template <typename T>
void add_slots(const Lattice& lattice, const T* sums, int64_t slots, T* grad_weight) {
  const int64_t stride = padded<T>(lattice.gates()), size = sums_size<T>(lattice);
  for (int64_t gate = 0; gate < lattice.gates(); gate++)
    for (int64_t k = 0; k < lattice.hidden; k++)
      for (int tap = 0; tap < lattice.taps; tap++) {
        double total = 0;
        for (int64_t slot = 0; slot < slots; slot++)
          total += sums[slot * size + (tap * lattice.hidden + k) * stride + gate];
        *grad_weight++ = T(total);
      }
}

template int64_t packed_size<float>(const Lattice&, bool);
template int64_t packed_size<double>(const Lattice&, bool);
template void pack<float>(const Lattice&, const float*, bool, float*);
template void pack<double>(const Lattice&, const double*, bool, double*);
template int64_t sums_size<float>(const Lattice&);
template int64_t sums_size<double>(const Lattice&);
template void add_slots<float>(const Lattice&, const float*, int64_t, float*);
template void add_slots<double>(const Lattice&, const double*, int64_t, double*);

}  // namespace genkern::diagonal_lstm
