#pragma once
// How the solve is laid out and shared among threads on a CPU; see cpu.cpp.

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "autoregressive_conv.h"

namespace genkern::autoregressive_conv {

struct alignas(64) Line {
  char bytes[64];
};

// Memory that begins at a cache line, as zeros.
template <typename T>
class Zeros {
 public:
  explicit Zeros(int64_t count) : lines(new Line[size_t(count * int64_t(sizeof(T)) / 64 + 1)]()) {}
  T* data() const { return reinterpret_cast<T*>(lines.get()); }

 private:
  std::unique_ptr<Line[]> lines;
};

// L^-1, and -L^-1 M_t of each tap, [1 + taps][from][to] with `to` padded to whole vectors: one product for each source.
// Computed in float64 and rounded once.
template <typename T>
class Matrices {
 public:
  explicit Matrices(const Solve<T>& solve)
      : lanes(lanes_for(solve.channels)),
        padded((solve.channels + lanes - 1) / lanes * lanes),
        size(solve.channels * padded),
        memory((1 + solve.window.count()) * size) {
    fill(solve, memory.data());
  }
  const T* centre() const { return memory.data(); }
  const T* tap(int t) const { return memory.data() + (1 + t) * size; }

  const int64_t lanes, padded;

 private:
  // A vector of 16, 32 or 64 bytes.
  static int64_t lanes_for(int64_t channels) {
    int64_t lanes = 16 / int64_t(sizeof(T));
    while (lanes < channels && lanes < 64 / int64_t(sizeof(T))) lanes *= 2;
    return lanes;
  }
  void fill(const Solve<T>& solve, T* to) const;

  const int64_t size;
  Zeros<T> memory;
};

// Units of work: each is every `ways`-th row of a sample. With several ways, threads share a sample: a row follows the
// one above it, pixel by pixel. Every thread goes through its rows in order, so that some row can always go on.
template <typename T>
struct Shares {
  Shares(const Solve<T>& solve, int64_t ways, int64_t padded)
      : ways(ways),
        picture_size(solve.height * (solve.width + 2 * solve.window.columns) * padded),
        pictures(ways > 1 ? solve.batch * picture_size : 0),
        done(size_t(ways > 1 ? solve.batch * solve.height : 0)) {}

  const int64_t ways, picture_size;
  Zeros<T> pictures;                               // of all samples, where threads share them
  mutable std::vector<std::atomic<int64_t>> done;  // pixels of each row
};

template <typename T>
void solve_units(const Solve<T>& solve, const Matrices<T>& matrices, const Shares<T>& shares, int64_t begin,
                 int64_t end);

}  // namespace genkern::autoregressive_conv
