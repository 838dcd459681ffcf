// The scalar functions of philox.h and normal.h over numpy arrays, for tests and for checks by eye.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "random.h"

namespace py = pybind11;

namespace genkern {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

Array<uint32_t> philox_words(uint64_t key, Array<uint32_t> counters) {
  if (counters.ndim() != 2 || counters.shape(1) != 4) throw py::value_error("philox: counters must be [N, 4].");
  Array<uint32_t> out({counters.shape(0), py::ssize_t{4}});
  for (py::ssize_t i = 0; i < counters.shape(0); i++) {
    const uint32_t* c = counters.data(i, 0);
    const Words word = philox(key, {c[0], c[1], c[2], c[3]});
    uint32_t* to = out.mutable_data(i, 0);
    to[0] = word.x, to[1] = word.y, to[2] = word.z, to[3] = word.w;
  }
  return out;
}

template <typename Draw>
Array<float> draw_at(uint64_t key, Array<uint64_t> samples, Array<uint64_t> elements) {
  if (samples.size() != elements.size()) throw py::value_error("samples and elements must be of one size.");
  Array<float> out(samples.size());
  for (py::ssize_t i = 0; i < samples.size(); i++) {
    const uint64_t element = elements.data()[i];
    const Words word = noise_words(key, samples.data()[i], element / 4);
    const bool front = element % 4 < 2;
    const Pair pair = Draw::draw(front ? word.x : word.z, front ? word.y : word.w);
    out.mutable_data()[i] = element % 2 == 0 ? pair.a : pair.b;
  }
  return out;
}

template <typename Draw>
Array<float> fill_at_level(uint64_t key, int64_t samples, int64_t elements, int64_t sample_offset, int level) {
  if (level > simd_level()) throw py::value_error("this machine does not have that instruction set.");
  Array<float> out({samples, elements});
  fill<Draw>(out.mutable_data(), key, sample_offset, elements, 0, samples * quads_of(elements), level);
  return out;
}

}  // namespace

void bind_random(py::module_& m) {
  m.def("simd_level", &simd_level, "1, 3 or 4: the x86-64 level whose random loops run here.");
  m.def("philox", &philox_words, "Philox4x32-10 of counters [N, 4] under a 64-bit key.");
  m.def("normal_at", &draw_at<Normal>, "Standard normal numbers (key, samples [N], elements [N]), one by one.");
  m.def("uniform_at", &draw_at<Uniform>, "Uniform numbers (key, samples [N], elements [N]), one by one.");
  m.def("normal_fill", &fill_at_level<Normal>, "The vector loops (key, samples, elements, sample_offset, level).");
  m.def("uniform_fill", &fill_at_level<Uniform>, "The vector loops (key, samples, elements, sample_offset, level).");
}

}  // namespace genkern
