#include "radial.h"

namespace genkern::radial {
namespace {

// The scalars of LANES samples: both radii and both parameters.
template <typename A>
struct Block {
  Lanes<A> r_in, r, a, a_slope, b, c, c_slope;
};

// Both parameters of all samples, in float64, once for many blocks.
struct Shared {
  Positive<double> a, c;
};

template <typename T, typename Call>
Shared shared_parameters(const Call& call) {
  if (!call.shared) return {};
  return {positive(double(load(*static_cast<const T*>(call.raw_a)))),
          positive(double(load(*static_cast<const T*>(call.raw_b))))};
}

template <typename T, typename A, typename Size, typename Row>
GENKERN_INLINE void prepare(Block<A>& block, const Shared& parameters, bool inverse, int64_t count, Size size, Row row,
                            const T* __restrict x, const T* __restrict center, const T* __restrict raw_a,
                            const T* __restrict raw_b) {
  const bool shared = row == 0;
  sums(count, size, block.r_in, [&](int64_t j, int64_t d) {
    const A away = load(x[j * size + d]) - load(center[j * row + d]);
    return away * away;
  });
  if (shared) {
    const Positive<double>&a = parameters.a, &c = parameters.c;
    for (int64_t j = 0; j < count; j++) {
      block.a[j] = A(a.value), block.a_slope[j] = A(a.slope), block.b[j] = A(c.value - a.value);
      block.c[j] = A(c.value), block.c_slope[j] = A(c.slope);
    }
  } else {
#pragma omp simd
    for (int64_t j = 0; j < count; j++) {
      const Positive<A> a = positive(load(raw_a[j])), c = positive(load(raw_b[j]));
      block.a[j] = a.value, block.a_slope[j] = a.slope, block.b[j] = c.value - a.value;
      block.c[j] = c.value, block.c_slope[j] = c.slope;
    }
  }
#pragma omp simd
  for (int64_t j = 0; j < count; j++) {
    block.r_in[j] = root_of(block.r_in[j]);
    const A before = radius_before(block.r_in[j], block.a[j], block.c[j]);
    block.r[j] = inverse ? before : block.r_in[j];
  }
}

template <typename T, typename Size, typename Row, typename A = arithmetic_t<T>>
GENKERN_INLINE void forward_loop(const Forward& call, Size size, Row row, int64_t begin, int64_t end) {
  const Shared parameters = shared_parameters<T>(call);
  for (int64_t first = begin; first < end; first += LANES) {
    const int64_t count = std::min<int64_t>(LANES, end - first), from = call.shared ? 0 : first;
    const T* __restrict x = static_cast<const T*>(call.x) + first * size;
    const T* __restrict center = static_cast<const T*>(call.center) + from * size;
    T* __restrict y = static_cast<T*>(call.y) + first * size;
    A* __restrict log_det = static_cast<A*>(call.log_det) + first;
    Block<A> block;
    prepare(block, parameters, call.inverse, count, size, row, x, center, static_cast<const T*>(call.raw_a) + from,
            static_cast<const T*>(call.raw_b) + from);
    Lanes<A> step;
#pragma omp simd
    for (int64_t j = 0; j < count; j++) {
      const Map<A> map = map_at(block.r[j], block.a[j], block.b[j], block.c[j], A(size));
      log_det[j] = call.inverse ? -map.log_det : map.log_det;
      step[j] = call.inverse ? map.push : map.pull;
    }
    each(count, size, [&](int64_t j, int64_t d) {
      const A value = load(x[j * size + d]);
      y[j * size + d] = store<T>(value + step[j] * (value - load(center[j * row + d])));
    });
  }
}

template <typename T, typename Size, typename Row, typename A = arithmetic_t<T>>
GENKERN_INLINE void backward_loop(const Backward& call, Size size, Row row, int64_t begin, int64_t end) {
  double* partial = call.shared ? call.partial + begin / PER_UNIT * partial_width(size) : nullptr;
  const Shared parameters = shared_parameters<T>(call);
  for (int64_t first = begin; first < end; first += LANES) {
    const int64_t count = std::min<int64_t>(LANES, end - first), from = call.shared ? 0 : first;
    const T* __restrict x = static_cast<const T*>(call.x) + first * size;
    const T* __restrict g = static_cast<const T*>(call.grad_y) + first * size;
    const T* __restrict center = static_cast<const T*>(call.center) + from * size;
    T* __restrict grad_x = static_cast<T*>(call.grad_x) + first * size;
    const A* __restrict g_log_det = static_cast<const A*>(call.grad_log_det) + first;
    Block<A> block;
    prepare(block, parameters, call.inverse, count, size, row, x, center, static_cast<const T*>(call.raw_a) + from,
            static_cast<const T*>(call.raw_b) + from);
    Lanes<A> dot, excess, along;
    Lanes<double> g_raw_a, g_raw_b;
    sums(count, size, dot, [&](int64_t j, int64_t d) {
      return load(g[j * size + d]) * (load(x[j * size + d]) - load(center[j * row + d]));
    });
#pragma omp simd
    for (int64_t j = 0; j < count; j++) {
      // float64: the sums over samples that follow cancel
      const Positive<double> a{block.a[j], block.a_slope[j]}, c{block.c[j], block.c_slope[j]};
      const Gradient<double> got = gradient<double>(call.inverse, block.r_in[j], block.r[j], a, block.b[j], c,
                                                    double(size), dot[j], g_log_det[j]);
      excess[j] = A(got.excess), along[j] = A(got.along), g_raw_a[j] = got.g_raw_a, g_raw_b[j] = got.g_raw_b;
    }
    each(count, size, [&](int64_t j, int64_t d) {
      const A away = load(x[j * size + d]) - load(center[j * row + d]);
      grad_x[j * size + d] = store<T>(load(g[j * size + d]) + (excess[j] * load(g[j * size + d]) + along[j] * away));
    });
    const auto of_center = [&](int64_t j, int64_t d) {
      const A away = load(x[j * size + d]) - load(center[j * row + d]);
      return -(excess[j] * load(g[j * size + d]) + along[j] * away);
    };
    if (call.shared) {
      column_sums<A>(count, size, partial, of_center);
      partial[size] += lane_sum(count, g_raw_a);
      partial[size + 1] += lane_sum(count, g_raw_b);
    } else {
      T* __restrict grad_center = static_cast<T*>(call.grad_center) + first * size;
      each(count, size, [&](int64_t j, int64_t d) { grad_center[j * size + d] = store<T>(of_center(j, d)); });
      for (int64_t j = 0; j < count; j++) {
        static_cast<T*>(call.grad_raw_a)[first + j] = store<T>(A(g_raw_a[j]));
        static_cast<T*>(call.grad_raw_b)[first + j] = store<T>(A(g_raw_b[j]));
      }
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
  for (int64_t d = 0; d < call.size; d++) static_cast<T*>(call.grad_center)[d] = store<T>(A(total[d]));
  *static_cast<T*>(call.grad_raw_a) = store<T>(A(total[call.size]));
  *static_cast<T*>(call.grad_raw_b) = store<T>(A(total[call.size + 1]));
}

#define GENKERN_INSTANTIATE(T)                                   \
  template void forward<T>(const Forward&, int64_t, int64_t);    \
  template void backward<T>(const Backward&, int64_t, int64_t);  \
  template void finish<T>(const Backward&, const double*);
GENKERN_INSTANTIATE(float)
GENKERN_INSTANTIATE(double)
GENKERN_INSTANTIATE(Half)
GENKERN_INSTANTIATE(BFloat16)

}  // namespace genkern::radial
