#pragma once
// Squeeze: [C, H, W] to [C f^2, H / f, W / f], each f x f square of sites becoming f^2 channels:
//   z[channel(c, i, j), h, w] = x[c, f h + i, f w + j]
//   channel(c, i, j) = c f^2 + i f + j (channel major)  |  (i f + j) C + c (ordered)
// Only the size of an element matters, so T is an unsigned integer of that size.

#include <cstdint>

#include "../../common/macros.h"

namespace genkern::squeeze {

struct Call {
  int64_t channels, height, width;  // of x, the larger picture
  int64_t factor;
  bool ordered, inverse;
  const void* from;
  void* to;
};

// Planes [begin, end) of the batch x channels planes of x.
template <typename T>
void run(const Call& call, int64_t begin, int64_t end);

}  // namespace genkern::squeeze
