#pragma once
// One picture, drawn by a block of threads that share its buffers: what the CUDA kernel runs. Free of CUDA, so that
// ordinary threads with a barrier can run it too.

#include "causal_sample.h"

namespace genkern::causal_sample {

constexpr int STEPS = 256, RUNS = 256;  // what fits in 32 KB of kernel arguments
constexpr int SCANNERS = 32;            // threads that look for the largest logit

// A buffer in a picture's workspace, as in the CPU's canvas: a ring of rows, or (stride 0) the pixel and those before.
struct Map {
  int32_t offset, size, stride, rows, pitch, left;
};

struct BlockStep {
  int32_t kind, target, parts, groups, width, a, a_offset, b, b_offset, condition, size, bias, first, early, column,
      taps, at, above, waits;
  GENKERN_HD int32_t outputs() const { return parts * groups * width; }
};

struct BlockRun {
  int32_t row, column, taps, at;
};

struct Plan {
  Map maps[STEPS + 1];
  BlockStep steps[STEPS];
  BlockRun runs[RUNS];
  int32_t buffers, count, passes, sub_pixels, logits, logits_offset, logits_step, space;  // space: numbers a picture
  int32_t height, width, levels;
};

// Fills the plan; false where the program is too long for it.
inline bool plan_of(const Program& program, int64_t height, int64_t width, int64_t levels, int64_t weights,
                    Plan* plan) {
  if (program.steps.size() > size_t(STEPS) || program.buffers.size() > size_t(STEPS + 1) ||
      program.early.size() > size_t(RUNS) || weights >= int64_t{1} << 31)
    return false;
  const std::vector<bool> narrow = program.narrow();
  int64_t space = 0;
  for (size_t k = 0; k < program.buffers.size(); k++) {
    const Buffer& b = program.buffers[k];
    const int64_t columns = narrow[k] ? b.left + 1 : b.left + width + b.right;
    plan->maps[k] = {int32_t(space),
                     int32_t(b.size),
                     narrow[k] ? 0 : int32_t(b.size),
                     narrow[k] ? 1 : int32_t(b.rows),
                     int32_t(columns * b.size),
                     int32_t(b.left * b.size)};
    space += (narrow[k] ? 1 : b.rows) * columns * b.size;
  }
  for (size_t s = 0; s < program.steps.size(); s++) {
    const Step& step = program.steps[s];
    const bool above = step.kind == CONV && step.waits && step.early > 0;
    plan->steps[s] = {int32_t(step.kind),        int32_t(step.target),  int32_t(step.parts),
                      int32_t(step.groups),      int32_t(step.width),   int32_t(step.a),
                      int32_t(step.a_offset),    int32_t(step.b),       int32_t(step.b_offset),
                      int32_t(step.condition),   int32_t(step.size),    int32_t(step.bias),
                      int32_t(step.first_early), int32_t(step.early),   int32_t(step.late.column),
                      int32_t(step.late.taps),   int32_t(step.late.at), above ? int32_t(space) : -1,
                      int32_t(step.waits)};
    if (above) space += width * step.outputs();
  }
  for (size_t r = 0; r < program.early.size(); r++) {
    const Run& run = program.early[r];
    plan->runs[r] = {int32_t(run.row), int32_t(run.column), int32_t(run.taps), int32_t(run.at)};
  }
  plan->buffers = int32_t(program.buffers.size()), plan->count = int32_t(program.steps.size());
  plan->passes = int32_t(program.passes), plan->sub_pixels = int32_t(program.sub_pixels);
  plan->logits = int32_t(program.logits), plan->logits_offset = int32_t(program.logits_offset);
  plan->logits_step = int32_t(program.logits_step), plan->space = int32_t(space);
  plan->height = int32_t(height), plan->width = int32_t(width), plan->levels = int32_t(levels);
  return space < int64_t{1} << 31;
}

template <typename T>
struct Picture {
  const T *weights, *conditions, *noise;
  const bool* free;
  int32_t* x;
  T* space;    // the plan's numbers, zeros at first
  T* scratch;  // shared: as many as there are threads, at least 32, and then the levels
  T temperature;
};

template <typename T>
GENKERN_HD T* at(const Plan& plan, const Picture<T>& picture, int map, int i, int j) {
  const Map& m = plan.maps[map];
  const int slot = m.stride == 0 ? 0 : (i + m.rows) % m.rows;
  return picture.space + m.offset + slot * m.pitch + m.left + j * m.stride;
}

// Bias and early runs of a convolution, for a whole row.
template <typename T, typename Block>
GENKERN_HD void convolve_row(const Plan& plan, const Picture<T>& picture, const BlockStep& step, int i,
                             const Block& block) {
  const int outputs = step.outputs(), size = plan.maps[step.a].size;
  T* target = step.above >= 0 ? picture.space + step.above : at(plan, picture, step.target, i, 0);
  for (int e = int(block.thread()); e < plan.width * outputs; e += int(block.threads())) {
    const int j = e / outputs, o = e % outputs;
    T sum = step.bias >= 0 ? picture.weights[step.bias + o] : T(0);
    for (int r = step.first; r < step.first + step.early; r++) {
      const BlockRun& run = plan.runs[r];
      const T* x = at(plan, picture, step.a, i + run.row, 0) + (j + run.column) * size + step.a_offset;
      const T* w = picture.weights + run.at + o;
      for (int k = 0; k < run.taps * step.size; k++) sum += x[k] * w[int64_t(k) * outputs];
    }
    target[e] = sum;
  }
}

// Channels from to from + n at a pixel. Where there are more threads than channels, each sums a slice of the inputs.
template <typename T, typename Block>
GENKERN_HD void convolve_pixel(const Plan& plan, const Picture<T>& picture, const BlockStep& step, int i, int j,
                               int from, int n, const Block& block) {
  const int outputs = step.outputs(), inputs = step.taps * step.size, threads = int(block.threads());
  const T* x = at(plan, picture, step.a, i, j) + step.column * plan.maps[step.a].size + step.a_offset;
  const T* above = step.above >= 0  ? picture.space + step.above + j * outputs
                   : step.bias >= 0 ? picture.weights + step.bias
                                    : nullptr;
  const T* w = picture.weights + step.at;
  T* y = at(plan, picture, step.target, i, j);
  const int slices = threads / n > 1 ? threads / n : 1, length = (inputs + slices - 1) / slices;
  for (int e = int(block.thread()); e < slices * n; e += threads) {
    const int o = from + e % n, begin = e / n * length, end = begin + length < inputs ? begin + length : inputs;
    T sum = 0;
    for (int k = begin; k < end; k++) sum += x[k] * w[int64_t(k) * outputs + o];
    if (slices == 1)
      y[o] = sum + (above != nullptr ? above[o] : T(0));
    else
      picture.scratch[e] = sum;
  }
  if (slices == 1) return;
  block.sync();
  for (int o = int(block.thread()); o < n; o += threads) {
    T sum = above != nullptr ? above[from + o] : T(0);
    for (int slice = 0; slice < slices; slice++) sum += picture.scratch[slice * n + o];
    y[from + o] = sum;
  }
}

template <typename T>
GENKERN_HD T combined(const BlockStep& step, const T* a, const T* b, const T* condition, int k) {
  const int half = step.outputs();
  const auto term = [&](int at) {
    return a[at] + (b != nullptr ? b[at] : T(0)) + (condition != nullptr ? condition[at] : T(0));
  };
  switch (step.kind) {
    case ADD: return a[k] + b[k];
    case MUL: return a[k] * b[k];
    case GATE: return tanh(term(k)) * sigmoid(term(half + k));
    default: return apply(Kind(step.kind), a[k]);
  }
}

template <typename T, typename Block>
GENKERN_HD void map_pixels(const Plan& plan, const Picture<T>& picture, const BlockStep& step, int i, int first,
                           int pixels, int from, int n, const Block& block) {
  const T* condition = step.condition >= 0 ? picture.conditions + step.condition : nullptr;
  for (int e = int(block.thread()); e < pixels * n; e += int(block.threads())) {
    const int j = first + e / n, k = from + e % n;
    const T* a = at(plan, picture, step.a, i, j) + step.a_offset;
    const T* b = step.b >= 0 ? at(plan, picture, step.b, i, j) + step.b_offset : nullptr;
    at(plan, picture, step.target, i, j)[k] = combined(step, a, b, condition, k);
  }
}

// Draws sub-pixel c of a pixel, and writes it into the picture and its buffer.
template <typename T, typename Block>
GENKERN_HD void draw_pixel(const Plan& plan, const Picture<T>& picture, int i, int j, int c, const Block& block) {
  const int site = i * plan.width + j, place = c * plan.height * plan.width + site, levels = plan.levels;
  const T* logits = at(plan, picture, plan.logits, i, j) + plan.logits_offset + c * plan.logits_step;
  const int thread = int(block.thread()), threads = int(block.threads());
  T* table = picture.scratch + (threads > SCANNERS ? threads : SCANNERS);
  if (picture.free[site]) {
    for (int s = thread; s < SCANNERS; s += threads) {
      T largest = logits[s < levels ? s : 0];
      for (int k = s; k < levels; k += SCANNERS) largest = logits[k] > largest ? logits[k] : largest;
      picture.scratch[s] = largest;
    }
    block.sync();
    T largest = picture.scratch[0];
    for (int s = 1; s < SCANNERS; s++) largest = picture.scratch[s] > largest ? picture.scratch[s] : largest;
    if (picture.temperature != T(0))
      for (int k = thread; k < levels; k += threads)
        table[k] = exp(logits[k] / picture.temperature - largest / picture.temperature);
    block.sync();
    if (thread == 0) {
      int level = 0;
      if (picture.temperature == T(0)) {
        while (logits[level] != largest) level++;
      } else {
        T total = 0, sum = 0;
        for (int k = 0; k < levels; k++) total += table[k];
        const T threshold = picture.noise[place] * total;
        for (; level < levels - 1; level++)
          if (!((sum += table[level]) < threshold)) break;
      }
      picture.x[place] = level;
    }
  }
  if (thread == 0) at(plan, picture, 0, i, j)[c] = T(picture.x[place]) * (T(2) / T(levels - 1)) - T(1);
  block.sync();
}

// Buffers of one pixel and those before: moves them on by a pixel, or (first) empties them for a new row.
template <typename T, typename Block>
GENKERN_HD void move_on(const Plan& plan, const Picture<T>& picture, bool first, const Block& block) {
  for (int k = 0; k < plan.buffers; k++) {
    const Map& m = plan.maps[k];
    if (m.stride != 0 || m.left == 0) continue;
    T* window = picture.space + m.offset;
    // a thread keeps to one channel, so that what it overwrites it alone has to read
    for (int c = int(block.thread()); c < m.size; c += int(block.threads()))
      for (int e = c; e < m.left; e += m.size) window[e] = first ? T(0) : window[e + m.size];
  }
  block.sync();
}

template <typename T, typename Block>
GENKERN_HD void sample_picture(const Plan& plan, const Picture<T>& picture, const Block& block) {
  const int together = plan.sub_pixels / plan.passes;
  for (int e = int(block.thread()); e < plan.space; e += int(block.threads())) picture.space[e] = T(0);
  block.sync();
  for (int i = 0; i < plan.height; i++) {
    move_on(plan, picture, true, block);
    for (int s = 0; s < plan.count; s++) {
      const BlockStep& step = plan.steps[s];
      if (step.kind == CONV && (!step.waits || step.early > 0)) {
        convolve_row(plan, picture, step, i, block);
        block.sync();
      } else if (!step.waits) {
        map_pixels(plan, picture, step, i, 0, plan.width, 0, step.outputs(), block);
        block.sync();
      }
    }
    for (int j = 0; j < plan.width; j++) {
      for (int pass = 0; pass < plan.passes; pass++) {
        for (int s = 0; s < plan.count; s++) {
          const BlockStep& step = plan.steps[s];
          if (!step.waits) continue;
          const bool split = plan.passes > 1 && step.groups == plan.passes;
          const int pieces = split ? step.parts : 1, n = split ? step.width : step.outputs();
          for (int p = 0; p < pieces; p++) {
            const int from = split ? (p * plan.passes + pass) * step.width : 0;
            if (step.kind == CONV)
              convolve_pixel(plan, picture, step, i, j, from, n, block);
            else
              map_pixels(plan, picture, step, i, j, 1, from, n, block);
            block.sync();
          }
        }
        for (int c = pass * together; c < (pass + 1) * together; c++) draw_pixel(plan, picture, i, j, c, block);
      }
      move_on(plan, picture, false, block);
    }
  }
}

}  // namespace genkern::causal_sample
