#include <algorithm>
#include <functional>
#include <vector>

#include "categorical_sample.h"

namespace genkern::categorical_sample {
namespace {

constexpr int W = Call::WIDTH;

// z: [V, W]; the largest of each column and where it is, first of equals; and sum e^(z - top).
template <typename A>
GENKERN_INLINE void summary_loop(const A* __restrict z, int64_t classes, A* __restrict top, A* __restrict where,
                                 A* __restrict total) {
  for (int i = 0; i < W; i++) top[i] = z[i], where[i] = 0, total[i] = 0;
  for (int64_t v = 1; v < classes; v++) {
#pragma omp simd
    for (int i = 0; i < W; i++) {
      const bool larger = z[v * W + i] > top[i];
      where[i] = larger ? A(v) : where[i];
      top[i] = larger ? z[v * W + i] : top[i];
    }
  }
  for (int64_t v = 0; v < classes; v++) {
#pragma omp simd
    for (int i = 0; i < W; i++) total[i] += exp(z[v * W + i] - top[i]);
  }
}

// w: [V, W], cumulative weights; classes of z that are not above `least` count only while there is `room`.
template <bool restricted, typename A>
GENKERN_INLINE void weights_loop(const A* __restrict z, int64_t classes, const A* __restrict top, A inverse,
                                 const A* __restrict least, A* __restrict room, A* __restrict w) {
  A sum[W] = {};
  for (int64_t v = 0; v < classes; v++) {
#pragma omp simd
    for (int i = 0; i < W; i++) {
      const A value = z[v * W + i];
      A weight = exp((value - top[i]) * inverse);
      if constexpr (restricted) {
        const bool equal = value == least[i], fits = (value > least[i]) | (equal & (room[i] > A(0)));
        room[i] -= equal ? A(1) : A(0);
        weight = fits ? weight : A(0);
      }
      sum[i] += weight;
      w[v * W + i] = sum[i];
    }
  }
}

// The first class whose cumulative weight exceeds u * total.
template <typename A>
GENKERN_INLINE void search_loop(const A* __restrict w, int64_t classes, const A* __restrict u, A* __restrict chosen) {
  const A* last = w + (classes - 1) * W;
  for (int i = 0; i < W; i++) chosen[i] = 0;
  for (int64_t v = 0; v < classes; v++) {
#pragma omp simd
    for (int i = 0; i < W; i++) chosen[i] += (w[v * W + i] <= u[i] * last[i]) & (w[v * W + i] < last[i]) ? A(1) : A(0);
  }
}

#define GENKERN_DEFINE(A, CLONES)                                                                            \
  CLONES void summary(const A* z, int64_t classes, A* top, A* where, A* total) {                             \
    summary_loop<A>(z, classes, top, where, total);                                                          \
  }                                                                                                          \
  CLONES void weights(const A* z, int64_t classes, const A* top, A inverse, A* w) {                          \
    weights_loop<false, A>(z, classes, top, inverse, nullptr, nullptr, w);                                   \
  }                                                                                                          \
  CLONES void weights(const A* z, int64_t classes, const A* top, A inverse, const A* least, A* room, A* w) { \
    weights_loop<true, A>(z, classes, top, inverse, least, room, w);                                         \
  }                                                                                                          \
  CLONES void search(const A* w, int64_t classes, const A* u, A* chosen) { search_loop<A>(w, classes, u, chosen); }
GENKERN_DEFINE(float, GENKERN_CLONES)
GENKERN_DEFINE(double, )

}  // namespace

template <typename T>
void sample(const Call& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const int64_t V = call.classes;
  const T* logits = static_cast<const T*>(call.logits);
  std::vector<A> z(V * W), w(call.temperature == 0 ? 0 : V * W), column(call.top_k > 0 ? V : 0);
  for (int64_t first = begin; first < end; first += W) {
    const int count = int(std::min<int64_t>(W, end - first));
    A top[W], chosen[W], total[W], u[W] = {}, least[W] = {}, room[W] = {};
    for (int i = 0; i < count; i++) {
      const int64_t c = first + i, at = c / call.inner * V * call.inner + c % call.inner;
      for (int64_t v = 0; v < V; v++) z[v * W + i] = load(logits[at + v * call.inner]);
      u[i] = static_cast<const A*>(call.noise)[c];
    }
    for (int i = count; i < W; i++)
      for (int64_t v = 0; v < V; v++) z[v * W + i] = 0;
    summary(z.data(), V, top, chosen, total);
    if (call.temperature != 0) {
      for (int i = 0; i < (call.top_k > 0 ? count : 0); i++) {  // the k-th largest, and how many of its equals count
        for (int64_t v = 0; v < V; v++) column[v] = z[v * W + i];
        std::nth_element(column.begin(), column.begin() + call.top_k - 1, column.end(), std::greater<A>());
        least[i] = column[call.top_k - 1];
        room[i] = A(call.top_k - std::count_if(column.begin(), column.begin() + call.top_k,
                                               [&](A value) { return value > least[i]; }));
      }
      const A inverse = A(1) / A(call.temperature);
      if (call.top_k > 0)
        weights(z.data(), V, top, inverse, least, room, w.data());
      else
        weights(z.data(), V, top, inverse, w.data());
      search(w.data(), V, u, chosen);
    }
    for (int i = 0; i < count; i++) {
      const int64_t k = int64_t(chosen[i]);
      call.index[first + i] = k;
      static_cast<A*>(call.log_prob)[first + i] = z[k * W + i] - top[i] - std::log(total[i]);
    }
  }
}

template void sample<float>(const Call&, int64_t, int64_t);
template void sample<double>(const Call&, int64_t, int64_t);
template void sample<Half>(const Call&, int64_t, int64_t);
template void sample<BFloat16>(const Call&, int64_t, int64_t);

}  // namespace genkern::categorical_sample
