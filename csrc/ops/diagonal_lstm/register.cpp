#include <memory>

#include "tensors.h"

namespace genkern::diagonal_lstm {
namespace {

constexpr int64_t MOST_SLOTS = 64;  // sums of the weight's gradient, each on a thread of its own

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <typename T>
using Memory = std::unique_ptr<T[], Free>;
template <typename T>
Memory<T> memory(int64_t count) {  // aligned as the loops' vectors are
  T* const found = static_cast<T*>(std::aligned_alloc(64, size_t(count + 1) * sizeof(T) / 64 * 64 + 64));
  STD_TORCH_CHECK(found, "diagonal_lstm: no memory for ", count, " elements");
  return Memory<T>(found);
}

template <typename F>
void on_arithmetic(const Tensor& tensor, const F& f) {
  if (tensor.scalar_type() == ScalarType::Double)
    f(double{});
  else
    f(float{});
}

int64_t groups_of(const Lattice& lattice, int64_t batch) {
  const int64_t samples = samples_in_group(lattice);
  return (batch + samples - 1) / samples;
}

Tensor forward_cpu(Tensor x, Tensor weight, std::string order) {
  const ScalarType dtype = x.scalar_type();
  x = widened(x), weight = widened(weight);
  const Lattice lattice = lattice_of(x, weight, order);
  Tensor h = output(x, {x.size(0), x.size(1), x.size(2), lattice.hidden});
  on_arithmetic(x, [&](auto type) {
    using T = decltype(type);
    const Memory<T> packed = memory<T>(packed_size<T>(lattice, false));
    pack(lattice, data<T>(weight), false, packed.get());
    const Forward<T> call{lattice, x.size(0), data<T>(x), data<T>(weight), data<T>(h)};
    parallel(groups_of(lattice, call.batch), 1,
             [&](int64_t begin, int64_t end) { forward(call, packed.get(), begin, end); });
  });
  return dtype == h.scalar_type() ? h : torch::stable::to(h, dtype);
}

std::tuple<Tensor, Tensor> backward_cpu(Tensor grad_h, Tensor x, Tensor weight, std::string order) {
  const ScalarType dtype = x.scalar_type();
  grad_h = widened(grad_h), x = widened(x), weight = widened(weight);
  const Lattice lattice = lattice_of(x, weight, order);
  Tensor grad_x = output_like(x), grad_weight = output_like(weight);
  on_arithmetic(x, [&](auto type) {
    using T = decltype(type);
    const Memory<T> packed = memory<T>(packed_size<T>(lattice, false));
    const Memory<T> transposed = memory<T>(packed_size<T>(lattice, true));
    pack(lattice, data<T>(weight), false, packed.get());
    pack(lattice, data<T>(weight), true, transposed.get());
    const Backward<T> call{lattice,         x.size(0),       data<T>(grad_h),     data<T>(x),
                           data<T>(weight), data<T>(grad_x), data<T>(grad_weight)};
    const int64_t slots = std::min(groups_of(lattice, call.batch), MOST_SLOTS);
    const Memory<T> sums = memory<T>(slots * sums_size<T>(lattice));
    parallel(slots, 1, [&](int64_t begin, int64_t end) {
      backward(call, packed.get(), transposed.get(), sums.get(), slots, begin, end);
    });
    add_slots(lattice, sums.get(), slots, data<T>(grad_weight));
  });
  if (dtype == grad_x.scalar_type()) return {grad_x, grad_weight};
  return {torch::stable::to(grad_x, dtype), torch::stable::to(grad_weight, dtype)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("diagonal_lstm", TORCH_BOX(&forward_cpu));
  m.impl("diagonal_lstm_backward", TORCH_BOX(&backward_cpu));
}

}  // namespace genkern::diagonal_lstm
