// The loops of mix.cpp, compiled once for each instruction set; see ../../common/levels.h.

namespace genkern::invertible_conv1x1 {
namespace GENKERN_LEVEL {

template <typename A>
struct Vectors {
  typedef A type __attribute__((vector_size(GENKERN_BYTES)));
  typedef A half __attribute__((vector_size(GENKERN_BYTES / 2)));
  static constexpr int lanes = GENKERN_BYTES / sizeof(A);
};
constexpr int COLUMNS = GENKERN_BYTES == 64 ? 4 : 2;  // vectors of a tile's row
constexpr int DOT_ROWS = GENKERN_BYTES == 64 ? 6 : 3, DOT_COLUMNS = GENKERN_BYTES == 64 ? 4 : 3;  // of a tile of sums

template <typename V, typename A>
GENKERN_INLINE V read(const A* from) {
  V value;
  memcpy(&value, from, sizeof value);
  return value;
}

// -- y = W x + b
// -------------------------------------------------------------------------------------------------------

// R rows and P vectors of y; x [C, stride], w [C, R].
template <int R, int P, typename A>
GENKERN_INLINE void tile(const A* __restrict x, int64_t x_stride, int64_t channels, const A* __restrict w,
                         const A* __restrict bias, A* __restrict y, int64_t y_stride) {
  typedef typename Vectors<A>::type V;
  constexpr int L = Vectors<A>::lanes;
  V sums[R][P];
  for (int r = 0; r < R; r++)
    for (int p = 0; p < P; p++) sums[r][p] = V{} + bias[r];
  for (int64_t c = 0; c < channels; c++, x += x_stride, w += R) {
    V values[P];
    for (int p = 0; p < P; p++) values[p] = read<V>(x + p * L);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const V factor = V{} + w[r];
      for (int p = 0; p < P; p++) sums[r][p] += factor * values[p];
    }
  }
  for (int r = 0; r < R; r++)
    for (int p = 0; p < P; p++) memcpy(y + r * y_stride + p * L, &sums[r][p], sizeof sums[r][p]);
}

template <int P, typename A>
GENKERN_INLINE void rows(const A* x, int64_t x_stride, int64_t channels, const A* w, const A* bias, A* y,
                         int64_t y_stride) {
  for (int64_t row = 0; row < channels;) {
    const int64_t count = block_rows(channels - row);
    const A *block = w + row * channels, *from = bias + row;
    A* to = y + row * y_stride;
    if (count == 6)
      tile<6, P>(x, x_stride, channels, block, from, to, y_stride);
    else if (count == 4)
      tile<4, P>(x, x_stride, channels, block, from, to, y_stride);
    else if (count == 2)
      tile<2, P>(x, x_stride, channels, block, from, to, y_stride);
    else
      tile<1, P>(x, x_stride, channels, block, from, to, y_stride);
    row += count;
  }
}

template <typename A>
void product(const A* x, int64_t x_stride, int64_t channels, const A* w, const A* bias, A* y, int64_t y_stride,
             int64_t vectors) {
  constexpr int L = Vectors<A>::lanes;
  for (; vectors >= COLUMNS; vectors -= COLUMNS, x += COLUMNS * L, y += COLUMNS * L)
    rows<COLUMNS>(x, x_stride, channels, w, bias, y, y_stride);
  for (; vectors > 0; vectors--, x += L, y += L) rows<1>(x, x_stride, channels, w, bias, y, y_stride);
}

// f(offset in memory, number among these pixels, length) for each run of pixels of one picture.
template <typename F>
GENKERN_INLINE void runs(const Strips& s, int64_t begin, int64_t end, const F& f) {
  for (int64_t pixel = begin; pixel < end;) {
    const int64_t length = std::min(end - pixel, s.sites - pixel % s.sites);
    f(s.offset(pixel), pixel - begin, length);
    pixel += length;
  }
}

// Pixels [begin, end) widened, [C, stride].
template <typename T, typename A>
void gather(const Strips& s, const T* from, int64_t begin, int64_t end, A* to, int64_t stride) {
  runs(s, begin, end, [&](int64_t offset, int64_t at, int64_t length) {
    for (int64_t c = 0; c < s.channels; c++) {
      const T* __restrict row = from + offset + c * s.sites;
      A* __restrict out = to + c * stride + at;
#pragma omp simd
      for (int64_t i = 0; i < length; i++) out[i] = load(row[i]);
    }
  });
}

template <typename T, typename A>
void scatter(const Strips& s, const A* from, int64_t stride, int64_t begin, int64_t end, T* to) {
  runs(s, begin, end, [&](int64_t offset, int64_t at, int64_t length) {
    for (int64_t c = 0; c < s.channels; c++) {
      const A* __restrict row = from + c * stride + at;
      T* __restrict out = to + offset + c * s.sites;
#pragma omp simd
      for (int64_t i = 0; i < length; i++) out[i] = store<T>(row[i]);
    }
  });
}

template <typename T, typename A>
void mix_strips(const Strips& s, const T* x, const A* w, const A* bias, T* y, int64_t begin, int64_t end) {
  constexpr int L = Vectors<A>::lanes;
  std::vector<A> scratch;
  for (int64_t strip = begin; strip < end; strip++) {
    int64_t first = s.start(strip);
    const int64_t last = s.start(strip + 1);
    if constexpr (std::is_same_v<T, A>) {
      if (const int64_t vectors = s.within() ? (last - first) / L : 0; vectors > 0) {  // as it lies
        product(x + s.offset(first), s.sites, s.channels, w, bias, y + s.offset(first), s.sites, vectors);
        first += vectors * L;
      }
    }
    if (first == last) continue;
    scratch.resize(2 * s.channels * STRIP);
    A *in = scratch.data(), *out = in + s.channels * STRIP;
    gather(s, x, first, last, in, STRIP);
    product(in, STRIP, s.channels, w, bias, out, STRIP, (last - first + L - 1) / L);
    scatter(s, out, STRIP, first, last, y);
  }
}

// -- sums over pixels
// --------------------------------------------------------------------------------------------------

template <typename A>
GENKERN_INLINE A sum_of(typename Vectors<A>::type value) {
  typename Vectors<A>::half halves[2];
  memcpy(halves, &value, sizeof value);
  const auto folded = halves[0] + halves[1];
  constexpr int H = Vectors<A>::lanes / 2;
  A lanes[H];
  memcpy(lanes, &folded, sizeof folded);
  for (int half = H / 2; half > 0; half /= 2)
    for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];
  return lanes[0];
}

// A stretch of pixels, a multiple of the vector long: where its channel 0 begins, in g and in x.
struct Stretch {
  int64_t offset, length;
};

// sums[r, q] += g_r . x_q over the stretches, rows of both `stride` apart.
template <int R, int Q, typename A>
GENKERN_INLINE void dots(const A* g, const A* x, int64_t stride, const std::vector<Stretch>& stretches, double* sums,
                         int64_t channels) {
  typedef typename Vectors<A>::type V;
  constexpr int L = Vectors<A>::lanes;
  V lanes[R][Q] = {};
  for (const Stretch& s : stretches) {
    const A *gs = g + s.offset, *xs = x + s.offset;
    for (int64_t i = 0; i < s.length; i += L) {
      V values[Q];
      for (int q = 0; q < Q; q++) values[q] = read<V>(xs + q * stride + i);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const V factor = read<V>(gs + r * stride + i);
        for (int q = 0; q < Q; q++) lanes[r][q] += factor * values[q];
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int q = 0; q < Q; q++) sums[r * channels + q] += double(sum_of<A>(lanes[r][q]));
}

template <int R, typename A>
GENKERN_INLINE void dots_of_rows(const A* g, const A* x, int64_t stride, const std::vector<Stretch>& stretches,
                                 double* sums, int64_t channels) {
  int64_t c = 0;
  for (; c + DOT_COLUMNS <= channels; c += DOT_COLUMNS)
    dots<R, DOT_COLUMNS>(g, x + c * stride, stride, stretches, sums + c, channels);
  for (; c < channels; c++) dots<R, 1>(g, x + c * stride, stride, stretches, sums + c, channels);
}

// Rows [begin, end) of the sums.
template <typename A>
void all_dots(const A* g, const A* x, int64_t stride, const std::vector<Stretch>& stretches, int64_t channels,
              int64_t begin, int64_t end, double* of_weight, double* of_bias) {
  typedef typename Vectors<A>::type V;
  int64_t r = begin;
  for (; r + DOT_ROWS <= end; r += DOT_ROWS)
    dots_of_rows<DOT_ROWS>(g + r * stride, x, stride, stretches, of_weight + r * channels, channels);
  for (; r < end; r++) dots_of_rows<1>(g + r * stride, x, stride, stretches, of_weight + r * channels, channels);
  for (r = begin; r < end; r++) {
    V lanes{};
    for (const Stretch& s : stretches)
      for (int64_t i = 0; i < s.length; i += Vectors<A>::lanes) lanes += read<V>(g + r * stride + s.offset + i);
    of_bias[r] += double(sum_of<A>(lanes));
  }
}

template <typename T>
void unit_sums(const Strips& s, const T* g, const T* x, int64_t begin, int64_t end, int64_t first_row, int64_t last_row,
               double* of_weight, double* of_bias) {
  using A = arithmetic_t<T>;
  constexpr int64_t L = Vectors<A>::lanes;
  const bool as_it_lies = std::is_same_v<T, A> && s.sites % L == 0;
  const int64_t stride = s.per_unit() * STRIP + L;  // not a power of two: rows of a tile lie in different cache sets
  std::vector<A> scratch(as_it_lies ? 0 : 2 * s.channels * stride);
  std::vector<Stretch> stretches;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t strip = unit * s.per_unit();
    const int64_t first = s.start(strip), last = s.start(std::min(strip + s.per_unit(), s.count()));
    stretches.clear();
    if constexpr (std::is_same_v<T, A>) {
      if (as_it_lies) {
        runs(s, first, last, [&](int64_t offset, int64_t, int64_t length) { stretches.push_back({offset, length}); });
        all_dots(g, x, s.sites, stretches, s.channels, first_row, last_row, of_weight, of_bias);
        continue;
      }
    }
    A *gs = scratch.data(), *xs = gs + s.channels * stride;
    const int64_t pixels = last - first, length = (pixels + L - 1) / L * L;
    for (int64_t row = 0; row < 2 * s.channels; row++) std::fill_n(gs + row * stride + pixels, length - pixels, A(0));
    gather(s, g, first, last, gs, stride);
    gather(s, x, first, last, xs, stride);
    stretches.push_back({0, length});
    all_dots(gs, xs, stride, stretches, s.channels, first_row, last_row, of_weight, of_bias);
  }
}

}  // namespace GENKERN_LEVEL
}  // namespace genkern::invertible_conv1x1
