#include <algorithm>
#include <vector>

#include "block.h"

namespace genkern::rational_quadratic_spline {
namespace {

// Where the elements of a block are: what the search leaves behind. Sums of e and positions are float64.
template <typename A>
struct Found {
  int32_t bin[LANES];
  double sum_x[LANES], sum_y[LANES];        // of e
  double scale_x[LANES], scale_y[LANES];    // from e to shares of the interval, beyond the least one
  double before_x[LANES], before_y[LANES];  // of e in the bins to the left
  A own_x[LANES], own_y[LANES];             // e of the bin
  A raw_left[LANES], raw_right[LANES];      // raw slopes at its ends
};

// Both values are read before one is chosen: a load under a condition is what stops g++ from vectorising.
template <typename V>
GENKERN_INLINE V select(bool condition, V yes, V no) {
  return condition ? yes : no;
}

// e = exp(raw - max), and its sum.
template <typename A>
GENKERN_INLINE void exponentials(const A* __restrict raw, int bins, double min_bin, A* __restrict e,
                                 double* __restrict sum, double* __restrict scale) {
  A top[LANES];
#pragma omp simd
  for (int j = 0; j < LANES; j++) top[j] = raw[j];
  for (int k = 1; k < bins; k++) {
#pragma omp simd
    for (int j = 0; j < LANES; j++) {
      const A value = raw[k * LANES + j], before = top[j];
      top[j] = value > before ? value : before;
    }
  }
#pragma omp simd
  for (int j = 0; j < LANES; j++) sum[j] = 0;
  for (int k = 0; k < bins; k++) {
#pragma omp simd
    for (int j = 0; j < LANES; j++) e[k * LANES + j] = exp(raw[k * LANES + j] - top[j]);
#pragma omp simd
    for (int j = 0; j < LANES; j++) sum[j] += double(e[k * LANES + j]);
  }
#pragma omp simd
  for (int j = 0; j < LANES; j++) scale[j] = (1 - bins * min_bin) / sum[j];
}

template <typename A>
GENKERN_INLINE double position_of(A x, double bound, double per_length) {
  const double clipped = std::min(std::max(double(x), -bound), bound);
  return 0.5 + clipped * per_length;
}

// The bin of each position along the axis with exponentials e, and the sum of e to its left.
template <typename A>
GENKERN_INLINE void search(const double* __restrict position, const A* __restrict e, const double* __restrict scale,
                           int bins, double min_bin, int32_t* __restrict bin, double* __restrict before,
                           A* __restrict own) {
  double running[LANES];
#pragma omp simd
  for (int j = 0; j < LANES; j++) {
    running[j] = before[j] = 0;
    own[j] = e[j];
    bin[j] = 0;
  }
  for (int k = 1; k < bins; k++) {
    int32_t reached[LANES];
#pragma omp simd
    for (int j = 0; j < LANES; j++) {
      running[j] += double(e[(k - 1) * LANES + j]);
      const bool beyond = position[j] >= k * min_bin + scale[j] * running[j];
      before[j] = select(beyond, running[j], before[j]);
      reached[j] = beyond;
    }
#pragma omp simd
    for (int j = 0; j < LANES; j++) {
      bin[j] += reached[j];
      own[j] = select(reached[j] != 0, e[k * LANES + j], own[j]);
    }
  }
}

// Sum of e to the left of known bins, and e of the bins. Sums of products: conditions would not be vectorised.
template <typename A>
GENKERN_INLINE void look_up(const int32_t* __restrict bin, const A* __restrict e, int bins, double* __restrict before,
                            A* __restrict own) {
#pragma omp simd
  for (int j = 0; j < LANES; j++) before[j] = 0, own[j] = 0;
  for (int k = 0; k < bins; k++) {
    A term[LANES];
#pragma omp simd
    for (int j = 0; j < LANES; j++) {
      const A value = e[k * LANES + j];
      term[j] = value * A(bin[j] > k);
      own[j] += value * A(bin[j] == k);
    }
#pragma omp simd
    for (int j = 0; j < LANES; j++) before[j] += double(term[j]);
  }
}

template <typename A>
GENKERN_INLINE void find(const Block<A>& block, const Shape& shape, const Options& options, double* __restrict position,
                         Found<A>& found) {
  const int bins = shape.bins;
  exponentials(block.raw, bins, options.min_bin, block.e_x, found.sum_x, found.scale_x);
  exponentials(block.raw + bins * LANES, bins, options.min_bin, block.e_y, found.sum_y, found.scale_y);
  const A* __restrict x = block.x;
  const double per_length = 1 / (2 * options.bound);
#pragma omp simd
  for (int j = 0; j < LANES; j++) position[j] = position_of(x[j], options.bound, per_length);
  if (options.inverse) {
    search(position, block.e_y, found.scale_y, bins, options.min_bin, found.bin, found.before_y, found.own_y);
    look_up(found.bin, block.e_x, bins, found.before_x, found.own_x);
  } else {
    search(position, block.e_x, found.scale_x, bins, options.min_bin, found.bin, found.before_x, found.own_x);
    look_up(found.bin, block.e_y, bins, found.before_y, found.own_y);
  }
  const A* __restrict slopes = block.raw + 2 * bins * LANES;
  const int32_t* __restrict bin = found.bin;
  A* __restrict left = found.raw_left;
  A* __restrict right = found.raw_right;
#pragma omp simd
  for (int j = 0; j < LANES; j++) left[j] = 0, right[j] = 0;
  for (int k = 0; k < bins; k++) {
#pragma omp simd
    for (int j = 0; j < LANES; j++) {
      const A here = A(bin[j] == k);
      left[j] += here * slopes[k * LANES + j];
      right[j] += here * slopes[(k + 1) * LANES + j];
    }
  }
}

// Everything about one element that both passes need.
template <typename A>
struct Element {
  double x_left, y_left, x_right, y_right;  // positions of the knots
  A w, h, ratio, a, b;                      // ratio = w / h
  Slope<A> left, right;
  Place<A> at;
  Curve<A> on;
};

template <bool inverse, typename A>
GENKERN_INLINE Element<A> element(const Found<A>& found, int j, double position, const Shape& shape,
                                  const Options& options) {
  Element<A> o;
  const int k = found.bin[j];
  const double m = options.min_bin, scale_x = found.scale_x[j], scale_y = found.scale_y[j];
  o.x_left = k * m + scale_x * found.before_x[j];
  o.y_left = k * m + scale_y * found.before_y[j];
  const double w = m + scale_x * double(found.own_x[j]), h = m + scale_y * double(found.own_y[j]);
  const bool first = k == 0, last = k == shape.bins - 1;
  o.x_right = last ? 1.0 : o.x_left + w;
  o.y_right = last ? 1.0 : o.y_left + h;
  o.w = A(w);
  o.h = A(h);
  o.ratio = o.w / o.h;
  o.left = slope(found.raw_left[j] + A(options.offset), A(options.min_slope));
  o.right = slope(found.raw_right[j] + A(options.offset), A(options.min_slope));
  const bool fixed_left = first & shape.linear, fixed_right = last & shape.linear;
  o.left = {fixed_left ? A(1) : o.left.value, fixed_left ? A(0) : o.left.derivative};
  o.right = {fixed_right ? A(1) : o.right.value, fixed_right ? A(0) : o.right.derivative};
  o.a = o.left.value * o.ratio;
  o.b = o.right.value * o.ratio;
  const double to_left = position - (inverse ? o.y_left : o.x_left);
  const double to_right = (inverse ? o.y_right : o.x_right) - position;
  const A size = inverse ? o.h : o.w;
  const A t = A(to_left > 0 ? to_left : 0) / size, u = A(to_right > 0 ? to_right : 0) / size;
  o.at = inverse ? place_of_height(t, u, o.a, o.b) : Place<A>{t, u};
  o.on = curve(o.at, o.a, o.b);
  return o;
}

template <bool inverse, typename A>
GENKERN_INLINE void forward_block(const Block<A>& block, const Shape& shape, const Options& options) {
  double position[LANES];
  Found<A> found;
  find(block, shape, options, position, found);
  const A bound = A(options.bound);
  const A* __restrict x = block.x;
  A* __restrict y = block.y;
  A* __restrict log_slope = block.log_slope;
  const int32_t* __restrict passes = block.passes;
#pragma omp simd
  for (int j = 0; j < LANES; j++) {
    const Element<A> o = element<inverse>(found, j, position[j], shape, options);
    const A share = inverse ? o.at.t : o.on.n / o.on.D, other = inverse ? o.at.u : o.on.rest / o.on.D;
    const double size = inverse ? double(o.w) : double(o.h);
    const double left = inverse ? o.x_left : o.y_left, right = inverse ? o.x_right : o.y_right;
    const double moved = share < other ? left + size * double(share) : right - size * double(other);
    const A log_of_slope = log_normal(o.on.N / (o.ratio * o.on.D * o.on.D));
    const bool inside = (x[j] >= -bound) & (x[j] <= bound) & (passes[j] == 0);
    y[j] = select(inside, A(options.bound * (2 * moved - 1)), x[j]);
    log_slope[j] = select(inside, inverse ? -log_of_slope : log_of_slope, A(0));
  }
}

// What the gradient of a raw width or height is made of: e times a factor that depends on the side of the bin.
template <typename A>
struct Factors {
  A less[LANES], own[LANES], more[LANES];
};

template <typename A>
GENKERN_INLINE void set_factors(Factors<A>& f, int j, double sum, double scale, double per_rest, double before, A own,
                                A left, A size) {
  const double inverse = scale * per_rest;
  const A p = A(double(own) * inverse), below = A(before * inverse), above = A((sum - before) * inverse);
  f.less[j] = A(scale) * (left * above - size * p);
  f.own[j] = A(scale) * (size * (A(1) - p) - left * below);
  f.more[j] = A(scale) * -(left * below + size * p);
}

template <typename A>
GENKERN_INLINE void write_shares(const Factors<A>& f, const int32_t* __restrict bin, const A* __restrict e, int bins,
                                 A* __restrict grad) {
  for (int k = 0; k < bins; k++) {
#pragma omp simd
    for (int j = 0; j < LANES; j++) {
      const A factor = select(k < bin[j], f.less[j], select(k == bin[j], f.own[j], f.more[j]));
      grad[k * LANES + j] = e[k * LANES + j] * factor;
    }
  }
}

template <bool inverse, typename A>
GENKERN_INLINE void backward_block(const Block<A>& block, const Shape& shape, const Options& options) {
  double position[LANES];
  Found<A> found;
  find(block, shape, options, position, found);
  Factors<A> widths, heights;
  A grad_left[LANES], grad_right[LANES];
  const A bound = A(options.bound), length = A(2 * options.bound);
  const double per_rest = 1 / (1 - shape.bins * options.min_bin);
  const A* __restrict x = block.x;
  const A* __restrict grad_y = block.grad_y;
  const A* __restrict grad_log = block.grad_log_det;
  const int32_t* __restrict passes = block.passes;
  A* __restrict grad_x = block.y;
#pragma omp simd
  for (int j = 0; j < LANES; j++) {
    const Element<A> o = element<inverse>(found, j, position[j], shape, options);
    const bool inside = (x[j] >= -bound) & (x[j] <= bound) & (passes[j] == 0);
    const A t = o.at.t, u = o.at.u, tu = t * u, over_D = A(1) / o.on.D, over_N = A(1) / o.on.N;
    const A v = o.on.n * over_D, v_rest = o.on.rest * over_D, hover = o.h * over_D;
    const A y_t = o.h * o.on.N * over_D * over_D;
    const A l_t = A(2) * ((o.b * t + (u - t) - o.a * u) * over_N - (u - t) * (o.a + o.b - A(2)) * over_D);
    // gradients in y (a share) and in log dy/dx at a given t and given parameters; of the inverse, by dt/dy = 1 / y_t
    const A g_log = select(inside, inverse ? -grad_log[j] : grad_log[j], A(0));
    const A g_out = select(inside, grad_y[j], A(0));
    A g_y, g_t;
    if constexpr (inverse) {
      g_t = -g_out * length * o.w;
      g_y = (g_t - g_log * l_t) / y_t;
      grad_x[j] = select(inside, -g_y / length, grad_y[j]);
    } else {
      g_y = g_out * length;
      g_t = g_y * y_t + g_log * l_t;
      grad_x[j] = select(inside, g_t / (length * o.w), grad_y[j]);
    }
    const A from_D = A(2) * tu * over_D;
    const A g_a = g_y * hover * tu * v_rest + g_log * (u * u * over_N - from_D);
    const A g_b = -g_y * hover * tu * v + g_log * (t * t * over_N - from_D);
    const A from_slopes = g_a * o.a + g_b * o.b - g_log;  // a, b and log h / w depend on w and h
    grad_left[j] = g_a * o.ratio * o.left.derivative;
    grad_right[j] = g_b * o.ratio * o.right.derivative;
    const A over_w = A(1) / o.w;
    set_factors(widths, j, found.sum_x[j], found.scale_x[j], per_rest, found.before_x[j], found.own_x[j], -g_t * over_w,
                (from_slopes - g_t * t) * over_w);
    set_factors(heights, j, found.sum_y[j], found.scale_y[j], per_rest, found.before_y[j], found.own_y[j], g_y,
                g_y * v - from_slopes / o.h);
  }
  const int bins = shape.bins;
  write_shares(widths, found.bin, block.e_x, bins, block.grad_raw);
  write_shares(heights, found.bin, block.e_y, bins, block.grad_raw + bins * LANES);
  A* __restrict slopes = block.grad_raw + 2 * bins * LANES;
  for (int k = 0; k <= bins; k++) {
#pragma omp simd
    for (int j = 0; j < LANES; j++)
      slopes[k * LANES + j] =
          select(found.bin[j] == k, grad_left[j], select(found.bin[j] == k - 1, grad_right[j], A(0)));
  }
}

// Float32 blocks are cloned for each instruction set; float64 ones exist for exactness, not for speed.
GENKERN_CLONES void run_forward(const Block<float>& block, const Shape& shape, const Options& options) {
  options.inverse ? forward_block<true>(block, shape, options) : forward_block<false>(block, shape, options);
}
GENKERN_CLONES void run_backward(const Block<float>& block, const Shape& shape, const Options& options) {
  options.inverse ? backward_block<true>(block, shape, options) : backward_block<false>(block, shape, options);
}
void run_forward(const Block<double>& block, const Shape& shape, const Options& options) {
  options.inverse ? forward_block<true>(block, shape, options) : forward_block<false>(block, shape, options);
}
void run_backward(const Block<double>& block, const Shape& shape, const Options& options) {
  options.inverse ? backward_block<true>(block, shape, options) : backward_block<false>(block, shape, options);
}

}  // namespace

template <typename T>
void forward(const Forward& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const Shape& shape = call.shape;
  const T* x = static_cast<const T*>(call.x);
  T* y = static_cast<T*>(call.y);
  A* log_det = static_cast<A*>(call.log_det);
  Workspace<A> block(shape);
  std::vector<double> totals(size_t(end - begin), 0.0);
  for (int64_t b = begin; b < end; b++) copy_passive(shape, x + b * shape.sample, y + b * shape.sample);
  for (int64_t from = begin * shape.active; from < end * shape.active; from += LANES) {
    const int64_t count = std::min<int64_t>(LANES, end * shape.active - from);
    read_block(shape, x, static_cast<const T*>(call.params), call.mask, from, count, block);
    run_forward(block, shape, call.options);
    for_runs(shape.active, from, count, [&](int64_t lane, int64_t sample, int64_t element, int64_t run) {
      T* target = y + sample * shape.sample + shape.first + element;
      for (int64_t j = 0; j < run; j++) target[j] = store<T>(block.y[lane + j]);
      double total = totals[size_t(sample - begin)];  // in order: the same however the work is divided
      for (int64_t j = 0; j < run; j++) total += double(block.log_slope[lane + j]);
      totals[size_t(sample - begin)] = total;
    });
  }
  for (int64_t b = begin; b < end; b++) log_det[b] = A(totals[size_t(b - begin)]);
}

template <typename T>
void backward(const Backward& call, int64_t begin, int64_t end) {
  using A = arithmetic_t<T>;
  const Shape& shape = call.shape;
  const T* grad_y = static_cast<const T*>(call.grad_y);
  T* grad_x = static_cast<T*>(call.grad_x);
  const A* grad_log_det = static_cast<const A*>(call.grad_log_det);
  Workspace<A> block(shape);
  for (int64_t b = begin; b < end; b++) copy_passive(shape, grad_y + b * shape.sample, grad_x + b * shape.sample);
  for (int64_t from = begin * shape.active; from < end * shape.active; from += LANES) {
    const int64_t count = std::min<int64_t>(LANES, end * shape.active - from);
    read_block(shape, static_cast<const T*>(call.x), static_cast<const T*>(call.params), call.mask, from, count, block);
    for_runs(shape.active, from, count, [&](int64_t lane, int64_t sample, int64_t element, int64_t run) {
      const T* source = grad_y + sample * shape.sample + shape.first + element;
      for (int64_t j = 0; j < run; j++) {
        block.grad_y[lane + j] = load(source[j]);
        block.grad_log_det[lane + j] = grad_log_det[sample];
      }
    });
    run_backward(block, shape, call.options);
    A* slopes = block.grad_raw + 2 * shape.bins * LANES;
    if (shape.linear) std::copy(slopes + LANES, slopes + shape.bins * LANES, slopes);
    if (shape.circular)
      for (int j = 0; j < LANES; j++) slopes[j] += slopes[shape.bins * LANES + j];
    write_params(shape, block.grad_raw, from, count, static_cast<T*>(call.grad_params));
    for_runs(shape.active, from, count, [&](int64_t lane, int64_t sample, int64_t element, int64_t run) {
      T* target = grad_x + sample * shape.sample + shape.first + element;
      for (int64_t j = 0; j < run; j++) target[j] = store<T>(block.y[lane + j]);
    });
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

}  // namespace genkern::rational_quadratic_spline
