#pragma once
// The program of a stack of causal layers: what genkern/ops/causal_sample/reference.py describes, decoded.

#include <cstdint>
#include <vector>

namespace genkern::causal_sample {

enum Kind : int64_t { CONV, ADD, MUL, GATE, COPY, RELU, ELU, NEGATIVE_ELU, TANH, SIGMOID, SILU, GLU };
enum Head : int64_t { CATEGORICAL, MIXTURE, QUANTILE };

struct Buffer {
  int64_t size, rows, left, right, scale;
};

// Neighbouring taps of one row: a matrix [taps * size, outputs] at `at`.
struct Run {
  int64_t row, column, taps, at;
};

struct Step {
  int64_t kind, target, target_offset, parts, groups, width, a, a_offset;
  int64_t b = -1, b_offset = 0, condition = -1, size = 0, bias = -1, row = 0, column = 0, first_early = 0, early = 0;
  Run late{0, 0, 0, 0};
  bool waits = false;                        // for pixels of its own row
  int64_t scale = 1, stride = 1, every = 1;  // of the target; from a vector read or filled to the next

  int64_t outputs() const { return parts * groups * width; }
  int64_t taken() const { return outputs() * (kind == GATE || kind == GLU ? 2 : 1); }
  // Which of the vectors that it fills belongs to a pixel: a row and a column of these; or -1.
  int64_t place(int64_t pixel, int64_t phase) const {
    return pixel % scale == 0 && pixel / scale % every == phase ? pixel / (scale * every) : -1;
  }
  int64_t place_of_row(int64_t i) const { return place(i, row); }
  int64_t place_of_column(int64_t j) const { return place(j, column); }
};

struct Program {
  int64_t passes, sub_pixels, head, logits, logits_offset, outputs, logits_step, features;
  std::vector<Buffer> buffers;
  std::vector<Step> steps;
  std::vector<Run> early;

  int64_t noises() const { return sub_pixels + (head == MIXTURE); }   // uniform numbers of a pixel
  int64_t draws() const { return head == MIXTURE ? sub_pixels : 1; }  // sub-pixels that one draw gives
  bool ones() const { return buffers[0].size > sub_pixels; }

  // Buffers of which no layer reads other rows, nor whole rows: the pixel that is drawn and those before it are enough.
  std::vector<bool> narrow() const {
    std::vector<bool> found(buffers.size(), true);
    found[0] = false;
    if (features >= 0) found[size_t(features)] = false;
    for (const Step& step : steps) {
      if (!step.waits) found[size_t(step.target)] = found[size_t(step.a)] = false;
      if (!step.waits && step.b >= 0) found[size_t(step.b)] = false;
      if (step.early > 0 || step.every > 1) found[size_t(step.a)] = false;
    }
    return found;
  }

  // Whether the list is a program that stays within its buffers and weights; null, or what is wrong.
  const char* read(const std::vector<int64_t>& code, int64_t weights, int64_t conditions, int64_t levels) {
    size_t at = 0;
    bool complete = true;
    const auto next = [&] { return at < code.size() ? code[at++] : (complete = false, int64_t{0}); };
    passes = next(), sub_pixels = next(), head = next(), logits = next(), logits_offset = next(), outputs = next();
    logits_step = next(), features = next();
    const int64_t count = next(), instructions = next();
    for (int64_t i = 0; i < count && complete; i++) {
      Buffer buffer{};
      buffer.size = next(), buffer.rows = next(), buffer.left = next(), buffer.right = next(), buffer.scale = next();
      if (buffer.size < 1 || buffer.rows < 1 || buffer.left < 0 || buffer.right < 0) return "a buffer is empty";
      if (buffer.scale < 1 || (buffer.scale & (buffer.scale - 1)) != 0) return "a scale cannot be used";
      buffers.push_back(buffer);
    }
    std::vector<bool> waits(size_t(count), false);
    if (count < 1 || sub_pixels < 1 || buffers[0].scale != 1 || buffers[0].size < sub_pixels ||
        buffers[0].size > sub_pixels + 1)
      return "the first buffer must be the picture";
    if (features < -1 || features == 0 || features >= count || (features > 0 && buffers[size_t(features)].scale != 1))
      return "the features have no buffer";
    waits[0] = true;
    const auto within = [&](int64_t place, int64_t length, int64_t all) { return place >= 0 && place + length <= all; };
    for (int64_t i = 0; i < instructions && complete; i++) {
      Step step{};
      step.kind = next(), step.target = next(), step.target_offset = next(), step.parts = next(), step.groups = next();
      step.width = next(), step.a = next(), step.a_offset = next();
      if (step.kind < CONV || step.kind > GLU) return "an instruction is unknown";
      if (!within(step.target, 1, count) || !within(step.a, 1, count) || step.target == 0 || step.target == features)
        return "a buffer is unknown";
      if (step.width < 1 || step.width % 16 != 0 || step.parts < 1 || (step.groups != 1 && step.groups != passes))
        return "a layout cannot be used";
      const Buffer &source = buffers[size_t(step.a)], &target = buffers[size_t(step.target)];
      if (!within(step.target_offset, step.outputs(), target.size)) return "a target has another size";
      step.scale = target.scale;
      if (step.kind == CONV) {
        step.size = next(), step.bias = next(), step.row = next(), step.column = next();
        step.late.taps = next(), step.late.column = next(), step.late.at = next();
        step.first_early = int64_t(early.size()), step.early = next();
        for (int64_t k = 0; k < step.early && complete; k++) {
          Run run{};
          run.row = next(), run.column = next(), run.taps = next(), run.at = next();
          early.push_back(run);
        }
        step.stride = target.scale > source.scale ? target.scale / source.scale : 1;
        step.every = source.scale > target.scale ? source.scale / target.scale : 1;
        if (!within(step.row, 1, step.every) || !within(step.column, 1, step.every)) return "a phase cannot be used";
        if (step.target_offset != 0 || step.outputs() != target.size) return "a target has another size";
        const auto fits = [&](const Run& run) {
          return run.row <= 0 && run.row > -source.rows && -run.column <= source.left && run.taps >= 0 &&
                 run.column + run.taps - 1 <= source.right && (run.taps <= 1 || step.size == source.size) &&
                 within(run.at, run.taps * step.size * step.outputs(), weights);
        };
        for (int64_t k = 0; k < step.early && complete; k++)
          if (!fits(early[size_t(step.first_early + k)])) return "a run of taps does not fit";
        step.waits = step.late.taps > 0;
        if (!fits(step.late) || step.late.column + step.late.taps > 1) return "a run of taps does not fit";
        if (step.bias >= 0 && !within(step.bias, step.outputs(), weights)) return "a bias does not fit";
        if (step.size < 1 || !within(step.a_offset, step.size, source.size)) return "a source does not fit";
      } else {
        step.b = next(), step.b_offset = next(), step.condition = next();
        const int64_t taken = step.taken();
        if (source.scale != target.scale || !within(step.a_offset, taken, source.size)) return "a source does not fit";
        if (step.b >= count) return "a source does not fit";
        if (step.b >= 0) {
          const Buffer& other = buffers[size_t(step.b)];
          if (other.scale != target.scale || !within(step.b_offset, taken, other.size)) return "a source does not fit";
        }
        if (step.condition >= 0 && !within(step.condition, taken, conditions)) return "a condition does not fit";
        if ((step.kind == MUL && step.b < 0) || (step.kind == ADD && step.b < 0 && step.condition < 0))
          return "an operand is missing";
        step.waits = waits[size_t(step.a)] || (step.b >= 0 && waits[size_t(step.b)]);
      }
      waits[size_t(step.target)] = waits[size_t(step.target)] || step.waits;
      steps.push_back(step);
    }
    if (!complete || at != code.size()) return "it has another length";
    if (passes != 1 && passes != sub_pixels) return "a pixel has one pass, or one for each sub-pixel";
    const int64_t parts = sub_pixels == 1 ? 3 : 10;
    const bool known = head == CATEGORICAL ? outputs >= levels
                       : head == MIXTURE   ? passes == 1 && outputs % parts == 0 && (sub_pixels == 1 || sub_pixels == 3)
                                           : head == QUANTILE && outputs == 1;
    if (!known || outputs < 1) return "the head cannot be used";
    const int64_t more = sub_pixels / draws() - 1;
    if (!within(logits, 1, count) || buffers[size_t(logits)].scale != 1 || logits_step < outputs ||
        !within(logits_offset, more * logits_step + outputs, buffers[size_t(logits)].size))
      return "the logits do not fit";
    return nullptr;
  }

  // The largest scale, of which height and width must be multiples.
  int64_t coarsest() const {
    int64_t found = 1;
    for (const Buffer& buffer : buffers) found = buffer.scale > found ? buffer.scale : found;
    return found;
  }
};

}  // namespace genkern::causal_sample
