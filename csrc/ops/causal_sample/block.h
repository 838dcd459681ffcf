#pragma once
// One picture, drawn by a block of threads that share its buffers: what the CUDA kernel runs. Free of CUDA, so that
// ordinary threads with a barrier can run it too.

#include "causal_sample.h"

namespace genkern::causal_sample {

constexpr int SCANNERS = 32;  // threads that look for the largest logit

// A buffer in a picture's workspace, as in the CPU's canvas: a ring of rows, or (stride 0) the pixel and those before.
struct Map {
  int32_t offset, size, stride, rows, pitch, left, scale;
};

struct BlockStep {
  int32_t kind, target, target_offset, parts, groups, width, a, a_offset, b, b_offset, condition, size, bias, row,
      column, first, early, left, taps, at, above, waits, scale, stride, every;
  GENKERN_HD int32_t outputs() const { return parts * groups * width; }
  // Which of the vectors that it fills belongs to a pixel: a row and a column of these; or -1.
  GENKERN_HD int32_t place(int32_t pixel, int32_t phase) const {
    return pixel % scale == 0 && pixel / scale % every == phase ? pixel / (scale * every) : -1;
  }
};

struct BlockRun {
  int32_t row, column, taps, at;
};

struct Tables {
  std::vector<Map> maps;
  std::vector<BlockStep> steps;
  std::vector<BlockRun> runs;
};

struct Plan {
  const Map* maps;
  const BlockStep* steps;
  const BlockRun* runs;
  int32_t buffers, count, passes, sub_pixels, head, outputs, noises, draws, ones, features;
  int32_t logits, logits_offset, logits_step, space;  // space: numbers a picture
  int32_t height, width, levels;
};

// Fills the tables and the plan, which points to them; false where the picture is too large for 32-bit offsets.
inline bool plan_of(const Program& program, int64_t height, int64_t width, int64_t levels, int64_t weights,
                    Tables* tables, Plan* plan) {
  if (weights >= int64_t{1} << 31) return false;
  const std::vector<bool> narrow = program.narrow();
  int64_t space = 0;
  for (size_t k = 0; k < program.buffers.size(); k++) {
    const Buffer& b = program.buffers[k];
    const int64_t columns = narrow[k] ? b.left + 1 : b.left + width / b.scale + b.right;
    tables->maps.push_back({int32_t(space), int32_t(b.size), narrow[k] ? 0 : int32_t(b.size),
                            narrow[k] ? 1 : int32_t(b.rows), int32_t(columns * b.size), int32_t(b.left * b.size),
                            int32_t(b.scale)});
    space += (narrow[k] ? 1 : b.rows) * columns * b.size;
  }
  for (const Step& step : program.steps) {
    const bool above = step.kind == CONV && step.waits && step.early > 0;
    BlockStep to{};
    to.kind = int32_t(step.kind), to.target = int32_t(step.target), to.target_offset = int32_t(step.target_offset);
    to.parts = int32_t(step.parts), to.groups = int32_t(step.groups), to.width = int32_t(step.width);
    to.a = int32_t(step.a), to.a_offset = int32_t(step.a_offset), to.b = int32_t(step.b);
    to.b_offset = int32_t(step.b_offset), to.condition = int32_t(step.condition), to.size = int32_t(step.size);
    to.bias = int32_t(step.bias), to.row = int32_t(step.row), to.column = int32_t(step.column);
    to.first = int32_t(step.first_early), to.early = int32_t(step.early), to.left = int32_t(step.late.column);
    to.taps = int32_t(step.late.taps), to.at = int32_t(step.late.at), to.above = above ? int32_t(space) : -1;
    to.waits = int32_t(step.waits), to.scale = int32_t(step.scale), to.stride = int32_t(step.stride);
    to.every = int32_t(step.every);
    tables->steps.push_back(to);
    if (above) space += width / (step.scale * step.every) * step.outputs();
  }
  for (const Run& run : program.early)
    tables->runs.push_back({int32_t(run.row), int32_t(run.column), int32_t(run.taps), int32_t(run.at)});
  plan->maps = tables->maps.data(), plan->steps = tables->steps.data(), plan->runs = tables->runs.data();
  plan->buffers = int32_t(program.buffers.size()), plan->count = int32_t(program.steps.size());
  plan->passes = int32_t(program.passes), plan->sub_pixels = int32_t(program.sub_pixels);
  plan->head = int32_t(program.head), plan->outputs = int32_t(program.outputs);
  plan->noises = int32_t(program.noises()), plan->draws = int32_t(program.draws()), plan->ones = program.ones();
  plan->features = int32_t(program.features), plan->logits = int32_t(program.logits);
  plan->logits_offset = int32_t(program.logits_offset), plan->logits_step = int32_t(program.logits_step);
  plan->space = int32_t(space), plan->height = int32_t(height), plan->width = int32_t(width);
  plan->levels = int32_t(levels);
  return space < int64_t{1} << 31;
}

template <typename T>
struct Picture {
  const T *weights, *conditions, *features, *noise;
  const bool* free;
  int32_t* x;
  T* space;    // the plan's numbers, zeros at first
  T* scratch;  // shared: as many as there are threads, at least 32, and then the levels
  T temperature;
};

// A vector of a buffer, at a row and a column that are counted in its vectors.
template <typename T>
GENKERN_HD T* at(const Plan& plan, const Picture<T>& picture, int map, int i, int j) {
  const Map& m = plan.maps[map];
  const int slot = m.stride == 0 ? 0 : (i + m.rows) % m.rows;
  return picture.space + m.offset + slot * m.pitch + m.left + j * m.stride;
}

// Bias and early runs of a convolution, for all vectors that it fills in row i of the picture.
template <typename T, typename Block>
GENKERN_HD void convolve_row(const Plan& plan, const Picture<T>& picture, const BlockStep& step, int i,
                             const Block& block) {
  const Map& source = plan.maps[step.a];
  const int outputs = step.outputs(), vectors = plan.width / (step.scale * step.every);
  for (int e = int(block.thread()); e < vectors * outputs; e += int(block.threads())) {
    const int m = e / outputs, o = e % outputs;
    T sum = step.bias >= 0 ? picture.weights[step.bias + o] : T(0);
    for (int r = step.first; r < step.first + step.early; r++) {
      const BlockRun& run = plan.runs[r];
      const T* x = at(plan, picture, step.a, i / source.scale + run.row, 0) +
                   (m * step.stride + run.column) * source.size + step.a_offset;
      const T* w = picture.weights + run.at + o;
      for (int k = 0; k < run.taps * step.size; k++) sum += x[k] * w[int64_t(k) * outputs];
    }
    if (step.above >= 0)
      picture.space[step.above + e] = sum;
    else
      at(plan, picture, step.target, i / step.scale, m * step.every + step.column)[o] = sum;
  }
}

// Channels from to from + n at a pixel, the vector m of those that the step fills. Where there are more threads than
// channels, each sums a slice of the inputs.
template <typename T, typename Block>
GENKERN_HD void convolve_pixel(const Plan& plan, const Picture<T>& picture, const BlockStep& step, int i, int j, int m,
                               int from, int n, const Block& block) {
  const Map& source = plan.maps[step.a];
  const int outputs = step.outputs(), inputs = step.taps * step.size, threads = int(block.threads());
  const T* x = at(plan, picture, step.a, i / source.scale, j / source.scale) + step.left * source.size + step.a_offset;
  const T* above = step.above >= 0  ? picture.space + step.above + m * outputs
                   : step.bias >= 0 ? picture.weights + step.bias
                                    : nullptr;
  const T* w = picture.weights + step.at;
  T* y = at(plan, picture, step.target, i / step.scale, j / step.scale);
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
    case ADD: return term(k);
    case MUL: return a[k] * b[k];
    case GATE: return tanh(term(k)) * sigmoid(term(half + k));
    case GLU: return term(k) * sigmoid(term(half + k));
    default: return apply(Kind(step.kind), a[k]);
  }
}

// Channels from to from + n of vectors first to first + vectors of a row, both counted in vectors of the target.
template <typename T, typename Block>
GENKERN_HD void map_vectors(const Plan& plan, const Picture<T>& picture, const BlockStep& step, int row, int first,
                            int vectors, int from, int n, const Block& block) {
  const T* condition = step.condition >= 0 ? picture.conditions + step.condition : nullptr;
  for (int e = int(block.thread()); e < vectors * n; e += int(block.threads())) {
    const int place = first + e / n, k = from + e % n;
    const T* a = at(plan, picture, step.a, row, place) + step.a_offset;
    const T* b = step.b >= 0 ? at(plan, picture, step.b, row, place) + step.b_offset : nullptr;
    at(plan, picture, step.target, row, place)[step.target_offset + k] = combined(step, a, b, condition, k);
  }
}

// The level of a categorical, by all threads; the first of them knows it.
template <typename T, typename Block>
GENKERN_HD int categorical(const Plan& plan, const Picture<T>& picture, const T* logits, T uniform,
                           const Block& block) {
  const int thread = int(block.thread()), threads = int(block.threads()), levels = plan.levels;
  T* table = picture.scratch + (threads > SCANNERS ? threads : SCANNERS);
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
  int level = 0;
  if (thread != 0) return level;
  if (picture.temperature == T(0)) {
    while (level < levels - 1 && logits[level] != largest) level++;
    return level;
  }
  T total = 0, sum = 0;
  for (int k = 0; k < levels; k++) total += table[k];
  const T threshold = uniform * total;
  for (; level < levels - 1; level++)
    if (!((sum += table[level]) < threshold)) break;
  return level;
}

// Draws sub-pixel c of a pixel, and those after it where one draw gives all; writes them into picture and buffer.
template <typename T, typename Block>
GENKERN_HD void draw_pixel(const Plan& plan, const Picture<T>& picture, int i, int j, int c, const Block& block) {
  const int site = i * plan.width + j, sites = plan.height * plan.width, thread = int(block.thread());
  const T* params = at(plan, picture, plan.logits, i, j) + plan.logits_offset + c * plan.logits_step;
  const T* noise = picture.noise + c * sites + site;
  int32_t* x = picture.x + c * sites + site;
  if (picture.free[site]) {
    if (plan.head == CATEGORICAL) {
      const int level = categorical(plan, picture, params, *noise, block);
      if (thread == 0) *x = level;
    } else if (thread == 0 && plan.head == QUANTILE) {
      *x = nearest_level(*params, plan.levels);
    } else if (thread == 0) {
      T level[3];
      discretized_mixture_logistics::draw_pixel(
          mixture_of<T>(plan.sub_pixels, plan.outputs, plan.levels, picture.temperature), params, 1, noise, sites,
          level);
      for (int k = 0; k < plan.draws; k++) x[k * sites] = int32_t(level[k]);
    }
  }
  if (thread == 0) {
    T* pixel = at(plan, picture, 0, i, j);
    for (int k = 0; k < plan.draws; k++) pixel[c + k] = T(x[k * sites]) * (T(2) / T(plan.levels - 1)) - T(1);
    if (plan.ones) pixel[plan.sub_pixels] = T(1);
  }
  block.sync();
}

// Buffers of one pixel and those before: empties them for row i, or (j >= 0) moves them on from pixel j.
template <typename T, typename Block>
GENKERN_HD void move_on(const Plan& plan, const Picture<T>& picture, int i, int j, const Block& block) {
  for (int k = 0; k < plan.buffers; k++) {
    const Map& m = plan.maps[k];
    if (m.stride != 0 || m.left == 0 || (j < 0 ? i : j + 1) % m.scale != 0) continue;
    T* window = picture.space + m.offset;
    // a thread keeps to one channel, so that what it overwrites it alone has to read
    for (int c = int(block.thread()); c < m.size; c += int(block.threads()))
      for (int e = c; e < m.left; e += m.size) window[e] = j < 0 ? T(0) : window[e + m.size];
  }
  block.sync();
}

// The features of row i.
template <typename T, typename Block>
GENKERN_HD void read_features(const Plan& plan, const Picture<T>& picture, int i, const Block& block) {
  if (plan.features < 0) return;
  const int size = plan.width * plan.maps[plan.features].size;
  T* to = at(plan, picture, plan.features, i, 0);
  for (int e = int(block.thread()); e < size; e += int(block.threads()))
    to[e] = picture.features[int64_t(i) * size + e];
}

template <typename T, typename Block>
GENKERN_HD void sample_picture(const Plan& plan, const Picture<T>& picture, const Block& block) {
  const int together = plan.sub_pixels / plan.passes;
  for (int e = int(block.thread()); e < plan.space; e += int(block.threads())) picture.space[e] = T(0);
  block.sync();
  for (int i = 0; i < plan.height; i++) {
    read_features(plan, picture, i, block);
    move_on(plan, picture, i, -1, block);
    for (int s = 0; s < plan.count; s++) {
      const BlockStep& step = plan.steps[s];
      if (step.place(i, step.row) < 0) continue;
      if (step.kind == CONV && (!step.waits || step.early > 0)) {
        convolve_row(plan, picture, step, i, block);
        block.sync();
      } else if (!step.waits) {
        map_vectors(plan, picture, step, i / step.scale, 0, plan.width / step.scale, 0, step.outputs(), block);
        block.sync();
      }
    }
    for (int j = 0; j < plan.width; j++) {
      for (int pass = 0; pass < plan.passes; pass++) {
        for (int s = 0; s < plan.count; s++) {
          const BlockStep& step = plan.steps[s];
          const int m = step.waits ? step.place(j, step.column) : -1;
          if (m < 0 || step.place(i, step.row) < 0) continue;
          const bool split = plan.passes > 1 && step.groups == plan.passes;
          const int pieces = split ? step.parts : 1, n = split ? step.width : step.outputs();
          for (int p = 0; p < pieces; p++) {
            const int from = split ? (p * plan.passes + pass) * step.width : 0;
            if (step.kind == CONV)
              convolve_pixel(plan, picture, step, i, j, m, from, n, block);
            else
              map_vectors(plan, picture, step, i / step.scale, m, 1, from, n, block);
            block.sync();
          }
        }
        for (int c = pass * together; c < (pass + 1) * together; c += plan.draws)
          draw_pixel(plan, picture, i, j, c, block);
      }
      move_on(plan, picture, i, j, block);
    }
  }
}

}  // namespace genkern::causal_sample
