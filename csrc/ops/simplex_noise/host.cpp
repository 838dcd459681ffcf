// The loops under a given instruction set over numpy arrays, for tests.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "simplex_noise.h"

namespace py = pybind11;

namespace genkern {
namespace {

py::array_t<float> fill_at_level(int64_t seed, std::optional<double> t, int64_t height, int64_t width, int octaves,
                                 double persistence, double frequency, int level) {
  if (level > simplex_noise::lookup_level()) throw py::value_error("this machine does not have that instruction set.");
  py::array_t<float> out({height, width});
  const simplex_noise::Tables tables = simplex_noise::tables_of(seed, t.has_value());
  const simplex_noise::Field field{height, width, octaves, persistence, frequency};
  simplex_noise::rows(field, tables, t ? &*t : nullptr, 0, height, out.mutable_data(), level);
  return out;
}

}  // namespace

void bind_simplex_noise(py::module_& m) {
  m.def("lookup_level", &simplex_noise::lookup_level,
        "1, 3 (AVX2) or 5 (AVX-512 VBMI): how tables are looked up here.");
  m.def("simplex_noise_fill", &fill_at_level,
        "One field (seed, t, height, width, octaves, persistence, frequency, level).");
}

}  // namespace genkern
