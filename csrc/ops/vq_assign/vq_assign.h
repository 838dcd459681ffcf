#pragma once
// The nearest code of every vector: k = argmin_j |x - c_j|^2, the lowest j of equals, without the matrix of distances.
// With m the mean of the codebook, that is the largest (x - m).(c_j - m) - |c_j - m|^2 / 2, which is computed in
// float32 by a matrix product whose columns are compared as they come. Where the best two are closer than its rounding
// error, the vector is compared with all codes again, in float64: so the code is that of float64 arithmetic.

#include <cstdint>

#include "../../common/dtype.h"

namespace genkern::vq_assign {

// Vectors [groups, outer, features, inner] of any strides, and codes [groups, codes, features], contiguous.
struct Shape {
  int64_t groups, outer, features, inner, codes;
  int64_t group_stride, outer_stride, feature_stride, inner_stride;

  int64_t rows() const { return outer * inner; }  // of a group
  int64_t offset(int64_t group, int64_t row) const {
    return group * group_stride + row / inner * outer_stride + row % inner * inner_stride;
  }
};

struct Call {
  Shape shape;
  const void* x;
  const void* codebook;   // of the arithmetic type
  const uint8_t* mask;    // [outer, inner]; null: all
  int64_t* index;         // [groups, outer, inner]; -1 where masked
  void* distance;         // of the arithmetic type, or null
  int64_t* second;        // or null
  void* second_distance;  // or null
};

// The codebook of a group as the tile wants it: blocks of `width` codes, feature by feature, and what they start from.
template <typename A>
struct Packed {
  A* codes;         // [ceil(K / width), D, width], centred, zeros after the last
  A* start;         // [ceil(K / width), width]: -|c - m|^2 / 2, -inf after the last
  A* mean;          // [D]
  double* largest;  // the largest |c - m|
};

// Codes in a block of the tile, and vectors in a tile, on this machine.
template <typename A>
int64_t width();
int64_t tile_rows();

inline int64_t blocks_of(int64_t codes, int64_t width) { return (codes + width - 1) / width; }
inline int64_t unit_of(int64_t features) {  // vectors that are compared with a stretch of the codebook at a time
  return features <= 64 ? 192 : features <= 512 ? 96 : 48;
}

// Packs the codebook [K, D] of one group.
template <typename A>
void pack(const A* codebook, int64_t codes, int64_t features, const Packed<A>& packed);

// Units [begin, end) of the rows of one group.
template <typename T>
void assign(const Call& call, int64_t group, const Packed<arithmetic_t<T>>& packed, int64_t begin, int64_t end);

// The largest |x| of the rows [begin, end) that are not masked.
template <typename T>
double largest(const Call& call, int64_t begin, int64_t end);

// counts [K] and sums [K, D] of the codes [begin, end) of one group, rows in their order. Every element is rounded to
// a multiple of 2^-28 times a power of two above `bound` first, so that sums are exact and any order gives the same.
template <typename T>
void statistics(const Call& call, int64_t group, double bound, int64_t begin, int64_t end, int64_t* counts,
                double* sums);

}  // namespace genkern::vq_assign
