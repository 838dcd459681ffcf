#pragma once
// The arguments of the op as its kernels take them: shared by the CPU's and CUDA's registration.

#include "../../common/torch.h"
#include "made_inverse.h"

namespace genkern::made_inverse {

using Integers = std::vector<int64_t>;

// The network's layers, and what they point to.
struct Structure {
  Integers hidden, starts, order;
  std::vector<Layer> layers;
  Network network{};

  Structure(const Tensor& z, const Tensor& weight, const Tensor& bias, Integers hidden_, Integers starts_,
            Integers order_, const std::string& activation, bool residual)
      : hidden(std::move(hidden_)), starts(std::move(starts_)), order(std::move(order_)) {
    const int64_t d = z.size(1), count = int64_t(hidden.size());
    STD_TORCH_CHECK(int64_t(starts.size()) == count * (d + 1) && int64_t(order.size()) == d,
                    "made_inverse: starts and order must have D + 1 numbers for each hidden layer, and D.");
    int64_t weights = 0, biases = 0, units = 0;
    for (int64_t l = 0; l <= count; l++) {
      const int64_t rows = l < count ? hidden[size_t(l)] : 2 * d, columns = l == 0 ? d : hidden[size_t(l) - 1];
      layers.push_back({rows, columns, weights, biases, units, l < count ? &starts[size_t(l * (d + 1))] : nullptr});
      weights += rows * columns, biases += rows;
      if (l < count) units += rows;
    }
    STD_TORCH_CHECK(weight.numel() == weights && bias.numel() == biases, "made_inverse: weight and bias must have ",
                    weights, " and ", biases, " elements; got ", weight.numel(), " and ", bias.numel(), ".");
    const Activation kind = activation == "relu"   ? Activation::relu
                            : activation == "tanh" ? Activation::tanh
                                                   : Activation::elu;
    network = {d, count, layers.data(), order.data(), units, kind, residual};
  }
  Structure(const Structure&) = delete;
};

inline Transform transform_of(const std::string& scale, double bound, bool standardize) {
  const Scale kind = scale == "exp" ? Scale::exp : scale == "tanh" ? Scale::tanh : Scale::sigmoid;
  return {kind, scale == "gated", standardize, bound};
}

template <typename T>
Call<T> call_of(const Structure& structure, const Transform& transform, const Tensor& z, const Tensor& weight,
                const Tensor& bias, const Tensor& offset) {
  return {structure.network,
          transform,
          z.size(0),
          data<T>(z),
          data<T>(weight),
          data<T>(bias),
          offset.size(1) == 0 ? nullptr : data<T>(offset),
          poisons()};
}

template <typename F>
void by_dtype(const Tensor& tensor, const F& f) {
  if (tensor.scalar_type() == ScalarType::Double)
    f(double{});
  else
    f(float{});
}

}  // namespace genkern::made_inverse
