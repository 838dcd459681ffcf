#include "dynamic_threshold.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace genkern::dynamic_threshold {
namespace {

constexpr int LEADING = 11, BUCKETS = 1 << LEADING;  // bits after the sign, and how many values they have
constexpr int TABLES = 4;                            // of counts, so that equal neighbours do not wait for each other

template <typename A>
struct Bits;
template <>
struct Bits<float> {
  using type = uint32_t;
};
template <>
struct Bits<double> {
  using type = uint64_t;
};

template <typename T, typename U>
GENKERN_INLINE void magnitude_loop(const T* __restrict x, U* __restrict bits, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) bits[i] = bit_cast<U>(load(x[i])) & (~U{0} >> 1);
}
#define GENKERN_DEFINE(T, U, CLONES) \
  CLONES void magnitudes(const T* x, U* bits, int64_t n) { magnitude_loop(x, bits, n); }
GENKERN_DEFINE(float, uint32_t, GENKERN_CLONES)
GENKERN_DEFINE(double, uint64_t, GENKERN_CLONES)
GENKERN_DEFINE(Half, uint32_t, GENKERN_CLONES)
GENKERN_DEFINE(BFloat16, uint32_t, GENKERN_CLONES)

// The order statistics `below` and the next one of n magnitudes, NaN above all numbers.
template <typename U>
void select(const U* bits, int64_t n, int64_t below, bool interpolates, std::vector<int64_t>& counts,
            std::vector<U>& found, U* low, U* high, U* most) {
  constexpr int shift = 8 * int(sizeof(U)) - 1 - LEADING;
  std::fill(counts.begin(), counts.end(), 0);
  int64_t i = 0;
  for (; i + TABLES <= n; i += TABLES) {
    for (int t = 0; t < TABLES; t++) counts[t * BUCKETS + (bits[i + t] >> shift)]++;
  }
  for (; i < n; i++) counts[bits[i] >> shift]++;
  const int64_t next = interpolates ? std::min(below + 1, n - 1) : below;
  int64_t before = 0, seen = 0;
  U first = 0, last = 0;  // buckets of the two
  bool started = false, ended = false;
  for (U b = 0; b < U(BUCKETS); b++) {
    int64_t count = 0;
    for (int t = 0; t < TABLES; t++) count += counts[t * BUCKETS + b];
    if (!started && seen + count > below) started = true, first = b, before = seen;
    if (!ended && seen + count > next) ended = true, last = b;
    if (count > 0) *most = b;
    seen += count;
  }
  found.resize(size_t(n));
  int64_t size = 0;
  for (int64_t j = 0; j < n; j++) {
    const U bucket = bits[j] >> shift;
    found[size_t(size)] = bits[j];  // kept if it counts, else written over
    size += bucket >= first && bucket <= last;
  }
  const auto begin = found.begin(), end = begin + size, at = begin + (below - before);
  std::nth_element(begin, at, end);
  *low = *at;
  *high = next == below ? *at : *std::min_element(at + 1, end);
}

}  // namespace

template <typename T>
void run(const Quantile& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  using U = typename Bits<A>::type;
  const int64_t n = call.elements;
  std::vector<U> bits(static_cast<size_t>(n)), found;
  std::vector<int64_t> counts(TABLES * BUCKETS);
  for (int64_t sample = begin; sample < end; sample++) {
    magnitudes(static_cast<const T*>(call.x) + sample * n, bits.data(), n);
    U low = 0, high = 0, most = 0;
    select(bits.data(), n, call.below, call.weight != 0, counts, found, &low, &high, &most);
    const U infinity = bit_cast<U>(std::numeric_limits<A>::infinity());
    const bool may_be_nan = most >= infinity >> (8 * sizeof(U) - 1 - LEADING);
    A value = bit_cast<A>(low);
    if (high != low) value += A(call.weight) * (bit_cast<A>(high) - value);
    value = value < A(call.lowest) ? A(call.lowest) : value;
    value = value > A(call.highest) ? A(call.highest) : value;
    if (may_be_nan && std::any_of(bits.begin(), bits.end(), [=](U b) { return b > infinity; }))
      value = std::numeric_limits<A>::quiet_NaN();
    static_cast<A*>(call.threshold)[sample] = value;
  }
}

template void run<float>(const Quantile&, int64_t, int64_t);
template void run<double>(const Quantile&, int64_t, int64_t);
template void run<Half>(const Quantile&, int64_t, int64_t);
template void run<BFloat16>(const Quantile&, int64_t, int64_t);

}  // namespace genkern::dynamic_threshold
