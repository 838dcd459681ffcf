// The loops: plain pointers and sizes, so that the compiler vectorises them for every x86-64 level.

#include "scaled_add.h"

namespace genkern::scaled_add {

#define GENKERN_DEFINE(T)                                                                                          \
  GENKERN_CLONES static void add_##T(const T* x, const T* update, arithmetic_t<T> scale, T* y, int64_t n) {        \
    for (int64_t i = 0; i < n; i++) y[i] = store<T>(add(load(x[i]), load(update[i]), scale));                      \
  }                                                                                                                \
  GENKERN_CLONES static void pull_##T(const T* g, arithmetic_t<T> scale, T* grad_x, T* grad_update, int64_t n) {   \
    for (int64_t i = 0; i < n; i++) grad_x[i] = g[i], grad_update[i] = store<T>(scale * load(g[i]));               \
  }                                                                                                                \
  template <>                                                                                                      \
  void forward<T>(const T* x, const T* update, arithmetic_t<T> scale, T* y, int64_t begin, int64_t end) {          \
    add_##T(x + begin, update + begin, scale, y + begin, end - begin);                                             \
  }                                                                                                                \
  template <>                                                                                                      \
  void backward<T>(const T* g, arithmetic_t<T> scale, T* grad_x, T* grad_update, int64_t begin, int64_t end) {     \
    pull_##T(g + begin, scale, grad_x + begin, grad_update + begin, end - begin);                                  \
  }
GENKERN_DEFINE(float)
GENKERN_DEFINE(double)
GENKERN_DEFINE(Half)
GENKERN_DEFINE(BFloat16)

}  // namespace genkern::scaled_add
