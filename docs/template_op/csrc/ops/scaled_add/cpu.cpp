// The loops: plain pointers and sizes, so that the compiler vectorises them for every x86-64 level.

#include "scaled_add.h"

namespace genkern::scaled_add {

#define GENKERN_DEFINE(T, A)                                                                                    \
  GENKERN_CLONES static void add_##T(const T* x, const T* update, A decay, A scale, T* y, int64_t n) {          \
    for (int64_t i = 0; i < n; i++) y[i] = store<T>(add(load(x[i]), load(update[i]), decay, scale));            \
  }                                                                                                             \
  GENKERN_CLONES static void pull_##T(const T* g, A decay, A scale, T* grad_x, T* grad_update, int64_t n) {     \
    for (int64_t i = 0; i < n; i++) {                                                                           \
      grad_x[i] = store<T>(decay * load(g[i]));                                                                 \
      grad_update[i] = store<T>(scale * load(g[i]));                                                            \
    }                                                                                                           \
  }                                                                                                             \
  template <>                                                                                                   \
  void forward<T>(const T* x, const T* update, A decay, A scale, T* y, int64_t begin, int64_t end) {            \
    add_##T(x + begin, update + begin, decay, scale, y + begin, end - begin);                                   \
  }                                                                                                             \
  template <>                                                                                                   \
  void backward<T>(const T* g, A decay, A scale, T* grad_x, T* grad_update, int64_t begin, int64_t end) {       \
    pull_##T(g + begin, decay, scale, grad_x + begin, grad_update + begin, end - begin);                        \
  }
GENKERN_DEFINE(float, float)
GENKERN_DEFINE(double, double)
GENKERN_DEFINE(Half, float)
GENKERN_DEFINE(BFloat16, float)

}  // namespace genkern::scaled_add
