#pragma once
// How ops with one parameter per channel walk a dense tensor [B, C, *] in whatever order its dimensions lie: memory
// is [outer, C, inner], where `inner` is the stride of the channels (1 for channels_last, B * sites where the
// channels come first).
//   runs     inner is long: each run of `inner` elements shares its parameters.
//   columns  inner is short: rows of `period` elements, parameters repeated for each column.
// Work is cut into units that depend on the shape alone, so that sums do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "macros.h"

namespace genkern {

struct Channels {
  static constexpr int64_t SHORT = 32;      // an inner run below this is walked by columns
  static constexpr int64_t WIDTH = 512;     // columns at a time
  static constexpr int64_t DEPTH = 64;      // rows that one accumulator sums before it is widened to double
  static constexpr int64_t UNIT = 16384;    // elements in a unit of work, about
  static constexpr int64_t PER_SUM = 1024;  // elements in a partial sum, at least

  int64_t total = 0, outer = 0, channels = 0, inner = 0;
  bool columns = false;
  int64_t period = 0;                      // elements between rows
  int64_t depth = 1, width = 1, span = 1;  // of a unit: rows, then columns or channels, and elements of a run
  int64_t deep = 0, wide = 0, spans = 0;   // how many units there are of each

  Channels(int64_t total, int64_t channels, int64_t inner) : total(total), channels(channels), inner(inner) {
    if (total == 0) return;
    outer = total / (channels * inner);
    columns = inner < SHORT;
    period = channels * inner;
    if (columns) {
      period *= std::min(outer, (WIDTH / 2 + period - 1) / period);
      width = period <= WIDTH ? period : WIDTH / inner * inner;
      depth = DEPTH;
      deep = (total + period * depth - 1) / (period * depth);
      wide = (period + width - 1) / width;
      spans = 1;
    } else {
      span = std::min(inner, UNIT);
      depth = std::min((PER_SUM + span - 1) / span, outer);
      width = std::clamp<int64_t>(UNIT / (span * depth), 1, channels);
      deep = (outer + depth - 1) / depth;
      wide = (channels + width - 1) / width;
      spans = (inner + span - 1) / span;
    }
  }

  int64_t units() const { return deep * wide * spans; }
  int64_t unit_size() const { return depth * width * span; }
  int64_t slots() const { return deep * spans; }  // partial sums of each channel
  int64_t parameters() const { return columns ? period : channels; }
  int64_t channel(int64_t parameter) const { return columns ? parameter / inner % channels : parameter; }

  // Calls f(i, channel) for parameters first + i, i < count, where first begins a channel; without divisions.
  template <typename F>
  void each_channel(int64_t first, int64_t count, const F& f) const {
    int64_t c = channel(first), left = columns ? inner : 1;
    for (int64_t i = 0; i < count; i++) {
      f(i, c);
      if (--left == 0) left = columns ? inner : 1, c = c + 1 == channels ? 0 : c + 1;
    }
  }

  struct Unit {
    int64_t row, rows, first, count, at, length, slot;
  };
  Unit unit(int64_t number) const {
    const int64_t d = number / (wide * spans), w = number / spans % wide, s = number % spans;
    const int64_t rows = columns ? (total + period - 1) / period : outer,
                  columns_or_channels = columns ? period : channels;
    Unit u{};
    u.row = d * depth, u.rows = std::min(depth, rows - u.row);
    u.first = w * width, u.count = std::min(width, columns_or_channels - u.first);
    u.at = s * span, u.length = columns ? u.count : std::min(span, inner - u.at);
    u.slot = d * spans + s;
    return u;
  }

  // How many rows of a unit of columns have its i-th column; the last row of all may be cut short.
  int64_t rows_with(const Unit& u, int64_t i) const {
    return u.rows - ((u.row + u.rows - 1) * period + u.first + i >= total);
  }

  // Calls f(offset, length, index of the first parameter) for each contiguous piece of a unit.
  template <typename F>
  GENKERN_INLINE void pieces(const Unit& u, const F& f) const {
    for (int64_t r = u.row; r < u.row + u.rows; r++) {
      if (columns) {
        const int64_t offset = r * period + u.first;
        if (offset < total) f(offset, std::min(u.count, total - offset), u.first);
      } else {
        for (int64_t c = u.first; c < u.first + u.count; c++) f((r * channels + c) * inner + u.at, u.length, c);
      }
    }
  }
};

}  // namespace genkern
