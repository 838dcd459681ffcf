#include <algorithm>
#include <memory>

#include "made_inverse.h"

namespace genkern::made_inverse {
namespace {

// One cache line, a vector or a few of whatever the machine has. LANES numbers are WIDE of them.
template <typename A>
struct Line {
  typedef A type __attribute__((vector_size(64), may_alias));
};
template <typename A>
using Vector = typename Line<A>::type;
template <typename A>
constexpr int WIDE = LANES * int(sizeof(A)) / 64;

template <typename A>
GENKERN_INLINE A* lanes(Vector<A>* sums) {
  return reinterpret_cast<A*>(sums);
}

// sums[r] += sum_c w[r, c] in[c], over c < n or the columns of an index; all of LANES numbers at once.
template <int ROWS, bool INDEXED, typename A>
GENKERN_INLINE void accumulate(const A* w, int64_t row_stride, int64_t column_stride, const A* in, int64_t in_stride,
                               const int64_t* index, int64_t n, Vector<A>* sums) {
  constexpr int N = WIDE<A>;
  Vector<A> total[ROWS][N];
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < N; v++) total[r][v] = sums[r * N + v];
  for (int64_t i = 0; i < n; i++) {
    const int64_t c = INDEXED ? index[i] : i;
    const Vector<A>* const values = reinterpret_cast<const Vector<A>*>(in + c * in_stride);
    for (int r = 0; r < ROWS; r++) {
      const A weight = w[r * row_stride + c * column_stride];
      for (int v = 0; v < N; v++) total[r][v] += values[v] * weight;
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < N; v++) sums[r * N + v] = total[r][v];
}

template <Activation activation, typename A>
GENKERN_INLINE void activate_lanes(const A* __restrict h, A* __restrict a, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) a[i] = activate<activation>(h[i]);
}
template <Activation activation, typename A>
GENKERN_INLINE void slope_lanes(const A* __restrict a, A* __restrict g, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) g[i] *= slope<activation>(a[i]);
}
template <Scale scale, typename A>
GENKERN_INLINE void solve_lanes(const Transform& transform, const A* __restrict z, const A* __restrict s,
                                const A* __restrict m, A* __restrict x, double* __restrict log_det) {
#pragma omp simd
  for (int i = 0; i < LANES; i++) {
    const Solution<A> solution = solve<scale>(transform, z[i], s[i], m[i]);
    x[i] = solution.x;
    log_det[i] += solution.log_det;
  }
}
template <Scale scale, typename A>
GENKERN_INLINE void pull_back_lanes(const Transform& transform, const A* __restrict z, const A* __restrict x,
                                    const A* __restrict s, const A* __restrict m, const A* __restrict grad_log_det,
                                    A* __restrict grad_x, A* __restrict grad_s, A* __restrict grad_m) {
#pragma omp simd
  for (int i = 0; i < LANES; i++) {
    const Gradients<A> g = pull_back<scale>(transform, z[i], x[i], s[i], m[i], grad_x[i], grad_log_det[i]);
    grad_x[i] = g.z;
    grad_s[i] = g.s;
    grad_m[i] = g.m;
  }
}

#define GENKERN_BY_ACTIVATION(activation, CALL)                              \
  switch (activation) {                                                      \
    case Activation::relu: CALL(Activation::relu); break;                    \
    case Activation::tanh: CALL(Activation::tanh); break;                    \
    default: CALL(Activation::elu);                                          \
  }
#define GENKERN_BY_SCALE(scale, CALL)                                        \
  switch (scale) {                                                           \
    case Scale::exp: CALL(Scale::exp); break;                                \
    case Scale::tanh: CALL(Scale::tanh); break;                              \
    default: CALL(Scale::sigmoid);                                           \
  }

// The state of a block of samples, [rows, LANES] each.
template <typename A>
struct Block {
  struct alignas(64) CacheLine {
    A values[64 / sizeof(A)];
  };
  std::unique_ptr<CacheLine[]> memory;
  A *z, *x, *params;  // D, D, 2 D rows; x becomes known element by element
  A *units, *stream;  // activations of all hidden layers, and with residual blocks what they are made of
  A *grad_x, *grad_params, *grad_units;
  A* grad_log_det;
  double log_det[LANES];
  int64_t sample[LANES];  // the last one stands in for those beyond the batch
  int64_t count;

  Block(const Call<A>& call, bool backward) {
    const Network& network = call.network;
    const int64_t d = network.features, u = network.units, s = network.residual ? u : 0;
    const int64_t rows = 4 * d + u + s + (backward ? 3 * d + u + 1 : 0);
    memory.reset(new CacheLine[size_t(rows * WIDE<A>)]);
    A* next = memory.get()->values;
    if (call.poison) std::fill_n(next, rows * LANES, A(NAN));
    const auto take = [&](int64_t count) { return (next += count * LANES) - count * LANES; };
    z = take(d), x = take(d), params = take(2 * d), units = take(u), stream = take(s);
    if (!backward) return;
    grad_x = take(d), grad_params = take(2 * d), grad_units = take(u), grad_log_det = take(1);
  }

  GENKERN_INLINE A* row(A* base, const Layer& layer, int64_t unit) const { return base + (layer.level + unit) * LANES; }
};

// -- forward ----------------------------------------------------------------------------------------------------------

template <int ROWS, typename A>
GENKERN_INLINE void compute_units(const Call<A>& call, const Block<A>& block, int64_t l, int64_t k, int64_t unit) {
  const Network& network = call.network;
  const Layer& layer = network.layer(l);
  constexpr int N = WIDE<A>;
  Vector<A> sums[ROWS * N];
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < N; v++) sums[r * N + v] = Vector<A>{} + call.bias[layer.bias + unit + r];
  const A* const w = call.weight + layer.weight + unit * layer.columns;
  if (l == 1)
    accumulate<ROWS, true>(w, layer.columns, 1, block.x, LANES, network.order, k, sums);
  else
    accumulate<ROWS, false>(w, layer.columns, 1, block.row(block.units, network.layer(l - 1), 0), LANES, nullptr,
                            network.seen(l, k), sums);
  A* const h = lanes<A>(sums);
  if (l == 1 && call.offset != nullptr)
    for (int i = 0; i < LANES; i++)
      for (int r = 0; r < ROWS; r++) h[r * LANES + i] += call.offset[block.sample[i] * layer.rows + unit + r];
  if (network.residual && l % 2 == 1) {
    A* const stream = block.row(block.stream, layer, unit);
    const A* const below = l == 1 ? nullptr : block.row(block.stream, network.layer(l - 2), unit);
    if (l > 1)
      for (int i = 0; i < ROWS * LANES; i++) h[i] += below[i];
    std::copy_n(h, ROWS * LANES, stream);
  }
  A* const a = block.row(block.units, layer, unit);
#define GENKERN_CALL(activation) activate_lanes<activation>(h, a, ROWS* LANES)
  GENKERN_BY_ACTIVATION(network.activation, GENKERN_CALL)
#undef GENKERN_CALL
}

template <typename A>
GENKERN_INLINE void compute_element(const Call<A>& call, Block<A>& block, int64_t k) {
  const Network& network = call.network;
  const int64_t d = network.features, dim = network.order[k], last = network.hidden + 1;
  const Layer& layer = network.layer(last);
  constexpr int N = WIDE<A>;
  Vector<A> sums[2 * N];
  for (int p = 0; p < 2; p++)
    for (int v = 0; v < N; v++) sums[p * N + v] = Vector<A>{} + call.bias[layer.bias + p * d + dim];
  accumulate<2, false>(call.weight + layer.weight + dim * layer.columns, d * layer.columns, 1,
                       block.row(block.units, network.layer(last - 1), 0), LANES, nullptr, network.seen(last, k), sums);
  const A* const raw = lanes<A>(sums);
  for (int p = 0; p < 2; p++) std::copy_n(raw + p * LANES, LANES, block.params + (p * d + dim) * LANES);
#define GENKERN_CALL(scale) \
  solve_lanes<scale>(call.transform, block.z + dim * LANES, raw, raw + LANES, block.x + dim * LANES, block.log_det)
  GENKERN_BY_SCALE(call.transform.scale, GENKERN_CALL)
#undef GENKERN_CALL
}

template <typename A>
GENKERN_INLINE void run_forward(const Call<A>& call, Block<A>& block, int64_t number) {
  const Network& network = call.network;
  const int64_t d = network.features, first = number * LANES;
  block.count = std::min(LANES, call.batch - first);
  for (int64_t i = 0; i < LANES; i++) {
    block.sample[i] = first + std::min(i, block.count - 1);
    block.log_det[i] = 0;
    for (int64_t c = 0; c < d; c++) block.z[c * LANES + i] = call.z[block.sample[i] * d + c];
  }
  for (int64_t k = 0; k < d; k++) {
    for (int64_t l = 1; l <= network.hidden; l++) {
      const int64_t end = network.layer(l).starts[k + 1];
      int64_t unit = network.layer(l).starts[k];
      for (; unit + 4 <= end; unit += 4) compute_units<4>(call, block, l, k, unit);
      if (unit + 2 <= end) compute_units<2>(call, block, l, k, unit), unit += 2;
      if (unit < end) compute_units<1>(call, block, l, k, unit);
    }
    compute_element(call, block, k);
  }
}

template <typename A>
GENKERN_INLINE void invert_blocks(const Call<A>& call, const Outputs<A>& outputs, int64_t begin, int64_t end) {
  const int64_t d = call.network.features;
  Block<A> block(call, false);
  for (int64_t number = begin; number < end; number++) {
    run_forward(call, block, number);
    for (int64_t i = 0; i < block.count; i++) {
      for (int64_t c = 0; c < d; c++) outputs.x[block.sample[i] * d + c] = block.x[c * LANES + i];
      outputs.log_det[block.sample[i]] = A(block.log_det[i]);
    }
  }
}

// -- backward ---------------------------------------------------------------------------------------------------------

// Gradients of the units of degree k of layer l: from the layer above, and past it where there is a skip connection.
template <int ROWS, typename A>
GENKERN_INLINE void pull_units(const Call<A>& call, const Block<A>& block, int64_t l, int64_t k, int64_t unit) {
  const Network& network = call.network;
  const Layer &layer = network.layer(l), &above = network.layer(l + 1);
  const int64_t d = network.features;
  constexpr int N = WIDE<A>;
  Vector<A> sums[ROWS * N] = {};
  const A* const w = call.weight + above.weight + unit;
  if (l == network.hidden) {
    for (int p = 0; p < 2; p++)
      accumulate<ROWS, true>(w + p * d * above.columns, 1, above.columns, block.grad_params + p * d * LANES, LANES,
                             network.order + k, d - k, sums);
  } else {
    const int64_t from = above.starts[k];
    accumulate<ROWS, false>(w + from * above.columns, 1, above.columns, block.row(block.grad_units, above, from), LANES,
                            nullptr, above.rows - from, sums);
  }
  A* const g = lanes<A>(sums);
  const A* const a = block.row(block.units, layer, unit);
#define GENKERN_CALL(activation) slope_lanes<activation>(a, g, ROWS* LANES)
  GENKERN_BY_ACTIVATION(network.activation, GENKERN_CALL)
#undef GENKERN_CALL
  if (network.residual && l % 2 == 1 && l + 2 <= network.hidden) {
    const A* const skip = block.row(block.grad_units, network.layer(l + 2), unit);
    for (int i = 0; i < ROWS * LANES; i++) g[i] += skip[i];
  }
  std::copy_n(g, ROWS * LANES, block.row(block.grad_units, layer, unit));
}

template <typename A>
GENKERN_INLINE void pull_element(const Call<A>& call, const Block<A>& block, int64_t k) {
  const Network& network = call.network;
  const Layer& first = network.layer(1);
  const int64_t d = network.features, dim = network.order[k], from = first.starts[k + 1];
  A* const g = block.grad_x + dim * LANES;
  accumulate<1, false>(call.weight + first.weight + from * d + dim, 0, d, block.row(block.grad_units, first, from),
                       LANES, nullptr, first.rows - from, reinterpret_cast<Vector<A>*>(g));
  A *const s = block.params + dim * LANES, *const grad_s = block.grad_params + dim * LANES;
#define GENKERN_CALL(scale)                                                                                      \
  pull_back_lanes<scale>(call.transform, block.z + dim * LANES, block.x + dim * LANES, s, s + d * LANES, \
                         block.grad_log_det, g, grad_s, grad_s + d * LANES)
  GENKERN_BY_SCALE(call.transform.scale, GENKERN_CALL)
#undef GENKERN_CALL
}

template <typename A>
GENKERN_INLINE void run_backward(const Backward<A>& backward, Block<A>& block) {
  const Network& network = backward.call.network;
  const int64_t d = network.features;
  for (int64_t i = 0; i < LANES; i++) {
    const bool real = i < block.count;
    block.grad_log_det[i] = real ? backward.grad_log_det[block.sample[i]] : A(0);
    for (int64_t c = 0; c < d; c++)
      block.grad_x[c * LANES + i] = real ? backward.grad_x[block.sample[i] * d + c] : A(0);
  }
  for (int64_t k = d - 1; k >= 0; k--) {
    pull_element(backward.call, block, k);
    for (int64_t l = network.hidden; l >= 1; l--) {
      const int64_t end = network.layer(l).starts[k + 1];
      int64_t unit = network.layer(l).starts[k];
      for (; unit + 4 <= end; unit += 4) pull_units<4>(backward.call, block, l, k, unit);
      if (unit + 2 <= end) pull_units<2>(backward.call, block, l, k, unit), unit += 2;
      if (unit < end) pull_units<1>(backward.call, block, l, k, unit);
    }
  }
}

// [rows, LANES] to [LANES, padded rows], the rows in the order of an index.
template <typename A>
GENKERN_INLINE A* transpose(const A* from, const int64_t* index, int64_t rows, A* to) {
  const int64_t width = padded(rows);
  for (int64_t i = 0; i < LANES; i++) {
    for (int64_t r = 0; r < rows; r++) to[i * width + r] = from[(index == nullptr ? r : index[r]) * LANES + i];
    std::fill(to + i * width + rows, to + (i + 1) * width, A(0));
  }
  return to + LANES * width;
}

template <typename A>
GENKERN_INLINE void pull_back_range(const Backward<A>& backward, const Records<A>& records, int64_t first,
                                    int64_t begin, int64_t end) {
  const Network& network = backward.call.network;
  const int64_t d = network.features, top = network.layer(1).rows;
  Block<A> block(backward.call, true);
  for (int64_t number = begin; number < end; number++) {
    run_forward(backward.call, block, number);
    run_backward(backward, block);
    for (int64_t i = 0; i < block.count; i++) {
      const int64_t sample = block.sample[i];
      if (backward.grad_z != nullptr)
        for (int64_t c = 0; c < d; c++) backward.grad_z[sample * d + c] = block.grad_x[c * LANES + i];
      if (backward.grad_offset != nullptr)
        for (int64_t u = 0; u < top; u++) backward.grad_offset[sample * top + u] = block.grad_units[u * LANES + i];
    }
    if (records.values == nullptr) continue;
    A* values = records.values + (number - first) * records.value_size;
    values = transpose<A>(block.x, network.order, d, values);
    for (int64_t l = 1; l <= network.hidden; l++)
      values = transpose<A>(block.row(block.units, network.layer(l), 0), nullptr, network.layer(l).rows, values);
    A* const gradients = records.gradients + (number - first) * records.gradient_size;
    std::copy_n(block.grad_units, network.units * LANES, gradients);
    std::copy_n(block.grad_params, 2 * d * LANES, gradients + network.units * LANES);
  }
}

// Gradients of ROWS rows of weights that read the first n columns: sums over samples within a block, then over blocks.
template <int ROWS, typename A>
GENKERN_INLINE void add_rows(const Records<A>& records, int64_t blocks, int64_t gradients_at, int64_t row_stride,
                             int64_t values_at, int64_t width, const int64_t* index, int64_t n, A* grad_weight,
                             int64_t weight_stride, A* grad_bias, int64_t bias_stride) {
  constexpr int N = WIDE<A>;
  for (int64_t column = 0; column < n; column += LANES) {
    Vector<A> total[ROWS * N] = {};
    for (int64_t b = 0; b < blocks; b++) {
      Vector<A> sums[ROWS * N] = {};
      accumulate<ROWS, false>(records.gradients + b * records.gradient_size + gradients_at, row_stride, 1,
                              records.values + b * records.value_size + values_at + column, width, nullptr, LANES,
                              sums);
      for (int i = 0; i < ROWS * N; i++) total[i] += sums[i];
    }
    const A* const found = lanes<A>(total);
    for (int r = 0; r < ROWS; r++)
      for (int64_t i = 0; i < std::min(LANES, n - column); i++)
        grad_weight[r * weight_stride + (index == nullptr ? column + i : index[column + i])] += found[r * LANES + i];
  }
  for (int r = 0; r < ROWS; r++) {
    A total = 0;
    for (int64_t b = 0; b < blocks; b++) {
      const A* const g = records.gradients + b * records.gradient_size + gradients_at + r * row_stride;
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < LANES; i++) sum += g[i];
      total += sum;
    }
    grad_bias[r * bias_stride] += total;
  }
}

// Tasks are steps, the cheap first ones next to the dear last ones.
template <typename A>
GENKERN_INLINE void add_range(const Backward<A>& backward, const Records<A>& records, int64_t blocks, int64_t begin,
                              int64_t end) {
  const Network& network = backward.call.network;
  const int64_t d = network.features;
  for (int64_t task = begin; task < end; task++) {
    const int64_t k = task % 2 == 0 ? task / 2 : d - 1 - task / 2;
    int64_t values_at = 0;
    for (int64_t l = 1; l <= network.hidden + 1; l++) {
      const Layer& layer = network.layer(l);
      const int64_t n = network.seen(l, k), width = padded(layer.columns), c = layer.columns;
      const int64_t* const index = l == 1 ? network.order : nullptr;
      A* const weight = backward.grad_weight + layer.weight;
      A* const bias = backward.grad_bias + layer.bias;
      if (l > network.hidden) {
        const int64_t dim = network.order[k];
        add_rows<2>(records, blocks, (layer.level + dim) * LANES, d * LANES, values_at, width, index, n,
                    weight + dim * c, d * c, bias + dim, d);
      } else {
        int64_t row = layer.starts[k];
        const int64_t last = layer.starts[k + 1];
        for (; row + 4 <= last; row += 4)
          add_rows<4>(records, blocks, (layer.level + row) * LANES, LANES, values_at, width, index, n, weight + row * c,
                      c, bias + row, 1);
        for (; row < last; row++)
          add_rows<1>(records, blocks, (layer.level + row) * LANES, LANES, values_at, width, index, n, weight + row * c,
                      c, bias + row, 1);
      }
      values_at += LANES * width;
    }
  }
}

// Float32 loops are cloned for each instruction set; float64 ones exist for exactness, not for speed.
#define GENKERN_DEFINE(A, CLONES)                                                                                   \
  CLONES void invert_##A(const Call<A>& call, const Outputs<A>& outputs, int64_t begin, int64_t end) {              \
    invert_blocks(call, outputs, begin, end);                                                                       \
  }                                                                                                                 \
  CLONES void pull_back_##A(const Backward<A>& backward, const Records<A>& records, int64_t first, int64_t begin,   \
                            int64_t end) {                                                                          \
    pull_back_range(backward, records, first, begin, end);                                                          \
  }                                                                                                                 \
  CLONES void add_##A(const Backward<A>& backward, const Records<A>& records, int64_t blocks, int64_t begin,        \
                      int64_t end) {                                                                                \
    add_range(backward, records, blocks, begin, end);                                                               \
  }
GENKERN_DEFINE(float, GENKERN_CLONES)
GENKERN_DEFINE(double, )

}  // namespace

#define GENKERN_EXPORT(A)                                                                                           \
  template <>                                                                                                       \
  void invert(const Call<A>& call, const Outputs<A>& outputs, int64_t begin, int64_t end) {                         \
    invert_##A(call, outputs, begin, end);                                                                          \
  }                                                                                                                 \
  template <>                                                                                                       \
  void pull_back_blocks(const Backward<A>& backward, const Records<A>& records, int64_t first, int64_t begin,       \
                        int64_t end) {                                                                              \
    pull_back_##A(backward, records, first, begin, end);                                                            \
  }                                                                                                                 \
  template <>                                                                                                       \
  void add_parameters(const Backward<A>& backward, const Records<A>& records, int64_t blocks, int64_t begin,        \
                      int64_t end) {                                                                                \
    add_##A(backward, records, blocks, begin, end);                                                                 \
  }
GENKERN_EXPORT(float)
GENKERN_EXPORT(double)

}  // namespace genkern::made_inverse
