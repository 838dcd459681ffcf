// Permutations by the original's 64-bit linear congruences, and look-ups of bytes in tables of 256.

#include <cstring>

#include "simplex_noise.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define GENKERN_LEVELS 1
#include <immintrin.h>
#endif

namespace genkern::simplex_noise {
namespace {

constexpr int8_t GRADIENTS2[] = {5, 2, 2, 5, -5, 2, -2, 5, 5, -2, 2, -5, -5, -2, -2, -5};
constexpr int8_t GRADIENTS3[] = {-11, 4,  4,  -4, 11,  4,  -4, 4,  11,  11, 4,  4,  4, 11,  4,  4, 4,  11,
                                 -11, -4, 4,  -4, -11, 4,  -4, -4, 11,  11, -4, 4,  4, -11, 4,  4, -4, 11,
                                 -11, 4,  -4, -4, 11,  -4, -4, 4,  -11, 11, 4,  -4, 4, 11,  -4, 4, 4,  -11,
                                 -11, -4, -4, -4, -11, -4, -4, -4, -11, 11, -4, -4, 4, -11, -4, 4, -4, -11};

uint64_t next(uint64_t seed) { return seed * 6364136223846793005u + 1442695040888963407u; }

#ifdef GENKERN_LEVELS
__attribute__((target("avx512f,avx512bw,avx512vbmi"))) void look_up_vbmi(const uint8_t* table, const uint8_t* index,
                                                                         uint8_t* out) {
  const __m512i i = _mm512_loadu_si512(index);
  const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), i, _mm512_loadu_si512(table + 64));
  const __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), i, _mm512_loadu_si512(table + 192));
  _mm512_storeu_si512(out, _mm512_mask_blend_epi8(_mm512_movepi8_mask(i), low, high));
}

// Sixteen shuffles: that of row r counts where the upper half of the index is r.
__attribute__((target("avx2"))) void look_up_avx2(const uint8_t* table, const uint8_t* index, uint8_t* out) {
  for (int half = 0; half < BLOCK; half += 32) {
    const __m256i i = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index + half));
    const __m256i row = _mm256_and_si256(_mm256_srli_epi16(i, 4), _mm256_set1_epi8(15));
    const __m256i column = _mm256_and_si256(i, _mm256_set1_epi8(15));
    __m256i found = _mm256_setzero_si256();
    for (int r = 0; r < 16; r++) {
      const __m256i bytes =
          _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * r)));
      const __m256i here = _mm256_cmpeq_epi8(row, _mm256_set1_epi8(char(r)));
      found = _mm256_or_si256(found, _mm256_and_si256(here, _mm256_shuffle_epi8(bytes, column)));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + half), found);
  }
}
#endif

int detect() {
#ifdef GENKERN_LEVELS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw")) return 5;
  return __builtin_cpu_supports("avx2") ? 3 : 1;
#else
  return 1;
#endif
}

}  // namespace

int lookup_level() {
  static const int level = detect();
  return level;
}

void look_up(const uint8_t* table, const uint8_t* index, uint8_t* out, int level) {
#ifdef GENKERN_LEVELS
  if (level >= 5) return look_up_vbmi(table, index, out);
  if (level >= 3) return look_up_avx2(table, index, out);
#endif
  (void)level;
  for (int i = 0; i < BLOCK; i++) out[i] = table[index[i]];
}

Tables tables_of(int64_t given, bool three) {
  Tables tables{};
  uint8_t source[256];
  for (int i = 0; i < 256; i++) source[i] = uint8_t(i);
  uint64_t seed = next(next(next(uint64_t(given))));
  for (int i = 255; i >= 0; i--) {
    seed = next(seed);
    int64_t r = int64_t(seed + 31) % (i + 1);
    r += r < 0 ? i + 1 : 0;
    tables.permutation[i] = source[r];
    source[r] = source[i];
  }
  for (int i = 0; i < 256; i++) {
    const int p = tables.permutation[i];
    const int8_t* const g = three ? GRADIENTS3 + p % 24 * 3 : GRADIENTS2 + (p & 14);
    for (int axis = 0; axis < (three ? 3 : 2); axis++) tables.gradient[axis][i] = g[axis];
  }
  return tables;
}

}  // namespace genkern::simplex_noise
