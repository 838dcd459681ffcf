#pragma once
// The program of a stack of causal layers: what genkern/ops/causal_sample/reference.py describes, decoded.

#include <cstdint>
#include <vector>

namespace genkern::causal_sample {

enum Kind : int64_t { CONV, ADD, MUL, GATE, COPY, RELU, ELU, TANH, SIGMOID };

struct Buffer {
  int64_t size, rows, left, right;
};

// Neighbouring taps of one row: a matrix [taps * size, outputs] at `at`.
struct Run {
  int64_t row, column, taps, at;
};

struct Step {
  int64_t kind, target, parts, groups, width, a, a_offset;
  int64_t b = -1, b_offset = 0, condition = -1, size = 0, bias = -1, first_early = 0, early = 0;
  Run late{0, 0, 0, 0};
  bool waits = false;  // for pixels of its own row

  int64_t outputs() const { return parts * groups * width; }
};

struct Program {
  int64_t passes, sub_pixels, logits, logits_offset, logits_step;
  std::vector<Buffer> buffers;
  std::vector<Step> steps;
  std::vector<Run> early;

  // Buffers of which no layer reads other rows, nor whole rows: the pixel that is drawn and those before it are enough.
  std::vector<bool> narrow() const {
    std::vector<bool> found(buffers.size(), false);
    for (const Step& step : steps) found[size_t(step.target)] = step.waits;
    for (const Step& step : steps)
      if (step.early > 0) found[size_t(step.a)] = false;
    return found;
  }

  // Whether the list is a program that stays within its buffers and weights; null, or what is wrong.
  const char* read(const std::vector<int64_t>& code, int64_t weights, int64_t conditions, int64_t levels) {
    size_t at = 0;
    bool complete = true;
    const auto next = [&] { return at < code.size() ? code[at++] : (complete = false, int64_t{0}); };
    passes = next(), sub_pixels = next(), logits = next(), logits_offset = next(), logits_step = next();
    const int64_t count = next(), instructions = next();
    for (int64_t i = 0; i < count && complete; i++) {
      Buffer buffer{};
      buffer.size = next(), buffer.rows = next(), buffer.left = next(), buffer.right = next();
      if (buffer.size < 1 || buffer.rows < 1 || buffer.left < 0 || buffer.right < 0) return "a buffer is empty";
      buffers.push_back(buffer);
    }
    std::vector<bool> waits(size_t(count), false);
    if (count < 1 || buffers[0].size != sub_pixels) return "the first buffer must be the picture";
    waits[0] = true;
    const auto within = [&](int64_t place, int64_t length, int64_t all) { return place >= 0 && place + length <= all; };
    for (int64_t i = 0; i < instructions && complete; i++) {
      Step step{};
      step.kind = next(), step.target = next(), step.parts = next(), step.groups = next(), step.width = next();
      step.a = next(), step.a_offset = next();
      if (step.kind < CONV || step.kind > SIGMOID) return "an instruction is unknown";
      if (!within(step.target, 1, count) || !within(step.a, 1, count) || step.target == 0) return "a buffer is unknown";
      if (step.width < 1 || step.width % 16 != 0 || step.parts < 1 || (step.groups != 1 && step.groups != passes))
        return "a layout cannot be used";
      if (step.outputs() != buffers[size_t(step.target)].size) return "a target has another size";
      const Buffer& source = buffers[size_t(step.a)];
      if (step.kind == CONV) {
        step.size = next(), step.bias = next();
        step.late.taps = next(), step.late.column = next(), step.late.at = next();
        step.first_early = int64_t(early.size()), step.early = next();
        for (int64_t k = 0; k < step.early && complete; k++) {
          Run run{};
          run.row = next(), run.column = next(), run.taps = next(), run.at = next();
          early.push_back(run);
        }
        const auto fits = [&](const Run& run) {
          return run.row <= 0 && run.row > -source.rows && -run.column <= source.left &&
                 run.column + run.taps - 1 <= source.right && (run.taps <= 1 || step.size == source.size) &&
                 within(run.at, run.taps * step.size * step.outputs(), weights);
        };
        for (int64_t k = 0; k < step.early && complete; k++)
          if (!fits(early[size_t(step.first_early + k)])) return "a run of taps does not fit";
        step.waits = step.late.taps > 0;
        if (!fits(step.late) || step.late.column + step.late.taps > 1) return "a run of taps does not fit";
        if (step.bias >= 0 && !within(step.bias, step.outputs(), weights)) return "a bias does not fit";
        if (!within(step.a_offset, step.size, source.size)) return "a source does not fit";
      } else {
        step.b = next(), step.b_offset = next(), step.condition = next();
        const int64_t taken = step.outputs() * (step.kind == GATE ? 2 : 1);
        if (!within(step.a_offset, taken, source.size)) return "a source does not fit";
        if (step.b >= 0 && (step.b >= count || !within(step.b_offset, taken, buffers[size_t(step.b)].size)))
          return "a source does not fit";
        if (step.condition >= 0 && !within(step.condition, taken, conditions)) return "a condition does not fit";
        if ((step.kind == ADD || step.kind == MUL) && step.b < 0) return "an operand is missing";
        step.waits = waits[size_t(step.a)] || (step.b >= 0 && waits[size_t(step.b)]);
      }
      waits[size_t(step.target)] = step.waits;
      steps.push_back(step);
    }
    if (!complete || at != code.size()) return "it has another length";
    if (passes != 1 && passes != sub_pixels) return "a pixel has one pass, or one for each sub-pixel";
    if (!within(logits, 1, count) || logits_step < levels ||
        !within(logits_offset, (sub_pixels - 1) * logits_step + levels, buffers[size_t(logits)].size))
      return "the logits do not fit";
    return nullptr;
  }
};

}  // namespace genkern::causal_sample
