#pragma once
// Dense tensors in any order of dimensions, which ops on [B, C, *] read as they lie.

#include "channels.h"
#include "torch.h"

namespace genkern {

// Every element of storage belongs to one element of the tensor, in some order of its dimensions.
inline bool non_overlapping_and_dense(const Tensor& tensor) {
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int64_t d = 0; d < tensor.dim(); d++)
    if (tensor.size(d) != 1) dims.emplace_back(tensor.stride(d), tensor.size(d));
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); d++)
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

// The tensor, or a copy, with the strides of `like`.
inline Tensor in_layout_of(const Tensor& like, const Tensor& tensor) {
  if (same_layout(like, tensor)) return tensor;
  Tensor copy = torch::stable::empty_like(like);
  return torch::stable::copy_(copy, tensor);
}

// The tensor, or a dense copy that keeps the order of its dimensions, as elementwise operations of torch do.
inline Tensor dense_in_order(const Tensor& tensor) {
  if (tensor.numel() == 0 || non_overlapping_and_dense(tensor)) return tensor;
  Tensor copy = torch::stable::empty_like(tensor);
  return torch::stable::copy_(copy, tensor);
}

// A contiguous result with the strides of `like`: what counts elements by their indices, as noise does, writes it so.
inline Tensor in_order_of(const Tensor& like, const Tensor& contiguous) {
  if (like.is_contiguous()) return contiguous;
  Tensor result = torch::stable::empty_like(like);
  return torch::stable::copy_(result, contiguous);
}

// How to walk a dense [B, C, *].
inline Channels channels_of(const Tensor& tensor) {
  const int64_t channels = tensor.size(1);
  return Channels(tensor.numel(), channels, channels == 1 ? tensor.numel() : tensor.stride(1));
}

inline int64_t sites_of(const Tensor& tensor) {
  int64_t sites = 1;
  for (int64_t d = 2; d < tensor.dim(); d++) sites *= tensor.size(d);
  return sites;
}

// Runs f over ranges of the units of a shape, on torch's threads.
template <typename F>
void parallel_units(const Channels& shape, const F& f) {
  constexpr int64_t grain = 16384;  // elements a thread should have at least
  parallel(shape.units(), grain / std::max<int64_t>(shape.unit_size(), 1), f);
}

}  // namespace genkern
