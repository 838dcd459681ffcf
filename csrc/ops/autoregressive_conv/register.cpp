#include "../../common/torch.h"
#include "cpu.h"

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

Strides strides_of(const Tensor& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

Tensor solve_cpu(Tensor y, Tensor weight, bool square, bool reverse) {
  Tensor x = output_like(y);
  if (y.numel() == 0) return x;
  const Window window{int(weight.size(2) / 2), int(weight.size(3) / 2), square};
  const auto run = [&](auto type) {
    using T = decltype(type);
    const Solve<T> solve{data<T>(y),         data<T>(weight), data<T>(x), strides_of(y),
                         strides_of(weight), strides_of(x),   y.size(0),  y.size(1),
                         y.size(2),          y.size(3),       window};
    solve_all(reverse ? reversed(solve) : solve);
  };
  if (y.scalar_type() == ScalarType::Double)
    run(double{});
  else
    run(float{});
  return x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) { m.impl("autoregressive_solve", TORCH_BOX(&solve_cpu)); }

}  // namespace genkern::autoregressive_conv
