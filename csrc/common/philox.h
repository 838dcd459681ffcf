#pragma once
// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a bijection of 128-bit
// counters for every 64-bit key, made of ten rounds of two 32 x 32 -> 64 bit products. There is no state.

#include <cstdint>

#include "macros.h"

namespace genkern {

// The second word of a counter: what is drawn with it, so that no two uses of a key share a counter.
enum Domain : uint32_t { kNoise = 0, kFoldIn = 1, kSplit = 2 };

struct Words {
  uint32_t x, y, z, w;
};

GENKERN_HD Words philox(uint64_t key, Words c) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c.x, p1 = uint64_t{0xCD9E8D57u} * c.z;
    c = {uint32_t(p1 >> 32) ^ c.y ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c.w ^ k1, uint32_t(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// The four words of elements 4 * quad .. 4 * quad + 3 of a sample.
GENKERN_HD Words noise_words(uint64_t key, uint64_t sample, uint64_t quad) {
  return philox(key, {uint32_t(quad), kNoise, uint32_t(sample), uint32_t(sample >> 32)});
}

// The key derived from `key` by a number.
GENKERN_HD uint64_t derived_key(uint64_t key, uint64_t number, Domain domain) {
  const Words words = philox(key, {0, domain, uint32_t(number), uint32_t(number >> 32)});
  return words.x | (uint64_t{words.y} << 32);
}

}  // namespace genkern
