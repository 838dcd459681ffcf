#include "arguments.h"

namespace genkern::made_inverse {
namespace {

constexpr int64_t GRAIN = 1 << 16;  // multiply-adds that a thread should have at least
constexpr int64_t CHUNK = 32;       // blocks whose records are kept at a time

int64_t grain(int64_t weights) { return GRAIN / std::max<int64_t>(weights, 1); }

std::tuple<Tensor, Tensor> forward_cpu(Tensor z, Tensor weight, Tensor bias, Tensor offset, Integers hidden,
                                       Integers starts, Integers order, std::string activation, bool residual,
                                       std::string scale, double bound, bool standardize) {
  z = dense(z), weight = dense(weight), bias = dense(bias), offset = dense(offset);
  const Structure structure(z, weight, bias, hidden, starts, order, activation, residual);
  Tensor x = output(z, {z.size(0), z.size(1)}), log_det = output(z, {z.size(0)});
  by_dtype(z, [&](auto type) {
    using T = decltype(type);
    const Call<T> call = call_of<T>(structure, transform_of(scale, bound, standardize), z, weight, bias, offset);
    const Outputs<T> outputs{data<T>(x), data<T>(log_det)};
    parallel((call.batch + LANES - 1) / LANES, grain(LANES * weight.numel()),
             [&](int64_t begin, int64_t end) { invert(call, outputs, begin, end); });
  });
  return {x, log_det};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_cpu(Tensor grad_x, Tensor grad_log_det, Tensor z, Tensor weight,
                                                        Tensor bias, Tensor offset, Integers hidden, Integers starts,
                                                        Integers order, std::string activation, bool residual,
                                                        std::string scale, double bound, bool standardize, bool needs_z,
                                                        bool needs_weight, bool needs_bias, bool needs_offset) {
  z = dense(z), weight = dense(weight), bias = dense(bias), offset = dense(offset);
  grad_x = dense(grad_x), grad_log_det = dense(grad_log_det);
  const Structure structure(z, weight, bias, hidden, starts, order, activation, residual);
  const int64_t batch = z.size(0), d = z.size(1), blocks = (batch + LANES - 1) / LANES;
  const bool parameters = needs_weight || needs_bias;
  Tensor grad_z = output(z, {needs_z ? batch : 0, d});
  if (!needs_z) grad_z = output(z, {0});
  Tensor grad_weight = output(z, {parameters ? weight.numel() : 0}),
         grad_bias = output(z, {parameters ? bias.numel() : 0});
  Tensor grad_offset = needs_offset ? output(z, {batch, offset.size(1)}) : output(z, {0});
  int64_t value_size = LANES * padded(d);
  for (const int64_t units : structure.hidden) value_size += LANES * padded(units);
  const int64_t gradient_size = LANES * (structure.network.units + 2 * d);
  const int64_t kept = parameters ? std::min(blocks, CHUNK) : 0;
  by_dtype(z, [&](auto type) {
    using T = decltype(type);
    Backward<T> backward{call_of<T>(structure, transform_of(scale, bound, standardize), z, weight, bias, offset),
                         data<T>(grad_x),
                         data<T>(grad_log_det),
                         needs_z ? data<T>(grad_z) : nullptr,
                         data<T>(grad_weight),
                         data<T>(grad_bias),
                         needs_offset && offset.size(1) > 0 ? data<T>(grad_offset) : nullptr};
    if (parameters) {
      std::fill_n(backward.grad_weight, grad_weight.numel(), T(0));
      std::fill_n(backward.grad_bias, grad_bias.numel(), T(0));
    }
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    struct alignas(64) Line {
      T values[size_t(line)];
    };
    const std::unique_ptr<Line[]> memory(new Line[size_t(kept * (value_size + gradient_size) / line)]);
    T* const values = reinterpret_cast<T*>(memory.get());
    const Records<T> records{kept == 0 ? nullptr : values, values + kept * value_size, value_size, gradient_size};
    for (int64_t first = 0; first < blocks; first += parameters ? CHUNK : blocks) {
      const int64_t count = parameters ? std::min(CHUNK, blocks - first) : blocks;
      parallel(count, grain(2 * LANES * weight.numel()), [&](int64_t begin, int64_t end) {
        pull_back_blocks(backward, records, first, first + begin, first + end);
      });
      if (!parameters) continue;
      parallel(d, grain(count * LANES * weight.numel() / d),
               [&](int64_t begin, int64_t end) { add_parameters(backward, records, count, begin, end); });
    }
  });
  if (!needs_weight) grad_weight = output(z, {0});
  if (!needs_bias) grad_bias = output(z, {0});
  return {grad_z, grad_weight, grad_bias, grad_offset};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("made_inverse", TORCH_BOX(&forward_cpu));
  m.impl("made_inverse_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::made_inverse
