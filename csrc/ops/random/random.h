#pragma once
// Fills [samples, elements] from one key. Element e of sample s is word e % 4 of the Philox counter
// (e / 4, kNoise, s low, s high), turned into a float32 number and then into the storage type; so it depends on
// the key, s and e alone. Rows of elements are cut into quads of four, the last one of a row possibly partial.

#include <cstdint>

#include "../../common/dtype.h"
#include "../../common/normal.h"

namespace genkern {

// Pair of numbers from a pair of words: the elements 2 j and 2 j + 1 of a quad.
struct Normal {
  static GENKERN_HD Pair draw(uint32_t first, uint32_t second) { return box_muller(first, second); }
};
struct Uniform {
  static GENKERN_HD Pair draw(uint32_t first, uint32_t second) { return {uniform(first), uniform(second)}; }
};

// What is kept of a float32 number: its rounding, but a uniform number below 1 stays below 1.
template <typename Draw, typename T>
GENKERN_HD T stored(float value) {
  return store<T>(value);
}
template <>
GENKERN_HD double stored<Normal, double>(float value) {
  return value;
}
template <>
GENKERN_HD double stored<Uniform, double>(float value) {
  return value;
}
template <>
GENKERN_HD BFloat16 stored<Uniform, BFloat16>(float value) {
  return store<BFloat16>(value < 0.99609375f ? value : 0.99609375f);
}
template <>
GENKERN_HD Half stored<Uniform, Half>(float value) {
  return store<Half>(value < 0.99951171875f ? value : 0.99951171875f);
}

// The best instruction set of this machine that has loops: 1 (any), 3 (x86-64-v3) or 4 (x86-64-v4).
int simd_level();

// Quads [begin, end) of the row-major [samples, ceil(elements / 4)]; `out` is the whole [samples, elements].
template <typename Draw, typename T>
void fill(T* out, uint64_t key, int64_t sample_offset, int64_t elements, int64_t begin, int64_t end,
          int level = simd_level());

inline int64_t quads_of(int64_t elements) { return elements / 4 + (elements % 4 != 0); }

}  // namespace genkern
