#include "../../common/torch.h"
#include "fold.h"
#include "lu.h"
#include "mix.h"

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

constexpr int64_t FEW = 1 << 19;  // multiply-adds that a thread should have at least

Strips strips_of(const Tensor& x) {
  const int64_t batch = x.size(0), channels = x.size(1), images = batch * channels;
  return {batch, channels, images == 0 ? 0 : x.numel() / images};
}

int64_t grain(const Strips& strips) { return FEW / (strips.channels * strips.channels * STRIP); }

template <typename T>
std::vector<arithmetic_t<T>> packed(const Tensor& weight, bool transposed) {
  std::vector<arithmetic_t<T>> result(weight.numel());
  pack(data<T>(weight), weight.size(0), transposed, result.data());
  return result;
}

void check_mix(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& log_abs_det) {
  const int64_t channels = x.dim() < 2 ? 0 : x.size(1);
  STD_TORCH_CHECK(channels > 0 && weight.dim() == 2 && weight.size(0) == channels && weight.size(1) == channels &&
                      bias.dim() == 1 && bias.size(0) == channels && log_abs_det.numel() == 1,
                  "invertible_conv1x1: x must be [B, C, *], weight [C, C], bias [C], and log_abs_det one element");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type() && bias.scalar_type() == x.scalar_type() &&
                      log_abs_det.scalar_type() == wide(x),
                  "invertible_conv1x1: x, weight and bias must have one dtype, and log_abs_det float32 or wider");
}

std::tuple<Tensor, Tensor> invertible_conv1x1_cpu(Tensor x, Tensor weight, Tensor bias, Tensor log_abs_det) {
  check_mix(x, weight, bias, log_abs_det);
  x = dense(x), weight = dense(weight), bias = dense(bias);
  const Strips strips = strips_of(x);
  Tensor y = output_like(x), log_det = output(x, {strips.batch}, wide(x));
  dispatch("invertible_conv1x1", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = arithmetic_t<T>;
    std::fill_n(data<A>(log_det), strips.batch, A(strips.sites) * *data<A>(log_abs_det));
    if (x.numel() == 0) return;
    const std::vector<A> w = packed<T>(weight, false);
    std::vector<A> shift(strips.channels);
    for (int64_t c = 0; c < strips.channels; c++) shift[c] = load(data<T>(bias)[c]);
    parallel(strips.count(), grain(strips), [&](int64_t begin, int64_t end) {
      mix(strips, data<T>(x), w.data(), shift.data(), data<T>(y), begin, end);
    });
  });
  return {y, log_det};
}

// The sums of parts, in order, whatever the threads.
template <typename T>
void sum_gradients(const Strips& strips, const Tensor& grad_y, const Tensor& x, const Tensor& grad_weight,
                   const Tensor& grad_bias) {
  using A = arithmetic_t<T>;
  const int64_t channels = strips.channels, size = channels * (channels + 1), units = strips.units();
  const int64_t groups = strips.groups(), parts = strips.parts(), rows = strips.rows_of_task();
  std::vector<double> partial(parts * size);
  const int64_t of_task = strips.count() / parts * rows * channels * STRIP;
  parallel(parts * groups, FEW / std::max<int64_t>(of_task, 1), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t part = task / groups, row = task % groups * rows;
      double* const sum = partial.data() + part * size;
      sums(strips, data<T>(grad_y), data<T>(x), part * units / parts, (part + 1) * units / parts, row,
           std::min(row + rows, channels), sum, sum + channels * channels);
    }
  });
  for (int64_t part = 1; part < parts; part++)
    for (int64_t i = 0; i < size; i++) partial[i] += partial[part * size + i];
  for (int64_t i = 0; i < channels * channels; i++) data<T>(grad_weight)[i] = store<T>(A(partial[i]));
  for (int64_t c = 0; c < channels; c++) data<T>(grad_bias)[c] = store<T>(A(partial[channels * channels + c]));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> invertible_conv1x1_backward_cpu(Tensor grad_y, Tensor grad_log_det, Tensor x,
                                                                           Tensor weight, Tensor bias,
                                                                           Tensor log_abs_det, bool needs_x,
                                                                           bool needs_weight, bool needs_bias,
                                                                           bool needs_log_abs_det) {
  check_mix(x, weight, bias, log_abs_det);
  grad_y = dense(grad_y), grad_log_det = dense(grad_log_det), x = dense(x), weight = dense(weight);
  const Strips strips = strips_of(x);
  const bool summed = needs_weight || needs_bias;
  Tensor grad_x = needs_x ? output_like(x) : output(x, {0});
  Tensor grad_weight = summed ? output_like(weight) : output(x, {0}),
         grad_bias = summed ? output_like(bias) : output(x, {0});
  Tensor grad_log_abs_det = needs_log_abs_det ? output_like(log_abs_det) : output(log_abs_det, {0});
  dispatch("invertible_conv1x1_backward", x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = arithmetic_t<T>;
    if (needs_log_abs_det) {
      double sum = 0;
      for (int64_t n = 0; n < strips.batch; n++) sum += double(data<A>(grad_log_det)[n]);
      *data<A>(grad_log_abs_det) = A(sum * double(strips.sites));
    }
    if (x.numel() == 0) {
      if (summed) torch::stable::zero_(grad_weight), torch::stable::zero_(grad_bias);
      return;
    }
    if (summed) sum_gradients<T>(strips, grad_y, x, grad_weight, grad_bias);
    if (!needs_x) return;
    const std::vector<A> w = packed<T>(weight, true), zeros(strips.channels);
    parallel(strips.count(), grain(strips), [&](int64_t begin, int64_t end) {
      mix(strips, data<T>(grad_y), w.data(), zeros.data(), data<T>(grad_x), begin, end);
    });
  });
  if (!needs_weight) grad_weight = output(x, {0});
  if (!needs_bias) grad_bias = output(x, {0});
  return {grad_x, grad_weight, grad_bias, grad_log_abs_det};
}

void check_fold(const Tensor& weight, const Tensor& log_scale, const Tensor& bias, const Tensor& log_abs_det) {
  const int64_t n = weight.dim() == 2 ? weight.size(0) : 0;
  STD_TORCH_CHECK(
      n > 0 && weight.size(1) == n && log_scale.numel() == n && bias.numel() == n && log_abs_det.numel() == 1,
      "fold_actnorm: weight must be [C, C], log_scale and bias [C], and log_abs_det one element");
  STD_TORCH_CHECK(log_scale.scalar_type() == weight.scalar_type() && bias.scalar_type() == weight.scalar_type() &&
                      log_abs_det.scalar_type() == wide(weight),
                  "fold_actnorm: weight, log_scale and bias must have one dtype, and log_abs_det float32 or wider");
}

std::tuple<Tensor, Tensor, Tensor> fold_actnorm_cpu(Tensor weight, Tensor log_scale, Tensor bias, Tensor log_abs_det,
                                                    bool shift_first) {
  check_fold(weight, log_scale, bias, log_abs_det);
  weight = dense(weight), log_scale = dense(log_scale), bias = dense(bias);
  Tensor folded = output_like(weight), shift = output_like(bias), result = output_like(log_abs_det);
  dispatch("fold_actnorm", weight.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = arithmetic_t<T>;
    const double total = fold<T>({weight.size(0), shift_first, data<T>(weight), data<T>(log_scale), data<T>(bias),
                                  data<T>(folded), data<T>(shift)});
    *data<A>(result) = A(double(*data<A>(log_abs_det)) + total);
  });
  return {folded, shift, result};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fold_actnorm_backward_cpu(Tensor grad_folded, Tensor grad_shift,
                                                                     Tensor grad_result, Tensor weight,
                                                                     Tensor log_scale, Tensor bias, Tensor log_abs_det,
                                                                     bool shift_first) {
  check_fold(weight, log_scale, bias, log_abs_det);
  weight = dense(weight), log_scale = dense(log_scale), bias = dense(bias);
  grad_folded = dense(grad_folded), grad_shift = dense(grad_shift);
  Tensor of_weight = output_like(weight), of_log_scale = output_like(log_scale), of_bias = output_like(bias),
         of_log_abs_det = output_like(log_abs_det);
  dispatch("fold_actnorm_backward", weight.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = arithmetic_t<T>;
    const A grad = *data<A>(grad_result);
    *data<A>(of_log_abs_det) = grad;
    fold_gradients<T>({weight.size(0), shift_first, data<T>(weight), data<T>(log_scale), data<T>(bias),
                       data<T>(grad_folded), data<T>(grad_shift), double(grad), data<T>(of_weight),
                       data<T>(of_log_scale), data<T>(of_bias)});
  });
  return {of_weight, of_log_scale, of_bias, of_log_abs_det};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) {
  m.impl("fold_actnorm", TORCH_BOX(&fold_actnorm_cpu));
  m.impl("fold_actnorm_backward", TORCH_BOX(&fold_actnorm_backward_cpu));
  m.impl("lu_inverse", TORCH_BOX(&lu_inverse_cpu));
  m.impl("invertible_conv1x1", TORCH_BOX(&invertible_conv1x1_cpu));
  m.impl("invertible_conv1x1_backward", TORCH_BOX(&invertible_conv1x1_backward_cpu));
}

}  // namespace genkern::invertible_conv1x1
