#include "cpu.h"
#include "taps.h"
#include "tensors.h"

namespace genkern::autoregressive_conv {
namespace {

constexpr int64_t GRAIN = 1 << 16;  // multiply-adds that a thread should have at least

// Samples are shared among threads where there are fewer of them, and work enough.
template <typename T>
void solve_all(const Solve<T>& solve) {
  const Matrices<T> matrices(solve);
  const int64_t taps = 1 + solve.window.count();
  const int64_t work = solve.height * solve.width * solve.channels * solve.channels * taps;  // of a sample
  const int64_t threads = torch::stable::get_num_threads(), share = (threads + solve.batch - 1) / solve.batch;
  const int64_t ways = std::max<int64_t>(std::min({share, solve.height, work / (4 * GRAIN)}), 1);
  const Shares<T> shares(solve, ways, matrices.padded);
  parallel(solve.batch * ways, GRAIN * ways / std::max<int64_t>(work, 1),
           [&](int64_t begin, int64_t end) { solve_units(solve, matrices, shares, begin, end); });
}

Tensor solve_cpu(Tensor y, Tensor weight, bool square, bool reverse) {
  Tensor x = output_like(y);
  if (y.numel() == 0) return x;
  const auto run = [&](auto type) { solve_all(solve_of<decltype(type)>(y, weight, x, square, reverse)); };
  if (y.scalar_type() == ScalarType::Double)
    run(double{});
  else
    run(float{});
  return x;
}

Kernel kernel_of(const Tensor& weight, bool square, bool reverse) {
  return {weight.size(0), weight.size(2) * weight.size(3), live_of(weight, square, reverse)};
}

// The weight, or its gradient, with zeros where nothing is read, and the sum of ln |L_cc|.
std::tuple<Tensor, Tensor> taps_cpu(Tensor weight, bool square, bool reverse) {
  weight = dense(weight);
  Tensor taps = output_like(weight), log_det = output(weight, {}, wide(weight));
  dispatch("autoregressive_taps", weight.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Kernel kernel = kernel_of(weight, square, reverse);
    keep_live(kernel, data<T>(weight), data<T>(taps));
    *data<arithmetic_t<T>>(log_det) = arithmetic_t<T>(log_diagonal(kernel, data<T>(weight)));
  });
  return {taps, log_det};
}

Tensor taps_backward_cpu(Tensor grad_taps, Tensor grad_log_det, Tensor weight, bool square, bool reverse) {
  grad_taps = dense(grad_taps), weight = dense(weight);
  Tensor grad = output_like(weight);
  dispatch("autoregressive_taps", weight.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Kernel kernel = kernel_of(weight, square, reverse);
    keep_live(kernel, data<T>(grad_taps), data<T>(grad));
    add_log_diagonal(kernel, *data<arithmetic_t<T>>(grad_log_det), data<T>(weight), data<T>(grad));
  });
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("autoregressive_solve", TORCH_BOX(&solve_cpu));
  m.impl("autoregressive_taps", TORCH_BOX(&taps_cpu));
  m.impl("autoregressive_taps_backward", TORCH_BOX(&taps_backward_cpu));
}

}  // namespace genkern::autoregressive_conv
