// Blocks of a row: coordinates and choices in vectors of doubles, bytes looked up 64 at a time, gradients in vectors of
// the arithmetic type. Compiled without contraction to fma, so that every instruction set gives the same bits.

#include <algorithm>
#include <cmath>

#include "../../common/macros.h"
#include "simplex_noise.h"

namespace genkern::simplex_noise {
namespace {

constexpr double STRETCH2 = -0.211324865405187, SQUISH2 = 0.366025403784439;
constexpr double STRETCH3 = -1.0 / 6, SQUISH3 = 1.0 / 3;
constexpr int OFFSETS2[8][2] = {{0, 0}, {1, 0}, {0, 1}, {1, 1}, {1, -1}, {-1, 1}, {2, 0}, {0, 2}};

// A block of pixels of one octave: cells modulo 256, and positions within them.
template <typename A>
struct Cells {
  uint8_t x[BLOCK], y[BLOCK], z[BLOCK];
  A dx[BLOCK], dy[BLOCK], dz[BLOCK];
};

// The points of a block in three dimensions, by slot: offsets from the cell, and whether they count.
struct Points {
  int8_t x[8][BLOCK], y[8][BLOCK], z[8][BLOCK], on[8][BLOCK];
};

template <typename A>
GENKERN_INLINE void cells2_loop(double first, double y, double f, Cells<A>& cells) {
#pragma omp simd
  for (int i = 0; i < BLOCK; i++) {
    const double px = (first + i) / f, py = y / f, stretch = (px + py) * STRETCH2;
    const double xb = std::floor(px + stretch), yb = std::floor(py + stretch), squish = (xb + yb) * SQUISH2;
    cells.x[i] = uint8_t(int32_t(xb)), cells.y[i] = uint8_t(int32_t(yb));
    cells.dx[i] = A(px - (xb + squish)), cells.dy[i] = A(py - (yb + squish));
  }
}

// The first set bit of three, as one of the axes.
struct Axis {
  int x, y, z;
};
GENKERN_INLINE Axis first_of(int bits) {
  const int x = bits & 1, y = (1 - x) & (bits >> 1);
  return {x, y, 1 - x - y};
}

template <typename A>
GENKERN_INLINE void cells3_loop(double first, double y, double z, double f, Cells<A>& cells, Points& p) {
#pragma omp simd
  for (int i = 0; i < BLOCK; i++) {
    const double px = (first + i) / f, py = y / f, pz = z / f, stretch = (px + py + pz) * STRETCH3;
    const double xs = px + stretch, ys = py + stretch, zs = pz + stretch;
    const double xb = std::floor(xs), yb = std::floor(ys), zb = std::floor(zs);
    const double squish = (xb + yb + zb) * SQUISH3;
    cells.x[i] = uint8_t(int32_t(xb)), cells.y[i] = uint8_t(int32_t(yb)), cells.z[i] = uint8_t(int32_t(zb));
    cells.dx[i] = A(px - (xb + squish)), cells.dy[i] = A(py - (yb + squish)), cells.dz[i] = A(pz - (zb + squish));

    const double u = xs - xb, v = ys - yb, w = zs - zb, sum = u + v + w;
    const int low = sum <= 1 ? 1 : 0, high = sum >= 2 ? 1 - low : 0, middle = 1 - low - high;

    // tetrahedron at (0, 0, 0): the two closest of the axes
    const int b_is_z = (u >= v) & (w > v) ? 1 : 0, a_is_z = (u < v) & (w > u) ? 1 : 0;
    const double low_a = a_is_z ? w : u, low_b = b_is_z ? w : v, low_w = 1 - sum;
    const int low_a_bits = a_is_z ? 4 : 1, low_b_bits = b_is_z ? 4 : 2;
    const int low_near = (low_w > low_a) | (low_w > low_b) ? 1 : 0;
    const int n = low_b > low_a ? low_b_bits : low_a_bits, nx = n & 1, ny = n >> 1 & 1, nz = n >> 2;
    const int l = low_a_bits | low_b_bits, lx = l & 1, ly = l >> 1 & 1, lz = l >> 2;

    // tetrahedron at (1, 1, 1): the two closest of its edges
    const int b_no_z = (u <= v) & (w < v) ? 1 : 0, a_no_z = (u > v) & (w < u) ? 1 : 0;
    const double high_a = a_no_z ? w : u, high_b = b_no_z ? w : v, high_w = 3 - sum;
    const int high_a_bits = a_no_z ? 3 : 6, high_b_bits = b_no_z ? 3 : 5;
    const int high_near = (high_w < high_a) | (high_w < high_b) ? 1 : 0;
    const int m = high_b < high_a ? high_b_bits : high_a_bits, mx = m & 1, my = m >> 1 & 1, mz = m >> 2;
    const int h = high_a_bits & high_b_bits, hx = h & 1, hy = h >> 1 & 1, hz = h >> 2;

    // octahedron between: the closest two of six points, and on which side they lie
    const double p1 = u + v, p2 = u + w, p3 = v + w;
    const int c_far = p3 > 1 ? 1 : 0;
    int a_far = p1 > 1 ? 1 : 0, b_far = p2 > 1 ? 1 : 0;
    const double a_score = std::fabs(p1 - 1), b_score = std::fabs(p2 - 1), score = std::fabs(p3 - 1);
    int a = a_far ? 3 : 4, b = b_far ? 5 : 2;
    const int c = c_far ? 6 : 1;
    const int replace_a = (a_score <= b_score) & (a_score < score) ? 1 : 0;
    const int replace_b = (a_score > b_score) & (b_score < score) ? 1 : 0;
    a = replace_a ? c : a, a_far = replace_a ? c_far : a_far;
    b = replace_b ? c : b, b_far = replace_b ? c_far : b_far;
    const int same = 1 - (a_far ^ b_far), far = a_far ? a : b, near = a_far ? b : a;
    const int shared = a_far ? a & b : ~(a | b) & 7;
    const Axis missing = first_of(~far & 7), other = first_of(same ? shared : near);
    const int minus = same & (1 - a_far);  // (1, 1, 1) less 2 on the axis, else 2 on the axis

    const int of_low = low & low_near, of_edge = low - of_low, of_high = high & high_near, of_face = high - of_high;
    const int both = middle & same, apart = middle - both, up = both * a_far, twist = 2 - 4 * minus;
    const int kept = middle * minus;
    p.x[6][i] = int8_t(up + apart * (1 - 2 * missing.x) + of_low * (nx - ny - nz) + of_edge * lx + of_high * 2 * mx +
                       of_face * hx);
    p.y[6][i] = int8_t(up + apart * (1 - 2 * missing.y) + of_low * (ny - nx) + of_edge * ly + of_high * my * (2 - mx) +
                       of_face * hy);
    p.z[6][i] = int8_t(up + apart * (1 - 2 * missing.z) + of_low * nz + of_edge * lz + of_high * mz + of_face * hz);
    p.x[7][i] = int8_t(kept + middle * twist * other.x + of_low * nx + of_edge * (2 * lx - 1) + of_high * mx +
                       of_face * 2 * hx);
    p.y[7][i] = int8_t(kept + middle * twist * other.y + of_low * (ny - nz) + of_edge * (2 * ly - 1) +
                       of_high * my * (1 + mx) + of_face * 2 * hy);
    p.z[7][i] = int8_t(kept + middle * twist * other.z + of_low * (nz - nx - ny) + of_edge * (2 * lz - 1) +
                       of_high * 2 * mz + of_face * 2 * hz);

    // slots 0 to 2: the axes, or at (1, 1, 1) the edges; 3: the corner, or (1, 1, 0); 4 and 5: the other two edges
    p.x[0][i] = 1, p.y[0][i] = int8_t(high), p.z[0][i] = 0;
    p.x[1][i] = int8_t(high), p.y[1][i] = int8_t(1 - high), p.z[1][i] = int8_t(high);
    p.x[2][i] = 0, p.y[2][i] = int8_t(high), p.z[2][i] = 1;
    p.x[3][i] = int8_t(1 - low), p.y[3][i] = int8_t(1 - low), p.z[3][i] = int8_t(high);
    p.x[4][i] = 1, p.y[4][i] = 0, p.z[4][i] = 1;
    p.x[5][i] = 0, p.y[5][i] = 1, p.z[5][i] = 1;
    for (int slot = 0; slot < 8; slot++) p.on[slot][i] = 1;
    p.on[4][i] = int8_t(middle), p.on[5][i] = int8_t(middle);
  }
}

GENKERN_INLINE void add_loop(const uint8_t* a, const uint8_t* b, const int8_t* offset, uint8_t* out) {
#pragma omp simd
  for (int i = 0; i < BLOCK; i++) out[i] = uint8_t(a[i] + b[i] + uint8_t(offset[i]));
}
GENKERN_INLINE void shift_loop(const uint8_t* a, int offset, uint8_t* out) {
#pragma omp simd
  for (int i = 0; i < BLOCK; i++) out[i] = uint8_t(a[i] + offset);
}

template <typename A>
GENKERN_INLINE void gradient2_loop(const Cells<A>& cells, int ox, int oy, const uint8_t* gx, const uint8_t* gy,
                                   A* value) {
  const A squish = A((ox + oy) * SQUISH2), x = A(ox), y = A(oy);
#pragma omp simd
  for (int i = 0; i < BLOCK; i++) {
    const A dx = cells.dx[i] - x - squish, dy = cells.dy[i] - y - squish;
    A attenuation = A(2) - dx * dx - dy * dy;
    attenuation = attenuation > A(0) ? attenuation : A(0);
    attenuation *= attenuation;
    value[i] += attenuation * attenuation * (A(int8_t(gx[i])) * dx + A(int8_t(gy[i])) * dy);
  }
}

template <typename A>
GENKERN_INLINE void gradient3_loop(const Cells<A>& cells, const int8_t* ox, const int8_t* oy, const int8_t* oz,
                                   const int8_t* on, const uint8_t* gx, const uint8_t* gy, const uint8_t* gz,
                                   A* value) {
#pragma omp simd
  for (int i = 0; i < BLOCK; i++) {
    const A squish = A(ox[i] + oy[i] + oz[i]) * A(SQUISH3);
    const A dx = cells.dx[i] - A(ox[i]) - squish, dy = cells.dy[i] - A(oy[i]) - squish,
            dz = cells.dz[i] - A(oz[i]) - squish;
    A attenuation = A(2) - dx * dx - dy * dy - dz * dz;
    attenuation = (attenuation > A(0)) & (on[i] != 0) ? attenuation : A(0);
    attenuation *= attenuation;
    value[i] += attenuation * attenuation * (A(int8_t(gx[i])) * dx + A(int8_t(gy[i])) * dy + A(int8_t(gz[i])) * dz);
  }
}

template <typename A>
GENKERN_INLINE void accumulate_loop(const A* value, A scale, A* sum) {
#pragma omp simd
  for (int i = 0; i < BLOCK; i++) sum[i] += scale * value[i];
}

#define GENKERN_DEFINE(A)                                                                                          \
  GENKERN_CLONES void cells2(double first, double y, double f, Cells<A>& cells) { cells2_loop(first, y, f, cells); } \
  GENKERN_CLONES void cells3(double first, double y, double z, double f, Cells<A>& cells, Points& p) {             \
    cells3_loop(first, y, z, f, cells, p);                                                                         \
  }                                                                                                                \
  GENKERN_CLONES void gradient2(const Cells<A>& cells, int ox, int oy, const uint8_t* gx, const uint8_t* gy, A* value) { \
    gradient2_loop(cells, ox, oy, gx, gy, value);                                                                  \
  }                                                                                                                \
  GENKERN_CLONES void gradient3(const Cells<A>& cells, const Points& p, int s, const uint8_t* gx, const uint8_t* gy, \
                                const uint8_t* gz, A* value) {                                                     \
    gradient3_loop(cells, p.x[s], p.y[s], p.z[s], p.on[s], gx, gy, gz, value);                                     \
  }                                                                                                                \
  GENKERN_CLONES void accumulate(const A* value, A scale, A* sum) { accumulate_loop(value, scale, sum); }
GENKERN_DEFINE(float)
GENKERN_DEFINE(double)

GENKERN_CLONES void add(const uint8_t* a, const uint8_t* b, const int8_t* offset, uint8_t* out) {
  add_loop(a, b, offset, out);
}
GENKERN_CLONES void shift(const uint8_t* a, int offset, uint8_t* out) { shift_loop(a, offset, out); }

template <typename A>
void block2(const Tables& tables, const Cells<A>& cells, int level, A* value) {
  uint8_t rows[4][BLOCK], index[BLOCK], gx[BLOCK], gy[BLOCK];
  const int8_t none[BLOCK] = {};
  for (int o = -1; o <= 2; o++) {
    shift(cells.x, o, index);
    look_up(tables.permutation, index, rows[o + 1], level);
    add(rows[o + 1], cells.y, none, rows[o + 1]);
  }
  for (const auto& offset : OFFSETS2) {
    shift(rows[offset[0] + 1], offset[1], index);
    look_up(reinterpret_cast<const uint8_t*>(tables.gradient[0]), index, gx, level);
    look_up(reinterpret_cast<const uint8_t*>(tables.gradient[1]), index, gy, level);
    gradient2(cells, offset[0], offset[1], gx, gy, value);
  }
}

template <typename A>
void block3(const Tables& tables, const Cells<A>& cells, const Points& points, int level, A* value) {
  uint8_t index[BLOCK], hash[BLOCK], g[3][BLOCK];
  const uint8_t none[BLOCK] = {};
  for (int slot = 0; slot < 8; slot++) {
    add(cells.x, none, points.x[slot], index);
    look_up(tables.permutation, index, hash, level);
    add(hash, cells.y, points.y[slot], index);
    look_up(tables.permutation, index, hash, level);
    add(hash, cells.z, points.z[slot], index);
    for (int axis = 0; axis < 3; axis++)
      look_up(reinterpret_cast<const uint8_t*>(tables.gradient[axis]), index, g[axis], level);
    gradient3(cells, points, slot, g[0], g[1], g[2], value);
  }
}

}  // namespace

template <typename T>
void rows(const Field& field, const Tables& tables, const double* t, int64_t begin, int64_t end, T* out, int level) {
  Cells<T> cells{};
  Points points;
  for (int64_t y = begin; y < end; y++) {
    for (int64_t x = 0; x < field.width; x += BLOCK) {
      T sum[BLOCK] = {};
      double amplitude = 1, f = field.frequency;
      for (int k = 0; k < field.octaves; k++, amplitude *= field.persistence, f /= 2) {
        T value[BLOCK] = {};
        if (t) {
          cells3(double(x), double(y), *t, f, cells, points);
          block3(tables, cells, points, level, value);
        } else {
          cells2(double(x), double(y), f, cells);
          block2(tables, cells, level, value);
        }
        accumulate(value, T(amplitude / (t ? 103 : 47)), sum);
      }
      std::copy(sum, sum + std::min<int64_t>(BLOCK, field.width - x), out + y * field.width + x);
    }
  }
}

template void rows<float>(const Field&, const Tables&, const double*, int64_t, int64_t, float*, int);
template void rows<double>(const Field&, const Tables&, const double*, int64_t, int64_t, double*, int);

}  // namespace genkern::simplex_noise
