// The loops for each x86-64 level and the choice between them. Compiled without contraction to fma.

#include <algorithm>
#include <cstring>

#include "random.h"

#define GENKERN_LEVEL plain
#define GENKERN_LANES 0
#include "loops.h"
#undef GENKERN_LEVEL
#undef GENKERN_LANES

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define GENKERN_LEVELS 1
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define GENKERN_LEVEL v3
#define GENKERN_LANES 4
#include "loops.h"
#undef GENKERN_LEVEL
#undef GENKERN_LANES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define GENKERN_LEVEL v4
#define GENKERN_LANES 8
#include "loops.h"
#undef GENKERN_LEVEL
#undef GENKERN_LANES
#pragma GCC pop_options
#endif

namespace genkern {

namespace {

int detect() {
#ifdef GENKERN_LEVELS
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512cd");
  return v3 && v4 ? 4 : v3 ? 3 : 1;
#else
  return 1;
#endif
}

}  // namespace

int simd_level() {
  static const int level = detect();
  return level;
}

template <typename Draw, typename T>
void fill(T* out, uint64_t key, int64_t sample_offset, int64_t elements, int64_t begin, int64_t end, int level) {
  if (begin >= end) return;
#ifdef GENKERN_LEVELS
  if (level >= 4) return v4::fill<Draw>(out, key, sample_offset, elements, begin, end);
  if (level >= 3) return v3::fill<Draw>(out, key, sample_offset, elements, begin, end);
#endif
  plain::fill<Draw>(out, key, sample_offset, elements, begin, end);
}

#define GENKERN_FILL(Draw, T) \
  template void fill<Draw, T>(T*, uint64_t, int64_t, int64_t, int64_t, int64_t, int);
GENKERN_FILL(Normal, float)
GENKERN_FILL(Normal, double)
GENKERN_FILL(Normal, Half)
GENKERN_FILL(Normal, BFloat16)
GENKERN_FILL(Uniform, float)
GENKERN_FILL(Uniform, double)
GENKERN_FILL(Uniform, Half)
GENKERN_FILL(Uniform, BFloat16)

}  // namespace genkern
