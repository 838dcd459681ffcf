#pragma once
// OpenSimplex noise of 2014 in two and three dimensions, summed over octaves:
//   field(x, y) = sum_k persistence^k S(x / f_k, y / f_k [, t / f_k]),  f_k = frequency / 2^k
// S sums attenuated gradients max(0, 2 - |d|^2)^4 (g . d) over points of a squished lattice around the argument. In two
// dimensions eight offsets are enough; in three, the eight that the original chooses, which drops small terms.
// Coordinates and the choice are in double, in the original's order of operations, so that ties fall as they do there.

#include <cstdint>

namespace genkern::simplex_noise {

// Of one seed: the permutation, and for each index the components of the gradient that it leads to.
struct Tables {
  uint8_t permutation[256];
  int8_t gradient[3][256];
};

Tables tables_of(int64_t seed, bool three);

// out[i] = table[index[i]] for i < BLOCK.
constexpr int BLOCK = 64;
void look_up(const uint8_t* table, const uint8_t* index, uint8_t* out, int level);

// The best instruction set for look_up: 1 (any), 3 (AVX2) or 5 (AVX-512 VBMI).
int lookup_level();

struct Field {
  int64_t height, width;
  int octaves;
  double persistence, frequency;
};

// Rows [begin, end) of one sample; t is null in two dimensions. T is float or double.
template <typename T>
void rows(const Field& field, const Tables& tables, const double* t, int64_t begin, int64_t end, T* out,
          int level = lookup_level());

}  // namespace genkern::simplex_noise
