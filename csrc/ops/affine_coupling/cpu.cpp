#include <algorithm>
#include <type_traits>

#include "affine_coupling.h"

namespace genkern::affine_coupling {
namespace {

constexpr int LANES = 32;           // elements a block, each with accumulators of its own
constexpr int BLOCKS_PER_LOG = 96;  // 1 + excess <= 2: the product of this many stays below 2^96
constexpr int STAGE = 16 * LANES;   // elements that are widened, masked or padded at a time

template <typename A>
struct Sums {
  A linear[LANES] = {};
  A excess[LANES] = {};  // prod (1 + e) - 1
};

template <Scale scale, bool inverse, typename A>
GENKERN_INLINE double forward_loop(const A* __restrict x, const A* __restrict s, const A* __restrict t, A* __restrict y,
                                   int64_t blocks, A bound) {
  double total = 0;
  for (int64_t first = 0; first < blocks; first += BLOCKS_PER_LOG) {
    Sums<A> sums;
    const int64_t last = std::min<int64_t>(first + BLOCKS_PER_LOG, blocks);
    for (int64_t i = first * LANES; i < last * LANES; i += LANES) {
#pragma omp simd
      for (int j = 0; j < LANES; j++) {
        const Scaling<A> c = scaling<scale>(scale == Scale::none ? A(0) : s[i + j], bound);
        y[i + j] = inverse ? (x[i + j] - t[i + j]) * c.inverse : x[i + j] * c.sigma + t[i + j];
        if constexpr (scale != Scale::none) sums.linear[j] += c.linear;
        if constexpr (scale == Scale::sigmoid) sums.excess[j] += c.excess + sums.excess[j] * c.excess;
      }
    }
    if constexpr (scale != Scale::none) {
      if constexpr (scale == Scale::sigmoid) {
#pragma omp simd
        for (int j = 0; j < LANES; j++) sums.linear[j] -= log1p_nonnegative(sums.excess[j]);
      }
      for (int width = LANES / 2; width > 0; width /= 2)  // pairwise
        for (int j = 0; j < width; j++) sums.linear[j] += sums.linear[j + width];
      total += sums.linear[0];
    }
  }
  return inverse ? -total : total;
}

template <Scale scale, bool inverse, typename A>
GENKERN_INLINE void backward_loop(const A* __restrict grad_y, A grad_log_det, const A* __restrict x,
                                  const A* __restrict s, const A* __restrict t, A* __restrict grad_x,
                                  A* __restrict grad_s, A* __restrict grad_t, int64_t n, A bound) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const Scaling<A> c = scaling<scale>(scale == Scale::none ? A(0) : s[i], bound);
    const A g = grad_y[i];
    if constexpr (inverse) {
      const A gx = g * c.inverse;
      grad_x[i] = gx;
      grad_t[i] = -gx;
      if constexpr (scale != Scale::none) grad_s[i] = -(gx * (x[i] - t[i]) + grad_log_det) * c.slope;
    } else {
      const A gx = g * c.sigma;
      grad_x[i] = gx;
      grad_t[i] = g;
      if constexpr (scale != Scale::none) grad_s[i] = (gx * x[i] + grad_log_det) * c.slope;
    }
  }
}

// Float32 loops are cloned for each instruction set; float64 ones exist for exactness, not for speed.
#define GENKERN_DEFINE(A, CLONES, S, I)                                                                         \
  CLONES double forward_##A##_##S##_##I(const A* x, const A* s, const A* t, A* y, int64_t blocks, A bound) {    \
    return forward_loop<Scale::S, I, A>(x, s, t, y, blocks, bound);                                             \
  }                                                                                                             \
  CLONES void backward_##A##_##S##_##I(const A* grad_y, A grad_log_det, const A* x, const A* s, const A* t,     \
                                       A* grad_x, A* grad_s, A* grad_t, int64_t n, A bound) {                   \
    backward_loop<Scale::S, I, A>(grad_y, grad_log_det, x, s, t, grad_x, grad_s, grad_t, n, bound);             \
  }
#define GENKERN_DEFINE_SCALES(A, CLONES)                                                        \
  GENKERN_DEFINE(A, CLONES, exp, false) GENKERN_DEFINE(A, CLONES, exp, true)                    \
  GENKERN_DEFINE(A, CLONES, tanh, false) GENKERN_DEFINE(A, CLONES, tanh, true)                  \
  GENKERN_DEFINE(A, CLONES, sigmoid, false) GENKERN_DEFINE(A, CLONES, sigmoid, true)            \
  GENKERN_DEFINE(A, CLONES, none, false) GENKERN_DEFINE(A, CLONES, none, true)
GENKERN_DEFINE_SCALES(float, GENKERN_CLONES)
GENKERN_DEFINE_SCALES(double, )

template <typename A>
using ForwardLoop = double (*)(const A*, const A*, const A*, A*, int64_t, A);
template <typename A>
using BackwardLoop = void (*)(const A*, A, const A*, const A*, const A*, A*, A*, A*, int64_t, A);

#define GENKERN_TABLE(A, D)                                                             \
  {{D##_##A##_exp_false, D##_##A##_exp_true}, {D##_##A##_tanh_false, D##_##A##_tanh_true}, \
   {D##_##A##_sigmoid_false, D##_##A##_sigmoid_true}, {D##_##A##_none_false, D##_##A##_none_true}}

// Plain statics: no guard is checked at every call. The addresses are those of the clones' resolvers.
ForwardLoop<float> const forward_float[4][2] = GENKERN_TABLE(float, forward);
ForwardLoop<double> const forward_double[4][2] = GENKERN_TABLE(double, forward);
BackwardLoop<float> const backward_float[4][2] = GENKERN_TABLE(float, backward);
BackwardLoop<double> const backward_double[4][2] = GENKERN_TABLE(double, backward);

ForwardLoop<float> forward_loop_for(Scale scale, bool inverse, float) { return forward_float[int(scale)][inverse]; }
ForwardLoop<double> forward_loop_for(Scale scale, bool inverse, double) { return forward_double[int(scale)][inverse]; }
BackwardLoop<float> backward_loop_for(Scale scale, bool inverse, float) { return backward_float[int(scale)][inverse]; }
BackwardLoop<double> backward_loop_for(Scale scale, bool inverse, double) {
  return backward_double[int(scale)][inverse];
}

// Widens n elements, or zeros where there is no source.
template <typename T, typename A>
GENKERN_INLINE void widen(const T* from, int64_t n, A* to) {
  for (int64_t i = 0; i < n; i++) to[i] = load(from[i]);
}
template <typename T, typename A>
GENKERN_INLINE void narrow(const A* from, int64_t n, T* to) {
  for (int64_t i = 0; i < n; i++) to[i] = store<T>(from[i]);
}

// One run of contiguous elements; returns the sum of l over it. Whole blocks in the arithmetic type are read in
// place; the rest goes through a stage that widens, masks and pads.
template <typename T, typename A = arithmetic_t<T>>
double forward_run(const Forward& call, const T* x, const T* s, const T* t, T* y) {
  const ForwardLoop<A> loop = forward_loop_for(call.scale, call.inverse, A(0));
  const A pad = call.scale == Scale::sigmoid ? neutral<Scale::sigmoid, A> : A(0);
  const A bound = A(call.bound);
  const int64_t n = call.shape.length;
  double total = 0;
  int64_t i = 0;
  if constexpr (std::is_same_v<T, A>) {
    if (call.mask == nullptr) {
      i = n - n % LANES;
      total = loop(x, s, t, y, n / LANES, bound);
    }
  }
  for (; i < n; i += STAGE) {
    A xs[STAGE], ss[STAGE], ts[STAGE], ys[STAGE];
    const int64_t count = std::min<int64_t>(STAGE, n - i), blocks = (count + LANES - 1) / LANES;
    std::fill(xs + count, xs + blocks * LANES, A(0));
    std::fill(ts + count, ts + blocks * LANES, A(0));
    std::fill(ss + count, ss + blocks * LANES, pad);
    widen(x + i, count, xs);
    widen(t + i, count, ts);
    if (call.scale != Scale::none) widen(s + i, count, ss);
    if (call.mask != nullptr) {
      const uint8_t* mask = call.mask + i;
      for (int64_t j = 0; j < count; j++) ss[j] = mask[j] ? pad : ss[j], ts[j] = mask[j] ? A(0) : ts[j];
    }
    total += loop(xs, ss, ts, ys, blocks, bound);
    narrow(ys, count, y + i);
  }
  return total;
}

template <typename T, typename A = arithmetic_t<T>>
void backward_run(const Backward& call, A grad_log_det, const T* grad_y, const T* x, const T* s, const T* t, T* grad_x,
                  T* grad_s, T* grad_t) {
  const BackwardLoop<A> loop = backward_loop_for(call.scale, call.inverse, A(0));
  const A pad = call.scale == Scale::sigmoid ? neutral<Scale::sigmoid, A> : A(0);
  const A bound = A(call.bound);
  const int64_t n = call.shape.length;
  if constexpr (std::is_same_v<T, A>) {
    if (call.mask == nullptr) return loop(grad_y, grad_log_det, x, s, t, grad_x, grad_s, grad_t, n, bound);
  }
  for (int64_t i = 0; i < n; i += STAGE) {
    A gys[STAGE], xs[STAGE], ss[STAGE], ts[STAGE], gxs[STAGE], gss[STAGE], gts[STAGE];
    const int64_t count = std::min<int64_t>(STAGE, n - i);
    widen(grad_y + i, count, gys);
    widen(x + i, count, xs);
    widen(t + i, count, ts);
    if (call.scale != Scale::none) widen(s + i, count, ss);
    const uint8_t* mask = call.mask == nullptr ? nullptr : call.mask + i;
    if (mask != nullptr)
      for (int64_t j = 0; j < count; j++) ss[j] = mask[j] ? pad : ss[j], ts[j] = mask[j] ? A(0) : ts[j];
    loop(gys, grad_log_det, xs, ss, ts, gxs, gss, gts, count, bound);
    if (mask != nullptr)
      for (int64_t j = 0; j < count; j++) gss[j] = mask[j] ? A(0) : gss[j], gts[j] = mask[j] ? A(0) : gts[j];
    narrow(gxs, count, grad_x + i);
    narrow(gts, count, grad_t + i);
    if (call.scale != Scale::none) narrow(gss, count, grad_s + i);
  }
}

}  // namespace

template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end) {
  const Shape& shape = call.shape;
  for (int64_t b = begin; b < end; b++) {
    double total = 0;
    for (int64_t r = 0; r < shape.rows; r++) {
      const int64_t at = b * shape.x_batch + r * shape.x_row, from = b * shape.p_batch + r * shape.p_row;
      const T* x = static_cast<const T*>(call.x) + at;
      const T* params = static_cast<const T*>(call.params) + from;
      T* y = static_cast<T*>(call.y) + at;
      if (r < shape.passive_rows) std::copy_n(x + shape.x_passive, shape.passive_length, y + shape.x_passive);
      total +=
          forward_run(call, x + shape.x_active, params + shape.p_scale, params + shape.p_shift, y + shape.x_active);
    }
    static_cast<arithmetic_t<T>*>(call.log_det)[b] = arithmetic_t<T>(total);
  }
}

template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end) {
  const Shape& shape = call.shape;
  for (int64_t b = begin; b < end; b++) {
    for (int64_t r = 0; r < shape.rows; r++) {
      const int64_t at = b * shape.x_batch + r * shape.x_row, from = b * shape.p_batch + r * shape.p_row;
      const T* grad_y = static_cast<const T*>(call.grad_y) + at;
      const T* x = static_cast<const T*>(call.x) + at;
      const T* params = static_cast<const T*>(call.params) + from;
      T* grad_x = static_cast<T*>(call.grad_x) + at;
      T* grad_params = static_cast<T*>(call.grad_params) + from;
      if (r < shape.passive_rows) std::copy_n(grad_y + shape.x_passive, shape.passive_length, grad_x + shape.x_passive);
      backward_run(call, static_cast<const arithmetic_t<T>*>(call.grad_log_det)[b], grad_y + shape.x_active,
                   x + shape.x_active, params + shape.p_scale, params + shape.p_shift, grad_x + shape.x_active,
                   grad_params + shape.p_scale, grad_params + shape.p_shift);
    }
  }
}

template void forward<float>(const Forward&, int64_t, int64_t);
template void forward<double>(const Forward&, int64_t, int64_t);
template void forward<Half>(const Forward&, int64_t, int64_t);
template void forward<BFloat16>(const Forward&, int64_t, int64_t);
template void backward<float>(const Backward&, int64_t, int64_t);
template void backward<double>(const Backward&, int64_t, int64_t);
template void backward<Half>(const Backward&, int64_t, int64_t);
template void backward<BFloat16>(const Backward&, int64_t, int64_t);

}  // namespace genkern::affine_coupling
