// The loops of cpu.cpp, compiled once for each instruction set. GENKERN_LEVEL names the namespace; GENKERN_LANES
// is the number of 64-bit lanes with a 32 x 32 -> 64 bit product (0: plain loops, which the compiler vectorises).

namespace genkern {
namespace GENKERN_LEVEL {

constexpr int kQuads = 64;  // counters at a time: enough independent work to hide the latency of ten rounds

#if GENKERN_LANES > 0
typedef uint64_t Lanes __attribute__((vector_size(8 * GENKERN_LANES)));

GENKERN_INLINE Lanes product(Lanes a, uint32_t b) {
#if GENKERN_LANES == 8
  return (Lanes)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(b));
#else
  return (Lanes)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#endif
}

// philox() of common/philox.h on one counter per lane: products read the low half of a lane only, so that what is
// left in the upper half needs no masking, and both halves of a product are one shift apart.
GENKERN_INLINE void words(uint64_t key, const uint64_t* quads, const uint64_t* samples, uint32_t* first,
                          uint32_t* second) {
  for (int i = 0; i < kQuads; i += GENKERN_LANES) {
    Lanes x, z;
    memcpy(&x, quads + i, sizeof x);
    memcpy(&z, samples + i, sizeof z);
    Lanes y = Lanes{} + uint64_t{kNoise}, w = z >> 32;
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
      const Lanes p0 = product(x, 0xD2511F53u), p1 = product(z, 0xCD9E8D57u);
      x = (p1 >> 32) ^ y ^ uint64_t{k0};
      y = p1;
      z = (p0 >> 32) ^ w ^ uint64_t{k1};
      w = p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const Lanes low = Lanes{} + uint64_t{0xffffffffu};
    const Lanes xz = (x & low) | (z << 32), yw = (y & low) | (w << 32);
    memcpy(first + 2 * i, &xz, sizeof xz);
    memcpy(second + 2 * i, &yw, sizeof yw);
  }
}
#else
GENKERN_INLINE void words(uint64_t key, const uint64_t* quads, const uint64_t* samples, uint32_t* first,
                          uint32_t* second) {
#pragma omp simd
  for (int i = 0; i < kQuads; i++) {
    const Words word = noise_words(key, samples[i], quads[i]);
    first[2 * i] = word.x;
    second[2 * i] = word.y;
    first[2 * i + 1] = word.z;
    second[2 * i + 1] = word.w;
  }
}
#endif

template <typename Draw>
GENKERN_INLINE void draw(const uint32_t* first, const uint32_t* second, float* out) {
#pragma omp simd
  for (int j = 0; j < 2 * kQuads; j++) {
    const Pair pair = Draw::draw(first[j], second[j]);
    out[2 * j] = pair.a;
    out[2 * j + 1] = pair.b;
  }
}

// Elements 0 and 1 of each quad only.
template <typename Draw>
GENKERN_INLINE void draw_front(const uint32_t* first, const uint32_t* second, float* out) {
#pragma omp simd
  for (int j = 0; j < kQuads; j++) {
    const Pair pair = Draw::draw(first[2 * j], second[2 * j]);
    out[2 * j] = pair.a;
    out[2 * j + 1] = pair.b;
  }
}

template <typename Draw, typename T>
GENKERN_INLINE void convert(const float* values, T* out, int count) {
#pragma omp simd
  for (int i = 0; i < count; i++) out[i] = stored<Draw, T>(values[i]);
}

template <int width, int stride, typename T>
GENKERN_INLINE void pack(const T* from, T* to, int rows) {
  for (int i = 0; i < rows; i++) {
    for (int e = 0; e < width; e++) to[width * i + e] = from[stride * i + e];
  }
}

// Samples of at most four elements: one quad each.
template <typename Draw, typename T>
void fill_short(T* out, uint64_t key, int64_t sample_offset, int64_t elements, int64_t begin, int64_t end) {
  const uint64_t quads[kQuads] = {};
  uint64_t samples[kQuads];
  uint32_t first[2 * kQuads], second[2 * kQuads];
  float values[4 * kQuads];
  T block[4 * kQuads];
  for (int64_t row = begin; row < end; row += kQuads) {
    const int rows = int(std::min<int64_t>(kQuads, end - row));
    for (int i = 0; i < kQuads; i++) samples[i] = uint64_t(sample_offset) + uint64_t(row + i);
    words(key, quads, samples, first, second);
    if (elements <= 2) {
      draw_front<Draw>(first, second, values);
    } else {
      draw<Draw>(first, second, values);
    }
    convert<Draw>(values, block, 4 * kQuads);
    T* to = out + row * elements;
    if (elements == 1) pack<1, 2>(block, to, rows);
    if (elements == 2) pack<2, 2>(block, to, rows);
    if (elements == 3) pack<3, 4>(block, to, rows);
    if (elements == 4) pack<4, 4>(block, to, rows);
  }
}

template <typename Draw, typename T>
void fill(T* out, uint64_t key, int64_t sample_offset, int64_t elements, int64_t begin, int64_t end) {
  if (elements <= 4) return fill_short<Draw>(out, key, sample_offset, elements, begin, end);
  const int64_t quads_per_sample = quads_of(elements);
  int64_t row = begin / quads_per_sample, quad = begin % quads_per_sample;
  T* to = out + row * elements + 4 * quad;
  T* const stop = out + (end / quads_per_sample) * elements + 4 * (end % quads_per_sample);
  uint64_t quads[kQuads], samples[kQuads];
  uint32_t first[2 * kQuads], second[2 * kQuads];
  float values[4 * kQuads];
  T block[4 * kQuads];
  for (int64_t done = begin; done < end; done += kQuads) {
    const bool whole = quad + kQuads <= elements / 4 && done + kQuads <= end;  // 4 * kQuads elements of one sample
    if (whole) {
      for (int i = 0; i < kQuads; i++) {
        quads[i] = uint64_t(quad + i);
        samples[i] = uint64_t(sample_offset) + uint64_t(row);
      }
    } else {
      int64_t r = row, q = quad;
      for (int i = 0; i < kQuads; i++) {
        quads[i] = uint64_t(q);
        samples[i] = uint64_t(sample_offset) + uint64_t(r);
        const bool next = ++q == quads_per_sample;
        r += next;
        q = next ? 0 : q;
      }
    }
    words(key, quads, samples, first, second);
    draw<Draw>(first, second, values);
    if (whole) {
      convert<Draw>(values, to, 4 * kQuads);
      to += 4 * kQuads;
      quad += kQuads;
      if (quad == quads_per_sample) quad = 0, row++;
      continue;
    }
    convert<Draw>(values, block, 4 * kQuads);
    const int count = int(std::min<int64_t>(kQuads, end - done));
    for (int i = 0; i < count; i++) {
      const int64_t width = std::min<int64_t>(4, elements - 4 * quad);
      // Four at once where this range has room: what is too much, the next quad writes over.
      if (stop - to >= 4) {
        memcpy(to, block + 4 * i, 4 * sizeof(T));
      } else {
        memcpy(to, block + 4 * i, size_t(width) * sizeof(T));
      }
      to += width;
      if (++quad == quads_per_sample) quad = 0, row++;
    }
  }
}

}  // namespace GENKERN_LEVEL
}  // namespace genkern
