#include <mutex>

#include "../../common/torch.h"
#include "vq_assign.h"

namespace genkern::vq_assign {
namespace {

constexpr int64_t FLOPS = 1 << 21;  // of a thread's share, at least

template <typename T>
void run(const Call& call, double bound, int64_t* counts, double* sums) {
  using A = arithmetic_t<T>;
  const Shape& s = call.shape;
  const int64_t K = s.codes, D = s.features, blocks = blocks_of(K, width<A>()), unit = unit_of(D);
  std::vector<A> codes(blocks * D * width<A>()), start(blocks * width<A>()), mean(D);
  double radius = 0;
  const Packed<A> packed{codes.data(), start.data(), mean.data(), &radius};
  const int64_t units = (s.rows() + unit - 1) / unit;
  for (int64_t g = 0; g < s.groups; g++) {
    pack(static_cast<const A*>(call.codebook) + g * K * D, K, D, packed);
    parallel(units, FLOPS / std::max<int64_t>(2 * unit * K * D, 1),
             [&](int64_t begin, int64_t end) { assign<T>(call, g, packed, begin, end); });
  }
  if (!counts) return;
  if (bound < 0) {
    std::mutex lock;
    bound = 0;
    parallel(s.groups * s.rows(), (1 << 16) / std::max<int64_t>(D, 1) + 1, [&](int64_t begin, int64_t end) {
      const double found = largest<T>(call, begin, end);
      const std::lock_guard<std::mutex> guard(lock);
      bound = std::max(bound, found);
    });
  }
  for (int64_t g = 0; g < s.groups; g++)
    parallel(K, std::max<int64_t>(16, (1 << 16) * K / std::max<int64_t>(s.rows() * D, 1)),
             [&](int64_t begin, int64_t end) {
               statistics<T>(call, g, bound, begin, end, counts + g * K, sums + g * K * D);
             });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> assign_cpu(Tensor x, Tensor codebook,
                                                                      std::optional<Tensor> mask,
                                                                      std::optional<Tensor> bound, bool distance,
                                                                      bool second, bool statistics) {
  const int64_t G = x.size(0), O = x.size(1), D = x.size(2), I = x.size(3), K = codebook.size(1);
  const ScalarType arithmetic = wide(x);
  codebook = dense(codebook);
  if (codebook.scalar_type() != arithmetic) codebook = torch::stable::to(codebook, arithmetic);
  if (mask) mask = dense(*mask);
  const std::vector<int64_t> rows{G, O, I}, none{0};
  Tensor index = output(x, rows, ScalarType::Long);
  Tensor nearest = output(x, distance ? rows : none, arithmetic);
  Tensor next = output(x, second ? rows : none, ScalarType::Long);
  Tensor next_nearest = output(x, distance && second ? rows : none, arithmetic);
  Tensor counts = output(x, statistics ? std::vector<int64_t>{G, K} : none, ScalarType::Long);
  Tensor sums = output(x, statistics ? std::vector<int64_t>{G, K, D} : none, ScalarType::Double);
  const Call call{{G, O, D, I, K, x.stride(0), x.stride(1), x.stride(2), x.stride(3)},
                  x.data_ptr(),
                  codebook.data_ptr(),
                  mask ? data<uint8_t>(*mask) : nullptr,
                  data<int64_t>(index),
                  distance ? nearest.data_ptr() : nullptr,
                  second ? data<int64_t>(next) : nullptr,
                  distance && second ? next_nearest.data_ptr() : nullptr};
  const double limit = bound ? *data<double>(*bound) : -1.0;
  dispatch("vq_assign", x.scalar_type(), [&](auto type) {
    run<decltype(type)>(call, limit, statistics ? data<int64_t>(counts) : nullptr,
                        statistics ? data<double>(sums) : nullptr);
  });
  return {index, nearest, next, next_nearest, counts, sums};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(genkern, CPU, m) { m.impl("vq_assign", TORCH_BOX(&assign_cpu)); }

}  // namespace genkern::vq_assign
