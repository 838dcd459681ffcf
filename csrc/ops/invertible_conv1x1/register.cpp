#include "../../common/torch.h"
#include "lu.h"

namespace genkern::invertible_conv1x1 {
namespace {

constexpr int64_t GRAIN = 1 << 16;  // multiply-adds that a thread should have at least

// A matrix costs n^3, so a thread takes a share of the work, not of the matrices: those whose first multiply-add
// lies in its range.
template <typename T>
void invert_all(const Call<T>& call, int64_t count) {
  if (count == 1) return invert(call, 0, 1);  // nothing to share: no thread is woken
  std::vector<int64_t> start(size_t(count) + 1, 0);
  for (int64_t m = 0; m < count; m++) {
    const int64_t n = call.sizes[m];
    start[size_t(m) + 1] = start[size_t(m)] + n * n * n;
  }
  const auto matrix_at = [&](int64_t work) {
    return std::lower_bound(start.begin(), start.end() - 1, work) - start.begin();
  };
  parallel(start.back(), GRAIN, [&](int64_t begin, int64_t end) { invert(call, matrix_at(begin), matrix_at(end)); });
}

std::tuple<Tensor, Tensor, Tensor> lu_inverse_cpu(Tensor matrices, std::vector<int64_t> sizes, bool with_inverse) {
  matrices = dense(matrices);
  const int64_t count = int64_t(sizes.size());
  std::vector<int64_t> offsets(sizes.size());
  int64_t elements = 0;
  for (size_t m = 0; m < sizes.size(); m++) {
    STD_TORCH_CHECK(sizes[m] > 0, "lu_inverse: sizes must be positive; got ", sizes[m], ".");
    offsets[m] = elements;
    elements += sizes[m] * sizes[m];
  }
  STD_TORCH_CHECK(elements == matrices.numel(), "lu_inverse: matrices must have ", elements,
                  " elements, the sum of squares of sizes; got ", matrices.numel(), ".");
  Tensor log_abs_det = output(matrices, {count}), sign = output(matrices, {count});
  Tensor inverse = output(matrices, {with_inverse ? elements : 0});
  const auto run = [&](auto type) {
    using T = decltype(type);
    invert_all<T>({data<T>(matrices), sizes.data(), offsets.data(), data<T>(log_abs_det), data<T>(sign),
                   with_inverse ? data<T>(inverse) : nullptr},
                  count);
  };
  if (matrices.scalar_type() == ScalarType::Double)
    run(double{});
  else
    run(float{});
  return {log_abs_det, sign, inverse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) { m.impl("lu_inverse", TORCH_BOX(&lu_inverse_cpu)); }

}  // namespace genkern::invertible_conv1x1
