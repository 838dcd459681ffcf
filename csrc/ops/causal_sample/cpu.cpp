#include <algorithm>
#include <cstring>

#include "causal_sample.h"

namespace genkern::causal_sample {
namespace {

constexpr int64_t IMAGES = 16;  // pictures that go through the layers together, and share what is read of the weights

// A cache line, which is one vector of AVX-512 or a few of whatever the machine has.
template <typename T>
struct Line {
  static constexpr int LANES = int(64 / sizeof(T));
  typedef T type __attribute__((vector_size(64), aligned(sizeof(T))));
};

// y[r] += x[r] W for ROWS rows and LINES columns of lines. Even and odd inputs are summed apart, in every shape of
// tile, so that the bits of a row do not depend on how many rows there are.
template <int ROWS, int LINES, typename T>
GENKERN_INLINE void tile(const T* x, int64_t ldx, const T* w, int64_t ldw, int64_t inputs, T* y, int64_t ldy) {
  using V = typename Line<T>::type;
  constexpr int LANES = Line<T>::LANES;
  V even[ROWS][LINES], odd[ROWS][LINES];
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < LINES; v++) {
      even[r][v] = *reinterpret_cast<const V*>(y + r * ldy + v * LANES);
      odd[r][v] = V{};
    }
  int64_t i = 0;
  for (; i + 2 <= inputs; i += 2) {
    for (int v = 0; v < LINES; v++) {
      const V first = *reinterpret_cast<const V*>(w + i * ldw + v * LANES);
      const V second = *reinterpret_cast<const V*>(w + (i + 1) * ldw + v * LANES);
      for (int r = 0; r < ROWS; r++) {
        even[r][v] += x[r * ldx + i] * first;
        odd[r][v] += x[r * ldx + i + 1] * second;
      }
    }
  }
  if (i < inputs)
    for (int v = 0; v < LINES; v++) {
      const V last = *reinterpret_cast<const V*>(w + i * ldw + v * LANES);
      for (int r = 0; r < ROWS; r++) even[r][v] += x[r * ldx + i] * last;
    }
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < LINES; v++) *reinterpret_cast<V*>(y + r * ldy + v * LANES) = even[r][v] + odd[r][v];
}

template <int ROWS, typename T>
GENKERN_INLINE void rows_of_tiles(const T* x, int64_t ldx, const T* w, int64_t ldw, int64_t inputs, T* y, int64_t ldy,
                                  int64_t outputs) {
  constexpr int LANES = Line<T>::LANES;
  int64_t o = 0;
  if constexpr (ROWS == 1)
    for (; o + 4 * LANES <= outputs; o += 4 * LANES) tile<1, 4>(x, ldx, w + o, ldw, inputs, y + o, ldy);
  for (; o + 2 * LANES <= outputs; o += 2 * LANES) tile<ROWS, 2>(x, ldx, w + o, ldw, inputs, y + o, ldy);
  for (; o < outputs; o += LANES) tile<ROWS, 1>(x, ldx, w + o, ldw, inputs, y + o, ldy);
}

template <typename T>
GENKERN_INLINE void multiply(const T* x, int64_t ldx, int64_t rows, const T* w, int64_t ldw, int64_t inputs, T* y,
                             int64_t ldy, int64_t outputs) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) rows_of_tiles<4>(x + r * ldx, ldx, w, ldw, inputs, y + r * ldy, ldy, outputs);
  for (; r < rows; r++) rows_of_tiles<1>(x + r * ldx, ldx, w, ldw, inputs, y + r * ldy, ldy, outputs);
}

// The buffers of some pictures. Of most, a ring of rows; of those that nothing reads from another row ("narrow"), the
// pixel that is being drawn and those to its left that are read. For layers that wait, what they need from above.
template <typename T>
struct Canvas {
  const Call<T>& call;
  const Program& program;
  int64_t images;
  std::vector<std::vector<T>> maps, above;
  std::vector<T*> now;                 // the current row of a buffer, at the first picture's first vector
  std::vector<int64_t> stride, pitch;  // from a vector to the next, from a picture to the next
  std::vector<size_t> waiting, whole;  // of the current row: steps of a pixel, steps of the row
  std::vector<T> zeros, table;

  Canvas(const Call<T>& call, int64_t images) : call(call), program(*call.program), images(images) {
    const std::vector<bool> narrow = program.narrow();
    size_t widest = 0;
    for (size_t k = 0; k < program.buffers.size(); k++) {
      const Buffer& b = program.buffers[k];
      const int64_t columns = narrow[k] ? b.left + 1 : b.left + call.width / b.scale + b.right;
      stride.push_back(narrow[k] ? 0 : b.size), pitch.push_back(columns * b.size);
      maps.emplace_back(size_t((narrow[k] ? 1 : b.rows) * images * columns * b.size), T(0));
      widest = std::max(widest, size_t(b.size));
    }
    for (const Step& step : program.steps)
      above.emplace_back(size_t(has_above(step) ? images * vectors(step) * step.outputs() : 0));
    now.resize(program.buffers.size());
    zeros.assign(widest, T(0)), table.resize(size_t(call.levels));
  }

  static bool has_above(const Step& step) { return step.kind == CONV && step.waits && step.early > 0; }
  // How many vectors a step fills in a row.
  int64_t vectors(const Step& step) const { return call.width / (step.scale * step.every); }

  T* row(int64_t buffer, int64_t i) {
    const Buffer& b = program.buffers[size_t(buffer)];
    const int64_t slot = stride[size_t(buffer)] == 0 ? 0 : (i + b.rows) % b.rows;
    return maps[size_t(buffer)].data() + slot * images * pitch[size_t(buffer)] + b.left * b.size;
  }
  void begin_row(int64_t i, int64_t first) {
    for (size_t k = 0; k < now.size(); k++) {
      const int64_t scale = program.buffers[k].scale;
      if (stride[k] == 0 && i % scale == 0) std::fill(maps[k].begin(), maps[k].end(), T(0));
      now[k] = row(int64_t(k), i / scale);
    }
    if (program.features >= 0) {
      const int64_t size = call.width * program.buffers[size_t(program.features)].size;
      for (int64_t b = 0; b < images; b++)
        std::memcpy(at(program.features, b, 0), call.features + ((first + b) * call.height + i) * size,
                    size_t(size) * sizeof(T));
    }
    waiting.clear(), whole.clear();
    for (size_t s = 0; s < program.steps.size(); s++) {
      const Step& step = program.steps[s];
      if (step.place_of_row(i) < 0) continue;
      if (step.waits) waiting.push_back(s);
      if (has_above(step) || !step.waits) whole.push_back(s);
    }
  }
  void end_pixel(int64_t j) {
    for (size_t k = 0; k < now.size(); k++) {
      const Buffer& b = program.buffers[k];
      if (stride[k] != 0 || b.left == 0 || (j + 1) % b.scale != 0) continue;
      for (int64_t image = 0; image < images; image++) {
        T* window = maps[k].data() + image * pitch[k];
        std::memmove(window, window + b.size, size_t(b.left * b.size) * sizeof(T));
      }
    }
  }
  // A vector of the current row; its place is counted in vectors.
  T* at(int64_t buffer, int64_t image, int64_t place) const {
    return now[size_t(buffer)] + image * pitch[size_t(buffer)] + place * stride[size_t(buffer)];
  }
  const T* bias(const Step& step) const { return step.bias < 0 ? zeros.data() : call.weights + step.bias; }
};

// Bias and rows above, for all vectors that a step fills in a row of one picture; `distance` is from one to the next.
template <typename T>
GENKERN_INLINE void whole_row(Canvas<T>& canvas, const Step& step, int64_t i, int64_t image, T* y, int64_t distance) {
  const Program& program = canvas.program;
  const Buffer& source = program.buffers[size_t(step.a)];
  const int64_t outputs = step.outputs(), vectors = canvas.vectors(step);
  const T* bias = canvas.bias(step);
  for (int64_t m = 0; m < vectors; m++) std::memcpy(y + m * distance, bias, size_t(outputs) * sizeof(T));
  for (int64_t k = 0; k < step.early; k++) {
    const Run& run = program.early[size_t(step.first_early + k)];
    const T* x = canvas.row(step.a, i / source.scale + run.row) + image * canvas.pitch[size_t(step.a)];
    multiply(x + run.column * source.size + step.a_offset, step.stride * source.size, vectors,
             canvas.call.weights + run.at, outputs, run.taps * step.size, y, distance, outputs);
  }
}

// One segment of an elementwise step; b and the condition may be zeros.
template <typename T>
GENKERN_INLINE void elementwise(const Step& step, const T* a, const T* b, const T* condition, T* y, int64_t n) {
  const int64_t half = step.outputs();
  switch (step.kind) {
    case ADD:
#pragma omp simd
      for (int64_t k = 0; k < n; k++) y[k] = a[k] + b[k] + condition[k];
      break;
    case MUL:
#pragma omp simd
      for (int64_t k = 0; k < n; k++) y[k] = a[k] * b[k];
      break;
    case GATE:
#pragma omp simd
      for (int64_t k = 0; k < n; k++)
        y[k] = tanh(a[k] + b[k] + condition[k]) * sigmoid(a[half + k] + b[half + k] + condition[half + k]);
      break;
    case GLU:
#pragma omp simd
      for (int64_t k = 0; k < n; k++)
        y[k] = (a[k] + b[k] + condition[k]) * sigmoid(a[half + k] + b[half + k] + condition[half + k]);
      break;
#define GENKERN_CALL(KIND)                                    \
  case KIND:                                                  \
    _Pragma("omp simd") for (int64_t k = 0; k < n; k++) y[k] = apply(KIND, a[k]); \
    break;
      GENKERN_CALL(RELU)
      GENKERN_CALL(ELU)
      GENKERN_CALL(NEGATIVE_ELU)
      GENKERN_CALL(TANH)
      GENKERN_CALL(SIGMOID)
      GENKERN_CALL(SILU)
#undef GENKERN_CALL
    default: std::memcpy(y, a, size_t(n) * sizeof(T));
  }
}

template <typename T>
GENKERN_INLINE void elementwise_at(Canvas<T>& canvas, const Step& step, int64_t place, int64_t image, int64_t number,
                                   int64_t from, int64_t n) {
  const T* a = canvas.at(step.a, image, place) + step.a_offset + from;
  const T* b = step.b < 0 ? canvas.zeros.data() : canvas.at(step.b, image, place) + step.b_offset + from;
  const T* condition = step.condition < 0
                           ? canvas.zeros.data()
                           : canvas.call.conditions + number * canvas.call.conditions_size + step.condition + from;
  elementwise(step, a, b, condition, canvas.at(step.target, image, place) + step.target_offset + from, n);
}

// The number of levels whose cumulative probability lies below the uniform number.
template <typename T>
GENKERN_INLINE int32_t draw_level(const T* logits, T uniform, T temperature, int64_t levels, T* table) {
  if (temperature == T(0)) return int32_t(std::max_element(logits, logits + levels) - logits);
  T largest = logits[0];
#pragma omp simd reduction(max : largest)
  for (int64_t k = 1; k < levels; k++) largest = logits[k] > largest ? logits[k] : largest;
  largest /= temperature;
#pragma omp simd
  for (int64_t k = 0; k < levels; k++) table[k] = exp(logits[k] / temperature - largest);
  T total = 0;
  for (int64_t k = 0; k < levels; k++) table[k] = total += table[k];
  const T threshold = uniform * total;
  int32_t level = 0;
#pragma omp simd reduction(+ : level)
  for (int64_t k = 0; k < levels - 1; k++) level += table[k] < threshold;
  return level;
}

// Channels from to from + n of a step, at pixel j of all pictures; m: which of the vectors that it fills this is.
template <typename T>
GENKERN_INLINE void segment(Canvas<T>& canvas, size_t s, int64_t j, int64_t m, int64_t first, int64_t from, int64_t n) {
  const Program& program = canvas.program;
  const Step& step = program.steps[s];
  const int64_t images = canvas.images, place = j / step.scale;
  if (step.kind != CONV) {
    for (int64_t b = 0; b < images; b++) elementwise_at(canvas, step, place, b, first + b, from, n);
    return;
  }
  const Buffer& source = program.buffers[size_t(step.a)];
  const int64_t outputs = step.outputs(), pitch = canvas.pitch[size_t(step.target)];
  const bool early = step.early > 0;
  const T* above = early ? canvas.above[s].data() + m * outputs : canvas.bias(step);
  T* y = canvas.at(step.target, 0, place) + from;
  for (int64_t b = 0; b < images; b++)
    std::memcpy(y + b * pitch, above + from + (early ? b * canvas.vectors(step) * outputs : 0), size_t(n) * sizeof(T));
  const T* x = canvas.at(step.a, 0, j / source.scale) + step.late.column * source.size + step.a_offset;
  multiply(x, canvas.pitch[size_t(step.a)], images, canvas.call.weights + step.late.at + from, outputs,
           step.late.taps * step.size, y, pitch, n);
}

// All steps that wait; where a pixel has several passes, for the channels of one: a piece in each part of a vector.
template <typename T>
GENKERN_INLINE void pixel(Canvas<T>& canvas, int64_t j, int64_t pass, int64_t first) {
  const int64_t passes = canvas.program.passes;
  for (const size_t s : canvas.waiting) {
    const Step& step = canvas.program.steps[s];
    const int64_t m = step.place_of_column(j);
    if (m < 0) continue;
    const bool split = passes > 1 && step.groups == passes;
    const int64_t pieces = split ? step.parts : 1, length = split ? step.width : step.outputs();
    for (int64_t p = 0; p < pieces; p++)
      segment(canvas, s, j, m, first, split ? (p * passes + pass) * step.width : 0, length);
  }
}

// Draws sub-pixel c of a pixel, and those after it where one draw gives all.
template <typename T>
GENKERN_INLINE void draw_pixel(Canvas<T>& canvas, int64_t i, int64_t j, int64_t c, int64_t first) {
  const Call<T>& call = canvas.call;
  const Program& program = canvas.program;
  const int64_t sites = call.height * call.width, site = i * call.width + j, draws = program.draws();
  for (int64_t b = 0; b < canvas.images; b++) {
    int32_t* x = call.x + ((first + b) * program.sub_pixels + c) * sites + site;
    if (call.free[site]) {
      const T* params = canvas.at(program.logits, b, j) + program.logits_offset + c * program.logits_step;
      const T* noise = call.noise + ((first + b) * program.noises() + c) * sites + site;
      if (program.head == MIXTURE) {
        T level[3];
        discretized_mixture_logistics::draw(
            mixture_of<T>(program.sub_pixels, program.outputs, call.levels, call.temperature), params, 1, noise, sites,
            level);
        for (int64_t k = 0; k < draws; k++) x[k * sites] = int32_t(level[k]);
      } else if (program.head == QUANTILE) {
        *x = nearest_level(*params, call.levels);
      } else {
        *x = draw_level(params, *noise, call.temperature, call.levels, canvas.table.data());
      }
    }
    T* const pixel = canvas.at(0, b, j);
    for (int64_t k = 0; k < draws; k++) pixel[c + k] = T(x[k * sites]) * (T(2) / T(call.levels - 1)) - T(1);
    if (program.ones()) pixel[program.sub_pixels] = T(1);
  }
}

template <typename T>
GENKERN_INLINE void sample_images(Canvas<T>& canvas, int64_t first) {
  const Call<T>& call = canvas.call;
  const Program& program = canvas.program;
  const int64_t together = program.sub_pixels / program.passes;
  for (int64_t i = 0; i < call.height; i++) {
    canvas.begin_row(i, first);
    for (int64_t b = 0; b < canvas.images; b++)
      for (const size_t s : canvas.whole) {
        const Step& step = program.steps[s];
        if (step.kind != CONV)
          for (int64_t m = 0; m < canvas.vectors(step); m++)
            elementwise_at(canvas, step, m, b, first + b, 0, step.outputs());
        else if (step.waits)
          whole_row(canvas, step, i, b, canvas.above[s].data() + b * canvas.vectors(step) * step.outputs(),
                    step.outputs());
        else
          whole_row(canvas, step, i, b, canvas.at(step.target, b, step.column), step.every * step.outputs());
      }
    for (int64_t j = 0; j < call.width; j++) {
      for (int64_t pass = 0; pass < program.passes; pass++) {
        pixel(canvas, j, pass, first);
        for (int64_t c = pass * together; c < (pass + 1) * together; c += program.draws())
          draw_pixel(canvas, i, j, c, first);
      }
      canvas.end_pixel(j);
    }
  }
}

GENKERN_CLONES void sample_float(Canvas<float>& canvas, int64_t first) { sample_images(canvas, first); }
GENKERN_CLONES void sample_double(Canvas<double>& canvas, int64_t first) { sample_images(canvas, first); }

}  // namespace

void sample(const Call<float>& call, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += IMAGES) {
    Canvas<float> canvas(call, std::min(IMAGES, end - first));
    sample_float(canvas, first);
  }
}

void sample(const Call<double>& call, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += IMAGES) {
    Canvas<double> canvas(call, std::min(IMAGES, end - first));
    sample_double(canvas, first);
  }
}

}  // namespace genkern::causal_sample
