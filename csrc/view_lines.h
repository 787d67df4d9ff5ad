// Rows or columns of an image, sixteen side by side: an instruction that filters one filters all. A block of lines is
// [position][line], so that filters along rows and along columns are the same code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "numbers.h"
#include "view_math.cuh"

namespace patchmix {

constexpr int64_t lines = 16;
typedef float Lines __attribute__((vector_size(lines * sizeof(float))));

// Pixels in memory: `position` runs along a line, `line` across.
struct Layout {
  int64_t position, line;
};

// The first `count` of the lines of a block. The others repeat the last one.
template <class Number>
INLINED void load_lines(const Number* in, Layout layout, int64_t length, int64_t count, float gain,
                        float* __restrict block) {
  if (layout.line == 1 && count == lines) {
    for (int64_t place = 0; place < length; ++place, in += layout.position) {
      for (int64_t line = 0; line < lines; ++line) block[place * lines + line] = gain * in[line];
    }
    return;
  }
  for (int64_t line = 0; line < lines; ++line) {
    const Number* from = in + std::min(line, count - 1) * layout.line;
    for (int64_t place = 0; place < length; ++place) block[place * lines + line] = gain * from[place * layout.position];
  }
}

INLINED void store_lines(const float* __restrict block, Layout layout, int64_t length, int64_t count, float* out) {
  if (layout.line == 1 && count == lines) {
    for (int64_t place = 0; place < length; ++place, out += layout.position) {
      for (int64_t line = 0; line < lines; ++line) out[line] = block[place * lines + line];
    }
    return;
  }
  for (int64_t line = 0; line < count; ++line) {
    float* to = out + line * layout.line;
    for (int64_t place = 0; place < length; ++place) to[place * layout.position] = block[place * lines + line];
  }
}

// The first pixel, the number of pixels and the weights by which each pixel of a line of `size` reads one of `length`.
struct Resize {
  int64_t length, size, most;
  int32_t *firsts, *counts;
  float* weights;  // [size][most]

  static int64_t most_taps(int64_t length, int64_t size) {
    return 4 * std::max<int64_t>(1, (length + size - 1) / size) + 2;
  }

  INLINED void fill(bool reversed) const {
    for (int64_t place = 0; place < size; ++place) {
      const Taps taps = taps_of(int(length), int(size), int(reversed ? size - 1 - place : place));
      float* row = weights + place * most;
      float sum = 0.0f;
      for (int tap = 0; tap < taps.count; ++tap) sum += row[tap] = weight_of(taps, tap);
      for (int tap = 0; tap < taps.count; ++tap) row[tap] /= sum;
      firsts[place] = taps.first;
      counts[place] = taps.count;
    }
  }

  INLINED void apply(const float* __restrict in, float* __restrict out) const {
    for (int64_t place = 0; place < size; ++place) {
      const auto* from = reinterpret_cast<const Lines*>(in) + firsts[place];
      const float* row = weights + place * most;
      Lines sum = row[0] * from[0];
      for (int64_t tap = 1; tap < counts[place]; ++tap) sum += row[tap] * from[tap];
      reinterpret_cast<Lines*>(out)[place] = sum;
    }
  }
};

// The mean of the pixels up to `reach` away and, with a smaller weight, those one pixel farther. The border repeats its
// last pixel.
struct Box {
  int64_t reach;
  float inner, outer;

  INLINED void apply(const float* __restrict in, float* __restrict out, int64_t length) const {
    const auto* from = reinterpret_cast<const Lines*>(in);
    for (int64_t place = 0; place < length; ++place) {
      Lines sum = from[place], farther = sum;
      for (int64_t distance = 1; distance <= reach + 1; ++distance) {
        const int64_t before = place - distance, after = place + distance;
        farther = from[before < 0 ? 0 : before] + from[after < length ? after : length - 1];
        if (distance <= reach) sum += farther;
      }
      reinterpret_cast<Lines*>(out)[place] = inner * sum + outer * farther;
    }
  }
};

}  // namespace patchmix
