#include "planar.h"

namespace genkern::planar {
namespace {

// The scalars of LANES samples, up to v = w.x + b and what it gives.
template <typename A>
struct Block {
  Lanes<A> alpha, k, s, s_a, s_n, k_a, k_n, t, slope, det;
};

template <typename T>
Shape<double> shared_shape(const T* u, const T* w, int64_t size) {
  double a = 0, n = 0;
  for (int64_t d = 0; d < size; d++) a += double(load(u[d])) * load(w[d]), n += double(load(w[d])) * load(w[d]);
  return shape_of(a, n);
}

// What u and w of all samples give, once for many blocks.
template <typename T, typename Call>
Shape<double> shared_shape(const Call& call) {
  if (!call.shared) return {};
  return shared_shape(static_cast<const T*>(call.u), static_cast<const T*>(call.w), call.size);
}

template <typename T, typename A, typename Size, typename Row>
GENKERN_INLINE void prepare(Block<A>& block, const Shape<double>& shape, bool inverse, int64_t count, Size size,
                            Row row, const T* __restrict x, const T* __restrict u, const T* __restrict w,
                            const T* __restrict b) {
  const bool shared = row == 0;
  sums(count, size, block.alpha, [&](int64_t j, int64_t d) { return load(x[j * size + d]) * load(w[j * row + d]); });
  if (shared) {
    for (int64_t j = 0; j < count; j++) {
      block.k[j] = A(shape.k), block.s[j] = A(shape.s);
      block.s_a[j] = A(shape.s_a), block.s_n[j] = A(shape.s_n), block.k_a[j] = A(shape.k_a),
      block.k_n[j] = A(shape.k_n);
    }
  } else {
    Lanes<A> a, n;
    sums(count, size, a, [&](int64_t j, int64_t d) { return load(u[j * row + d]) * load(w[j * row + d]); });
    sums(count, size, n, [&](int64_t j, int64_t d) { return load(w[j * row + d]) * load(w[j * row + d]); });
#pragma omp simd
    for (int64_t j = 0; j < count; j++) {
      const Shape<A> shape = shape_of(a[j], n[j]);
      block.k[j] = shape.k, block.s[j] = shape.s;
      block.s_a[j] = shape.s_a, block.s_n[j] = shape.s_n, block.k_a[j] = shape.k_a, block.k_n[j] = shape.k_n;
    }
  }
  for (int64_t j = 0; j < count; j++) block.alpha[j] += load(b[shared ? 0 : j]);
  Lanes<A> v;
  if (inverse) {
    Lanes<A> low, high;
#pragma omp simd
    for (int64_t j = 0; j < count; j++) {
      const Bracket<A> start = bracket_of(block.alpha[j], block.s[j]);
      low[j] = start.low, high[j] = start.high, v[j] = start.v;
    }
    for (int step = 0; step < STEPS; step++) {
#pragma omp simd
      for (int64_t j = 0; j < count; j++) {
        Bracket<A> at{low[j], high[j], v[j]};
        newton_step(absolute(block.alpha[j]), block.s[j], &at);
        low[j] = at.low, high[j] = at.high, v[j] = at.v;
      }
    }
#pragma omp simd
    for (int64_t j = 0; j < count; j++) v[j] = block.alpha[j] < A(0) ? -v[j] : v[j];
  } else {
    for (int64_t j = 0; j < count; j++) v[j] = block.alpha[j];
  }
#pragma omp simd
  for (int64_t j = 0; j < count; j++) {
    const Bend<A> c = bend(v[j], block.s[j]);
    block.t[j] = c.t, block.slope[j] = c.slope, block.det[j] = c.det;
  }
}

template <typename T, typename Size, typename Row, typename A = arithmetic_t<T>>
GENKERN_INLINE void forward_loop(const Forward& call, Size size, Row row, int64_t begin, int64_t end) {
  const Shape<double> shape = shared_shape<T>(call);
  for (int64_t first = begin; first < end; first += LANES) {
    const int64_t count = std::min<int64_t>(LANES, end - first), from = call.shared ? 0 : first;
    const T* __restrict x = static_cast<const T*>(call.x) + first * size;
    const T* __restrict u = static_cast<const T*>(call.u) + from * size;
    const T* __restrict w = static_cast<const T*>(call.w) + from * size;
    T* __restrict y = static_cast<T*>(call.y) + first * size;
    A* __restrict log_det = static_cast<A*>(call.log_det) + first;
    Block<A> block;
    prepare(block, shape, call.inverse, count, size, row, x, u, w, static_cast<const T*>(call.b) + from);
    Lanes<A> c;
#pragma omp simd
    for (int64_t j = 0; j < count; j++) {
      const A q = block.slope[j] * (block.s[j] - A(1)), half = A(-0.5);
      const A l = q > half ? log1p_bounded(q > half ? q : half) : log_positive(block.det[j]);
      log_det[j] = call.inverse ? -l : l;
      c[j] = call.inverse ? -block.t[j] : block.t[j];
    }
    const A* __restrict k = block.k;
    each(count, size, [&](int64_t j, int64_t d) {
      y[j * size + d] = store<T>(load(x[j * size + d]) + c[j] * (load(u[j * row + d]) + k[j] * load(w[j * row + d])));
    });
  }
}

template <typename T, typename Size, typename Row, typename A = arithmetic_t<T>>
GENKERN_INLINE void backward_loop(const Backward& call, Size size, Row row, int64_t begin, int64_t end) {
  double* partial = call.shared ? call.partial + begin / PER_UNIT * partial_width(size) : nullptr;
  const Shape<double> shape = shared_shape<T>(call);
  for (int64_t first = begin; first < end; first += LANES) {
    const int64_t count = std::min<int64_t>(LANES, end - first), from = call.shared ? 0 : first;
    const T* __restrict x = static_cast<const T*>(call.x) + first * size;
    const T* __restrict g = static_cast<const T*>(call.grad_y) + first * size;
    const T* __restrict u = static_cast<const T*>(call.u) + from * size;
    const T* __restrict w = static_cast<const T*>(call.w) + from * size;
    T* __restrict grad_x = static_cast<T*>(call.grad_x) + first * size;
    const A* __restrict g_log_det = static_cast<const A*>(call.grad_log_det) + first;
    Block<A> block;
    prepare(block, shape, call.inverse, count, size, row, x, u, w, static_cast<const T*>(call.b) + from);
    Lanes<A> gu, gw, c, g_alpha, g_a, g_n, g_b;
    sums(count, size, gu, [&](int64_t j, int64_t d) { return load(g[j * size + d]) * load(u[j * row + d]); });
    sums(count, size, gw, [&](int64_t j, int64_t d) { return load(g[j * size + d]) * load(w[j * row + d]); });
#pragma omp simd
    for (int64_t j = 0; j < count; j++) {
      const A t = block.t[j], s = block.s[j], over = A(1) / block.det[j];
      const A by_v = block.slope[j] * (gu[j] + block.k[j] * gw[j]) +
                     g_log_det[j] * (A(2) * t * block.slope[j] * (A(1) - s) * over);
      const A by_s = g_log_det[j] * block.slope[j] * over;
      c[j] = call.inverse ? -t : t;
      g_alpha[j] = call.inverse ? -by_v * over : by_v;
      const A g_s = call.inverse ? by_v * over * t - by_s : by_s;
      const A g_k = c[j] * gw[j];
      g_a[j] = g_k * block.k_a[j] + g_s * block.s_a[j];
      g_n[j] = A(2) * (g_k * block.k_n[j] + g_s * block.s_n[j]);
      g_b[j] = g_alpha[j];
    }
    each(count, size, [&](int64_t j, int64_t d) {
      grad_x[j * size + d] = store<T>(load(g[j * size + d]) + g_alpha[j] * load(w[j * row + d]));
    });
    if (call.shared) {
      column_sums<A>(count, size, partial, [&](int64_t j, int64_t d) { return c[j] * load(g[j * size + d]); });
      column_sums<A>(count, size, partial + size,
                     [&](int64_t j, int64_t d) { return g_alpha[j] * load(x[j * size + d]); });
      partial[2 * size] += lane_sum(count, g_a);
      partial[2 * size + 1] += lane_sum(count, g_n);
      partial[2 * size + 2] += lane_sum(count, g_b);
    } else {
      T* __restrict grad_u = static_cast<T*>(call.grad_u) + first * size;
      T* __restrict grad_w = static_cast<T*>(call.grad_w) + first * size;
      T* __restrict grad_b = static_cast<T*>(call.grad_b) + first;
      const A* __restrict k = block.k;
      each(count, size, [&](int64_t j, int64_t d) {
        const A gy = c[j] * load(g[j * size + d]);
        const A ud = load(u[j * size + d]), wd = load(w[j * size + d]);
        grad_u[j * size + d] = store<T>(gy + g_a[j] * wd);
        grad_w[j * size + d] = store<T>(k[j] * gy + g_alpha[j] * load(x[j * size + d]) + g_a[j] * ud + g_n[j] * wd);
      });
      for (int64_t j = 0; j < count; j++) grad_b[j] = store<T>(g_b[j]);
    }
  }
}

// Each in a function of its own: in one they would be too much for the inliner, and no longer vectorise.
#define GENKERN_DEFINE(T, CLONES)                                                           \
  CLONES void run(const Forward& call, int64_t begin, int64_t end, const T*) {              \
    forward_loop<T>(call, call.size, call.shared ? 0 : call.size, begin, end);              \
  }                                                                                         \
  CLONES void run(const Backward& call, int64_t begin, int64_t end, const T*) {             \
    backward_loop<T>(call, call.size, call.shared ? 0 : call.size, begin, end);             \
  }                                                                                         \
  CLONES void run_in_the_plane(const Forward& call, int64_t begin, int64_t end, const T*) {  \
    forward_loop<T>(call, Known<2>{}, Known<0>{}, begin, end);                              \
  }                                                                                         \
  CLONES void run_in_the_plane(const Backward& call, int64_t begin, int64_t end, const T*) { \
    backward_loop<T>(call, Known<2>{}, Known<0>{}, begin, end);                             \
  }
GENKERN_DEFINE(float, GENKERN_CLONES)
GENKERN_DEFINE(double, )
GENKERN_DEFINE(Half, GENKERN_CLONES)
GENKERN_DEFINE(BFloat16, GENKERN_CLONES)

template <typename T, typename Call>
void run_samples(const Call& call, int64_t begin, int64_t end) {
  if (call.size == 2 && call.shared)
    run_in_the_plane(call, begin, end, static_cast<const T*>(nullptr));
  else
    run(call, begin, end, static_cast<const T*>(nullptr));
}

}  // namespace

template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end) {
  run_samples<T>(call, begin * PER_UNIT, std::min(end * PER_UNIT, call.batch));
}

template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; unit++)
    run_samples<T>(call, unit * PER_UNIT, std::min((unit + 1) * PER_UNIT, call.batch));
}

template <typename T>
void finish(const Backward& call, const double* total) {
  using A = arithmetic_t<T>;
  const T *u = static_cast<const T*>(call.u), *w = static_cast<const T*>(call.w);
  const double k = shared_shape(u, w, call.size).k, g_a = total[2 * call.size], g_n = total[2 * call.size + 1];
  for (int64_t d = 0; d < call.size; d++) {
    const double ud = load(u[d]), wd = load(w[d]);
    static_cast<T*>(call.grad_u)[d] = store<T>(A(total[d] + g_a * wd));
    static_cast<T*>(call.grad_w)[d] = store<T>(A(k * total[d] + total[call.size + d] + g_a * ud + g_n * wd));
  }
  *static_cast<T*>(call.grad_b) = store<T>(A(total[2 * call.size + 2]));
}

#define GENKERN_INSTANTIATE(T)                                   \
  template void forward<T>(const Forward&, int64_t, int64_t);    \
  template void backward<T>(const Backward&, int64_t, int64_t);  \
  template void finish<T>(const Backward&, const double*);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::planar
