#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../random/random.h"
#include "vq_assign.h"

namespace genkern::vq_assign {
namespace {
constexpr int64_t STRETCH = 1 << 19;  // bytes of the codebook that stay in the cache while a unit is compared with them
}
}  // namespace genkern::vq_assign

#define GENKERN_TILE "../ops/vq_assign/tile.h"
#include "../../common/levels.h"

namespace genkern::vq_assign {
namespace {

int64_t bytes() { return GENKERN_AT_LEVEL(bytes()); }

template <bool with_second, typename A>
void product(const A* x, int64_t tiles, int64_t features, const A* codes, const A* start, int64_t blocks, A* state) {
  GENKERN_AT_LEVEL(product<with_second>(x, tiles, features, codes, start, blocks, state));
}

// |x - c|^2 in float64, for each of the codes [K, D].
template <typename A>
GENKERN_INLINE void distances_loop(const double* __restrict x, const A* __restrict codes, int64_t count,
                                   int64_t features, double* __restrict out) {
  for (int64_t k = 0; k < count; k++) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t d = 0; d < features; d++) {
      const double difference = x[d] - double(codes[k * features + d]);
      total += difference * difference;
    }
    out[k] = total;
  }
}

// sum += x, rounded to multiples of a power of two by the addition of `magic` (0: not).
GENKERN_INLINE void add_loop(const double* __restrict x, int64_t n, double magic, double* __restrict sum) {
#pragma omp simd
  for (int64_t d = 0; d < n; d++) sum[d] += (x[d] + magic) - magic;
}

GENKERN_CLONES void distances(const double* x, const float* codes, int64_t count, int64_t features, double* out) {
  distances_loop(x, codes, count, features, out);
}
GENKERN_CLONES void distances(const double* x, const double* codes, int64_t count, int64_t features, double* out) {
  distances_loop(x, codes, count, features, out);
}
GENKERN_CLONES void add(const double* x, int64_t n, double magic, double* sum) { add_loop(x, n, magic, sum); }

// `count` rows from `row` on, widened, [count, D].
template <typename T>
void read_rows(const Shape& s, const T* x, int64_t group, int64_t row, int64_t count, double* out) {
  if (s.feature_stride == 1 || s.inner_stride != 1) {
    for (int64_t r = 0; r < count; r++) {
      const T* from = x + s.offset(group, row + r);
      for (int64_t d = 0; d < s.features; d++) out[r * s.features + d] = load(from[d * s.feature_stride]);
    }
    return;
  }
  for (int64_t r = 0; r < count;) {  // channels first: sites that follow one another
    const int64_t run = std::min(count - r, s.inner - (row + r) % s.inner);
    const T* from = x + s.offset(group, row + r);
    for (int64_t d = 0; d < s.features; d++)
      for (int64_t j = 0; j < run; j++) out[(r + j) * s.features + d] = load(from[d * s.feature_stride + j]);
    r += run;
  }
}

// Rows minus the mean of the codes, in tiles [D, R], and the squared norm of each; zeros where there are no rows.
template <typename T, typename A>
void pack_rows(const Shape& s, const T* x, int64_t group, int64_t row, int64_t count, const A* mean, int64_t R, A* out,
               A* norms) {
  const int64_t D = s.features, padded = (count + R - 1) / R * R;
  for (int64_t r = 0; r < padded; r++) {
    A* to = out + r / R * R * D + r % R;
    A norm = 0;
    if (r < count) {
      const T* from = x + s.offset(group, row + r);
      for (int64_t d = 0; d < D; d++) {
        const A value = A(load(from[d * s.feature_stride])) - mean[d];
        to[d * R] = value;
        norm += value * value;
      }
    } else {
      for (int64_t d = 0; d < D; d++) to[d * R] = 0;
    }
    norms[r] = norm;
  }
}

struct Best {
  double value, next;
  int64_t at, next_at;
};

// The best and the second best of the lanes of a row, of equals the lowest code.
template <typename A>
GENKERN_INLINE Best reduce_lanes(const A* state, int64_t lanes, bool with_second) {
  constexpr A none = -std::numeric_limits<A>::infinity();
  const A *value = state, *at = state + lanes, *next = state + 2 * lanes, *next_at = state + 3 * lanes;
  A top = none, after = none;
  for (int64_t l = 0; l < lanes; l++) {
    after = std::max(after, std::max(std::min(top, value[l]), next[l]));
    top = std::max(top, value[l]);
  }
  Best best{double(top), double(after), std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::max()};
  for (int64_t l = 0; l < lanes; l++)
    if (value[l] == top) best.at = std::min(best.at, int64_t(at[l]) * lanes + l);
  if (with_second) {
    for (int64_t l = 0; l < lanes; l++) {
      const int64_t code = int64_t(at[l]) * lanes + l;
      if (value[l] == after && code != best.at) best.next_at = std::min(best.next_at, code);
      if (next[l] == after) best.next_at = std::min(best.next_at, int64_t(next_at[l]) * lanes + l);
    }
  }
  return best;
}

Best smallest(const double* distance, int64_t count) {
  Best best{INFINITY, INFINITY, 0, count > 1 ? 1 : 0};
  for (int64_t k = 0; k < count; k++) {
    if (distance[k] < best.value)
      best = {distance[k], best.value, k, k == 0 ? best.next_at : best.at};
    else if (distance[k] < best.next)
      best.next = distance[k], best.next_at = k;
  }
  return best;
}

}  // namespace

template <typename A>
int64_t width() {
  return 2 * bytes() / int64_t(sizeof(A));
}
template int64_t width<float>();
template int64_t width<double>();

int64_t tile_rows() { return bytes() == 64 ? 12 : 6; }

template <typename A>
void pack(const A* codebook, int64_t codes, int64_t features, const Packed<A>& packed) {
  const int64_t W = width<A>(), blocks = blocks_of(codes, W);
  std::vector<double> mean(features);
  for (int64_t k = 0; k < codes; k++)
    for (int64_t d = 0; d < features; d++) mean[d] += double(codebook[k * features + d]);
  for (int64_t d = 0; d < features; d++) packed.mean[d] = A(mean[d] / double(codes));
  double largest = 0;
  std::vector<double> squares(W);
  for (int64_t b = 0; b < blocks; b++) {
    std::fill(squares.begin(), squares.end(), 0.0);
    for (int64_t d = 0; d < features; d++) {
      A* to = packed.codes + (b * features + d) * W;
      for (int64_t j = 0; j < W; j++) {
        const int64_t k = b * W + j;
        to[j] = k < codes ? codebook[k * features + d] - packed.mean[d] : A(0);
        squares[j] += double(to[j]) * double(to[j]);
      }
    }
    for (int64_t j = 0; j < W; j++) {
      packed.start[b * W + j] = b * W + j < codes ? A(-0.5 * squares[j]) : -std::numeric_limits<A>::infinity();
      largest = std::max(largest, squares[j]);
    }
  }
  *packed.largest = std::sqrt(largest);
}
template void pack<float>(const float*, int64_t, int64_t, const Packed<float>&);
template void pack<double>(const double*, int64_t, int64_t, const Packed<double>&);

template <typename T>
void assign(const Call& call, int64_t group, const Packed<arithmetic_t<T>>& packed, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const Shape& s = call.shape;
  const int64_t D = s.features, K = s.codes, R = tile_rows(), L = width<A>() / 2, unit = unit_of(D);
  const int64_t blocks = blocks_of(K, 2 * L);
  const T* x = static_cast<const T*>(call.x);
  const A* codebook = static_cast<const A*>(call.codebook) + group * K * D;
  std::vector<A> rows(unit * D), norms(unit), state(unit * 4 * L);
  std::vector<double> row(D), distance(sizeof(A) == 4 ? K : 0);
  // twice the rounding error of a score, as a multiple of |x - m| |c - m| + |c - m|^2 / 2
  const double rounding = (std::min<double>(D, 6 * std::sqrt(double(D))) + 4) * 0x1p-23, radius = *packed.largest;
  for (int64_t first = begin * unit; first < std::min(end * unit, s.rows()); first += unit) {
    const int64_t count = std::min(unit, s.rows() - first), tiles = (count + R - 1) / R;
    pack_rows<T, A>(s, x, group, first, count, packed.mean, R, rows.data(), norms.data());
    for (int64_t r = 0; r < tiles * R; r++) {
      A* lanes = state.data() + r * 4 * L;
      std::fill(lanes, lanes + L, -std::numeric_limits<A>::infinity());
      std::fill(lanes + L, lanes + 2 * L, A(0));
      std::fill(lanes + 2 * L, lanes + 3 * L, -std::numeric_limits<A>::infinity());
      std::fill(lanes + 3 * L, lanes + 4 * L, A(0));
    }
    if (call.second)
      product<true, A>(rows.data(), tiles, D, packed.codes, packed.start, blocks, state.data());
    else
      product<false, A>(rows.data(), tiles, D, packed.codes, packed.start, blocks, state.data());
    for (int64_t r = 0; r < count; r++) {
      const int64_t n = first + r, out = group * s.rows() + n;
      const bool kept = call.mask == nullptr || call.mask[n] != 0;
      Best best{0, 0, -1, -1};
      if (kept) {
        best = reduce_lanes(state.data() + r * 4 * L, L, call.second != nullptr);
        const double error = rounding * radius * (std::sqrt(double(norms[r])) + 0.5 * radius);
        const bool is_odd = best.at >= K || (call.second && best.next_at >= K);  // NaN, or fewer codes than asked for
        const bool is_close = sizeof(A) == 4 && !(best.value - best.next > error);
        if (call.distance || is_odd || is_close) read_rows(s, x, group, n, 1, row.data());
        if (is_odd || is_close) {
          distance.resize(K);
          distances(row.data(), codebook, K, D, distance.data());
          best = smallest(distance.data(), K);
        }
      }
      call.index[out] = best.at;
      if (call.second) call.second[out] = best.next_at;
      if (call.distance) {
        double found[2] = {0, 0};
        if (kept) distances(row.data(), codebook + best.at * D, 1, D, found);
        if (kept && call.second) distances(row.data(), codebook + best.next_at * D, 1, D, found + 1);
        static_cast<A*>(call.distance)[out] = A(found[0]);
        if (call.second) static_cast<A*>(call.second_distance)[out] = A(found[1]);
      }
    }
  }
}

template <typename T>
double largest(const Call& call, int64_t begin, int64_t end) {
  const Shape& s = call.shape;
  std::vector<double> rows(16 * s.features);
  double top = 0;
  for (int64_t n = begin; n < end; n += 16) {
    const int64_t group = n / s.rows(), row = n % s.rows(), count = std::min({int64_t(16), end - n, s.rows() - row});
    read_rows(s, static_cast<const T*>(call.x), group, row, count, rows.data());
    for (int64_t r = 0; r < count; r++) {
      if (call.mask && !call.mask[row + r]) continue;
      for (int64_t d = 0; d < s.features; d++) top = std::max(top, std::fabs(rows[r * s.features + d]));
    }
    n -= 16 - count;
  }
  return top;
}

template <typename T>
void statistics(const Call& call, int64_t group, double bound, int64_t begin, int64_t end, int64_t* counts,
                double* sums) {
  constexpr int64_t STEP = 16;
  const Shape& s = call.shape;
  const int64_t D = s.features;
  int exponent = 0;
  std::frexp(bound, &exponent);
  const double magic = std::is_same_v<T, double> ? 0.0 : std::ldexp(1.5, exponent + 24);
  std::fill(counts + begin, counts + end, 0);
  std::fill(sums + begin * D, sums + end * D, 0.0);
  std::vector<double> rows(STEP * D);
  const int64_t* index = call.index + group * s.rows();
  const bool runs = s.feature_stride != 1 && s.inner_stride == 1;
  for (int64_t n = 0; n < s.rows(); n += STEP) {
    const int64_t count = std::min(STEP, s.rows() - n);
    if (runs) read_rows(s, static_cast<const T*>(call.x), group, n, count, rows.data());
    for (int64_t r = 0; r < count; r++) {
      const int64_t k = index[n + r];
      if (k < begin || k >= end) continue;
      if (!runs) read_rows(s, static_cast<const T*>(call.x), group, n + r, 1, rows.data() + r * D);
      counts[k]++;
      add(rows.data() + r * D, D, magic, sums + k * D);
    }
  }
}

#define GENKERN_INSTANTIATE(T)                                                                          \
  template void assign<T>(const Call&, int64_t, const Packed<arithmetic_t<T>>&, int64_t, int64_t);      \
  template double largest<T>(const Call&, int64_t, int64_t);                                            \
  template void statistics<T>(const Call&, int64_t, double, int64_t, int64_t, int64_t*, double*);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::vq_assign
