// The tile of cpu.cpp, compiled once for each instruction set; see ../../common/levels.h.

namespace genkern::vq_assign {
namespace GENKERN_LEVEL {

constexpr int ROWS = GENKERN_BYTES == 64 ? 12 : 6;  // whose sums fit into registers beside two of the codes
constexpr int64_t bytes() { return GENKERN_BYTES; }

template <typename A>
struct Vectors {
  typedef A type __attribute__((vector_size(GENKERN_BYTES)));
  static constexpr int lanes = GENKERN_BYTES / sizeof(A);
};

template <typename V, typename A>
GENKERN_INLINE V read(const A* from) {
  V value;
  memcpy(&value, from, sizeof value);
  return value;
}

// x: [D, ROWS]; rows' best and second best so far, in lanes: [ROWS, 4, lanes] (value, block, second value, its block).
template <bool with_second, typename A>
GENKERN_INLINE void tile(const A* __restrict x, int64_t features, const A* __restrict codes, const A* __restrict start,
                         int64_t first, int64_t last, A* __restrict state) {
  typedef typename Vectors<A>::type V;
  constexpr int L = Vectors<A>::lanes, R = ROWS;
  for (int64_t block = first; block < last; block++) {
    V sums[R][2];
    const A* from = start + block * 2 * L;
    const V from0 = read<V>(from), from1 = read<V>(from + L);
    for (int r = 0; r < R; r++) sums[r][0] = from0, sums[r][1] = from1;
    const A* c = codes + block * features * 2 * L;
    for (int64_t d = 0; d < features; d++, c += 2 * L) {
      const V c0 = read<V>(c), c1 = read<V>(c + L);
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) {
        const V value = V{} + x[d * R + r];
        sums[r][0] += value * c0, sums[r][1] += value * c1;
      }
    }
    const V number[2] = {V{} + A(2 * block), V{} + A(2 * block + 1)};
    for (int r = 0; r < R; r++) {
      A* s = state + r * 4 * L;
      V best = read<V>(s), at = read<V>(s + L), next = read<V>(s + 2 * L), next_at{};
      if (with_second) next_at = read<V>(s + 3 * L);
      for (int half = 0; half < 2; half++) {
        const V value = sums[r][half];
        const auto wins = value > best, follows = value > next;
        if (with_second) next_at = wins ? at : follows ? number[half] : next_at;
        next = wins ? best : follows ? value : next;
        best = wins ? value : best;
        at = wins ? number[half] : at;
      }
      memcpy(s, &best, sizeof best), memcpy(s + L, &at, sizeof at), memcpy(s + 2 * L, &next, sizeof next);
      if (with_second) memcpy(s + 3 * L, &next_at, sizeof next_at);
    }
  }
}

// Tiles [0, tiles) of x against blocks [0, blocks) of the codebook, a stretch of it at a time.
template <bool with_second, typename A>
void product(const A* x, int64_t tiles, int64_t features, const A* codes, const A* start, int64_t blocks, A* state) {
  constexpr int L = Vectors<A>::lanes, R = ROWS;
  const int64_t stretch = std::max<int64_t>(1, STRETCH / int64_t(features * 2 * L * sizeof(A)));
  for (int64_t first = 0; first < blocks; first += stretch)
    for (int64_t t = 0; t < tiles; t++)
      tile<with_second>(x + t * R * features, features, codes, start, first, std::min(first + stretch, blocks),
                        state + t * R * 4 * L);
}

}  // namespace GENKERN_LEVEL
}  // namespace genkern::vq_assign
