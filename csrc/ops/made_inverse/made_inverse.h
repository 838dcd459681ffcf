#pragma once
// Inverse of an autoregressive flow whose network is a MADE with hidden units sorted by degree. Step k computes
//   the units of degree k of layer 1, from elements order[0 .. k - 1];
//   the units of degree k of layer l, from those of layer l - 1 of degree <= k;
//   raw scale s and shift m of element order[k], from the units of the last layer of degree <= k;
//   x = (z - t) / sigma, or z sigma + t where the flow standardises;  t = m, or (1 - sigma) m where it is gated.
// Each weight is used once, and each unit computed once. The gradient is the same recursion from the last step to the
// first, with the weights transposed. Germain et al. 2015 (arXiv:1502.03509); Papamakarios et al. 2017
// (arXiv:1705.07057) section 3.1; Kingma et al. 2016 (arXiv:1606.04934) eq. 14.

#include "../affine_coupling/affine_coupling.h"

namespace genkern::made_inverse {

using affine_coupling::Scale;
using affine_coupling::Scaling;
using affine_coupling::scaling;

enum class Activation : int { relu = 0, tanh = 1, elu = 2 };

template <Activation activation, typename T>
GENKERN_HD T activate(T h) {
  if constexpr (activation == Activation::relu) return h < T(0) ? T(0) : h;
  if constexpr (activation == Activation::tanh) return tanh(h);
  return h > T(0) ? h : expm1_nonpositive(h);
}

// The derivative, from the value.
template <Activation activation, typename T>
GENKERN_HD T slope(T a) {
  if constexpr (activation == Activation::relu) return a > T(0) ? T(1) : T(0);
  if constexpr (activation == Activation::tanh) return T(1) - a * a;
  return a > T(0) ? T(1) : a + T(1);
}

// What the elementwise transform is.
struct Transform {
  Scale scale;
  bool gated, standardize;
  double bound;
};

template <typename T>
struct Solution {
  T x, log_det;
};

template <Scale scale, typename T>
GENKERN_HD Solution<T> solve(const Transform& transform, T z, T s, T m) {
  const Scaling<T> c = scaling<scale>(s, T(transform.bound));
  const T t = transform.gated ? m * c.slope : m;  // the slope of log sigmoid is 1 - sigma
  T l = c.linear;
  if constexpr (scale == Scale::sigmoid) l -= log1p_nonnegative(c.excess);
  return {transform.standardize ? z * c.sigma + t : (z - t) * c.inverse, transform.standardize ? l : -l};
}

template <typename T>
struct Gradients {
  T z, s, m;
};

template <Scale scale, typename T>
GENKERN_HD Gradients<T> pull_back(const Transform& transform, T z, T x, T s, T m, T grad_x, T grad_log_det) {
  const Scaling<T> c = scaling<scale>(s, T(transform.bound));
  const T grad_z = grad_x * (transform.standardize ? c.sigma : c.inverse);
  const T grad_t = transform.standardize ? grad_x : -grad_z;
  const T grad_l = transform.standardize ? grad_z * z + grad_log_det : -(grad_x * x + grad_log_det);
  if (!transform.gated) return {grad_z, grad_l * c.slope, grad_t};
  return {grad_z, (grad_l - grad_t * m * c.sigma) * c.slope, grad_t * c.slope};
}

// Layer l = 1 .. L + 1; the last gives the parameters, row p * D + d.
struct Layer {
  int64_t rows, columns, weight, bias;
  int64_t level;          // rows of all hidden layers before this one
  const int64_t* starts;  // units of degree < k, k = 0 .. D; null for the last
};

struct Network {
  int64_t features, hidden;  // D; L
  const Layer* layers;       // L + 1
  const int64_t* order;
  int64_t units;  // of all hidden layers
  Activation activation;
  bool residual;

  const Layer& layer(int64_t l) const { return layers[l - 1]; }
  // How many columns of layer l step k reads.
  int64_t seen(int64_t l, int64_t k) const { return l == 1 ? k : layer(l - 1).starts[k + 1]; }
};

template <typename T>
struct Call {
  Network network;
  Transform transform;
  int64_t batch;
  const T* z;
  const T* weight;
  const T* bias;
  const T* offset;  // [batch, H_1] or null
  bool poison;      // scratch starts as NaN
};

template <typename T>
struct Outputs {
  T* x;
  T* log_det;
};

constexpr int64_t LANES = 32;  // samples of a block, side by side

// What a block of samples leaves for the gradients of the parameters: the units' values as [LANES, padded columns] for
// each layer's input, and the gradients of what goes into the units and parameters as [rows, LANES].
template <typename T>
struct Records {
  T* values;
  T* gradients;
  int64_t value_size, gradient_size;  // of a block
};

template <typename T>
struct Backward {
  Call<T> call;
  const T* grad_x;
  const T* grad_log_det;
  T* grad_z;       // null where nobody wants it, as all that follow
  T* grad_weight;  // zeros to begin with
  T* grad_bias;    // zeros to begin with
  T* grad_offset;
};

inline int64_t padded(int64_t columns) { return (columns + LANES - 1) / LANES * LANES; }

// Blocks [begin, end) of LANES samples.
template <typename T>
void invert(const Call<T>& call, const Outputs<T>& outputs, int64_t begin, int64_t end);

// The recursion backwards for blocks [begin, end); block b leaves its records at place b - first.
template <typename T>
void pull_back_blocks(const Backward<T>& backward, const Records<T>& records, int64_t first, int64_t begin,
                      int64_t end);

// Adds the sums over `blocks` records to the gradients of weights and biases, for tasks [begin, end) of D.
template <typename T>
void add_parameters(const Backward<T>& backward, const Records<T>& records, int64_t blocks, int64_t begin, int64_t end);

}  // namespace genkern::made_inverse
