#pragma once
// What every register.cpp needs of torch's stable ABI: outputs, layouts, dtype dispatch, threads.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "dtype.h"

namespace genkern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// Under GENKERN_POISON=1 outputs start as NaN, so that a test sees every element that a kernel leaves unwritten; and so
// does the scratch of kernels that must not read an element before it is known.
inline bool poisons() {
  static const bool poison = std::getenv("GENKERN_POISON") != nullptr;
  return poison;
}

inline Tensor poisoned(Tensor tensor) {
  if (!poisons() || tensor.numel() == 0) return tensor;
  const ScalarType dtype = tensor.scalar_type();
  if (dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
      dtype == ScalarType::BFloat16)
    torch::stable::fill_(tensor, std::numeric_limits<double>::quiet_NaN());
  return tensor;
}

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

// New memory on the device of `like`, straight from the allocator: found by name through the dispatcher, each empty
// tensor costs a microsecond more.
inline Tensor strided(const Tensor& like, Sizes sizes, const int64_t* strides, std::optional<ScalarType> dtype) {
  int32_t code, device, index;
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &code));
  if (dtype) code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides, code, device, index, &made));
  return poisoned(Tensor(made));
}

inline Tensor output_like(const Tensor& like) {
  if (!like.is_contiguous()) return poisoned(torch::stable::empty_like(like));
  return strided(like, like.sizes(), like.strides().data(), std::nullopt);
}

inline Tensor output(const Tensor& like, const std::vector<int64_t>& sizes,
                     std::optional<ScalarType> dtype = std::nullopt) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0; stride *= std::max<int64_t>(sizes[d], 1)) strides[d] = stride;
  return strided(like, sizes, strides.data(), dtype);
}

// The dtype of log-determinants and log-likelihoods: float64 for float64, else float32.
inline ScalarType wide(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// [B, C, *] as B x C x S contiguous in that order.
inline bool channels_first(const Tensor& tensor) { return tensor.is_contiguous(); }

// [B, C, *] stored as B x S x C, that is torch.channels_last or channels_last_3d.
inline bool channels_last(const Tensor& tensor) {
  if (tensor.dim() < 3 || tensor.stride(1) != 1) return false;
  int64_t expected = tensor.size(1);
  for (int64_t d = tensor.dim() - 1; d >= 2; d--) {
    if (tensor.size(d) != 1 && tensor.stride(d) != expected) return false;
    expected *= tensor.size(d);
  }
  return tensor.size(0) <= 1 || tensor.stride(0) == expected;
}

inline Tensor dense_channels_last(const Tensor& tensor) {
  using torch::headeronly::MemoryFormat;
  if (channels_last(tensor)) return tensor;
  return torch::stable::contiguous(tensor,
                                   tensor.dim() == 5 ? MemoryFormat::ChannelsLast3d : MemoryFormat::ChannelsLast);
}

// Runs f over [0, n) on torch's own threads, in pieces of at least `grain`.
template <typename F>
void parallel(int64_t n, int64_t grain, const F& f) {
  if (n > 0) torch::stable::parallel_for(0, n, std::max<int64_t>(grain, 1), f);
}

// Calls f with a value of the storage type: float, double, Half or BFloat16.
template <typename F>
void dispatch(const char* op, ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    case ScalarType::Half: return f(Half{});
    case ScalarType::BFloat16: return f(BFloat16{});
    default: STD_TORCH_CHECK(false, op, ": wanted float32, float64, float16 or bfloat16");
  }
}

}  // namespace genkern
