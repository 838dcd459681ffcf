#include "squeeze.h"

namespace genkern::squeeze {
namespace {

// A row of x and the two rows of z that it alternates between, N pairs at a time.
template <int N, bool inverse, typename T>
GENKERN_INLINE void pairs(T* __restrict x, T* __restrict even, T* __restrict odd) {
#pragma omp simd
  for (int k = 0; k < N; k++) {
    if constexpr (inverse) {
      x[2 * k] = even[k], x[2 * k + 1] = odd[k];
    } else {
      even[k] = x[2 * k], odd[k] = x[2 * k + 1];
    }
  }
}

template <bool inverse, typename T>
GENKERN_INLINE void row_of_pairs(T* x, T* even, T* odd, int64_t n) {
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) pairs<16, inverse>(x + 2 * k, even + k, odd + k);
  if (n - k >= 8) pairs<8, inverse>(x + 2 * k, even + k, odd + k), k += 8;
  if (n - k >= 4) pairs<4, inverse>(x + 2 * k, even + k, odd + k), k += 4;
  for (; k < n; k++) pairs<1, inverse>(x + 2 * k, even + k, odd + k);
}

template <bool inverse, typename T>
GENKERN_INLINE void planes(const Call& call, T* x, T* z, int64_t begin, int64_t end) {
  const int64_t f = call.factor, height = call.height / f, width = call.width / f, plane = height * width;
  const int64_t step = call.ordered ? call.channels * plane : plane;  // from one channel of z to the next, in j
  for (int64_t p = begin; p < end; p++) {
    const int64_t b = p / call.channels, c = p % call.channels;
    T* const from = x + p * call.height * call.width;
    T* const to = z + (b * call.channels * f * f + (call.ordered ? c : c * f * f)) * plane;
    for (int64_t i = 0; i < f; i++) {
      for (int64_t h = 0; h < height; h++) {
        T* const row = from + (f * h + i) * call.width;
        T* const first = to + i * f * step + h * width;
        if (f == 2) {
          row_of_pairs<inverse>(row, first, first + step, width);
          continue;
        }
        for (int64_t j = 0; j < f; j++) {
          for (int64_t w = 0; w < width; w++) {
            T &large = row[f * w + j], &small = first[j * step + w];
            if constexpr (inverse) {
              large = small;
            } else {
              small = large;
            }
          }
        }
      }
    }
  }
}

#define GENKERN_DEFINE(T)                                                                                            \
  GENKERN_CLONES void squeeze(const Call& call, T* x, T* z, int64_t begin, int64_t end) {                            \
    planes<false>(call, x, z, begin, end);                                                                           \
  }                                                                                                                  \
  GENKERN_CLONES void unsqueeze(const Call& call, T* x, T* z, int64_t begin, int64_t end) {                          \
    planes<true>(call, x, z, begin, end);                                                                            \
  }
GENKERN_DEFINE(uint8_t)
GENKERN_DEFINE(uint16_t)
GENKERN_DEFINE(uint32_t)
GENKERN_DEFINE(uint64_t)

}  // namespace

template <typename T>
void run(const Call& call, int64_t begin, int64_t end) {
  T *from = static_cast<T*>(const_cast<void*>(call.from)), *to = static_cast<T*>(call.to);
  if (call.inverse) {
    unsqueeze(call, to, from, begin, end);
  } else {
    squeeze(call, from, to, begin, end);
  }
}

template void run<uint8_t>(const Call&, int64_t, int64_t);
template void run<uint16_t>(const Call&, int64_t, int64_t);
template void run<uint32_t>(const Call&, int64_t, int64_t);
template void run<uint64_t>(const Call&, int64_t, int64_t);

}  // namespace genkern::squeeze
