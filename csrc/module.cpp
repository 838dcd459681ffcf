// genkern._C: what was built, for `genkern info`. Loading it also registers the CPU kernels with torch.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

namespace genkern {
void bind_random(pybind11::module_& m);         // csrc/ops/random/host.cpp
void bind_simplex_noise(pybind11::module_& m);  // csrc/ops/simplex_noise/host.cpp
}  // namespace genkern

namespace {

pybind11::dict build_facts() {
  pybind11::dict facts;
  facts["compiler"] = std::string(GENKERN_COMPILER);
  facts["torch_built_against"] = std::string(GENKERN_TORCH_VERSION);
  facts["torch_target"] = std::string("2.10");
  facts["cuda_archs"] = std::string(GENKERN_CUDA_ARCHS);
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  facts["simd_levels"] = std::vector<std::string>{"x86-64", "x86-64-v3", "x86-64-v4"};
  __builtin_cpu_init();
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512cd");
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  facts["simd_used"] = std::string(v4 ? "x86-64-v4" : v3 ? "x86-64-v3" : "x86-64");
#else
  facts["simd_levels"] = std::vector<std::string>{"baseline"};
  facts["simd_used"] = std::string("baseline");
#endif
  return facts;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts of genkern's native build.";
  m.def("build_facts", &build_facts, "Compiler, torch, SIMD levels and CUDA architectures of this build.");
  genkern::bind_random(m);
  genkern::bind_simplex_noise(m);
}
