// The arithmetic of a view, for the CPU (views.cpp) and for GPUs (views.cu). It includes nothing, as the run-time
// compiler has no headers. SHARED marks a function for whichever compiler reads it.
#pragma once

#ifdef __CUDACC__
#define SHARED __device__ inline
#else
#define SHARED inline __attribute__((always_inline))
#endif

namespace patchmix {

constexpr int color_steps = 5;
constexpr int longest_blurred = 6144;  // side of a view, of which a block of a GPU holds a line twice

// The view of one image. src/native/views.rs writes these numbers in this order, all as float, so that those of a batch
// are one tensor.
struct ViewPlan {
  float top, left, height, width;                 // the crop
  float flip;                                     // 0 or 1
  float kinds[color_steps], values[color_steps];  // changes of color, in order; see ColorStep
  float reach;                                    // of the box of the blur; below 0 for no blur
  float inner, outer;                             // weights of the box: up to `reach`, and one pixel farther
  float solarize;                                 // 0 or 1
};

enum ColorStep { no_step = 0, brightness_step = 1, contrast_step = 2, saturation_step = 3, hue_step = 4 };

struct Color {
  float red, green, blue;
};

SHARED float limited(float x) {
  x = x < 0.0f ? 0.0f : x;
  return x > 1.0f ? 1.0f : x;
}

// ITU-R BT.601, as torchvision has it.
SHARED float gray_of(Color color) { return 0.2989f * color.red + 0.587f * color.green + 0.114f * color.blue; }

// Brightness blends with black, contrast with the mean gray of the image, saturation with the gray of the pixel.
SHARED Color blended(Color color, float share, float other) {
  const float added = (1.0f - share) * other;
  return {limited(share * color.red + added), limited(share * color.green + added),
          limited(share * color.blue + added)};
}

// Shifts the hue by `turn` in -0.5 .. 0.5 turns of the color circle. This is the conversion through HSV with saturation
// and value left out: a color is its smallest channel, plus its chroma (largest minus smallest channel) times each
// channel's share at the hue.
SHARED Color turned(Color color, float turn) {
  const float red = color.red, green = color.green, blue = color.blue;
  const float larger = red > green ? red : green, largest = larger > blue ? larger : blue;
  const float smaller = red < green ? red : green, smallest = smaller < blue ? smaller : blue;
  const float chroma = largest - smallest;
  // The hue in sixths of a turn: red at 0, green at 2, blue at 4, plus the distance towards a neighbor. Gray has no
  // hue, and any will do.
  const float inverse = 1.0f / (chroma < 1.17549435e-38f ? 1.17549435e-38f : chroma);
  const float near_red = (green - blue) * inverse, near_green = (blue - red) * inverse + 2.0f;
  const float near_blue = (red - green) * inverse + 4.0f;
  float hue = red == largest ? near_red : (green == largest ? near_green : near_blue);
  // One full turn more keeps the number positive: it is in 0 .. 3, and its fraction is its place on the circle.
  hue = hue / 6.0f + (turn + 1.0f);
  hue = hue >= 2.0f ? hue - 2.0f : (hue >= 1.0f ? hue - 1.0f : hue);
  hue = hue * 6.0f;
  // A channel has its full share within a sixth of a turn of its own hue, and none from two sixths on. Red lies at both
  // ends of the scale; the distance from it is 3 minus the distance from cyan.
  const float from_cyan = hue > 3.0f ? hue - 3.0f : 3.0f - hue;
  const float from_green = hue > 2.0f ? hue - 2.0f : 2.0f - hue;
  const float from_blue = hue > 4.0f ? hue - 4.0f : 4.0f - hue;
  return {limited(from_cyan - 1.0f) * chroma + smallest, limited(2.0f - from_green) * chroma + smallest,
          limited(2.0f - from_blue) * chroma + smallest};
}

// A step of `kind` with its value; `mean` is the mean gray of the image.
SHARED Color changed(Color color, int kind, float value, float mean) {
  switch (kind) {
    case brightness_step: return blended(color, value, 0.0f);
    case contrast_step: return blended(color, value, mean);
    case saturation_step: return blended(color, value, gray_of(color));
    case hue_step: return turned(color, value);
    default: return color;
  }
}

// Solarization of values from `threshold` on, and normalization of a channel.
SHARED float finished(float x, float threshold, float mean, float inverse_std) {
  x = x >= threshold ? 1.0f - x : x;
  return (x - mean) * inverse_std;
}

// Values of an image that is not solarized lie below its threshold.
SHARED float threshold_of(const ViewPlan& plan) { return plan.solarize != 0.0f ? 0.5f : 2.0f; }

// Which pixels of a stretch of `length` a pixel of `size` reads. For antialiasing, the cubic widens when the image
// shrinks.
struct Taps {
  int first, count;
  float distance, step;  // from the center to the first pixel, and between pixels, in units of the cubic
};

SHARED Taps taps_of(int length, int size, int place) {
  const double scale = double(length) / size, widened = scale > 1.0 ? scale : 1.0;
  const double center = scale * (place + 0.5), support = 2.0 * widened;
  const int first = center - support + 0.5 < 0.0 ? 0 : int(center - support + 0.5);
  const int end = center + support + 0.5 > length ? length : int(center + support + 0.5);
  return {first, end - first, float((first + 0.5 - center) / widened), float(1.0 / widened)};
}

// The weight of tap `index` before all are divided by their sum: Keys' cubic with a = -1/2, as in Pillow.
SHARED float weight_of(const Taps& taps, int index) {
  const float signed_x = taps.distance + index * taps.step;
  const float x = signed_x < 0.0f ? -signed_x : signed_x;
  const float inner = (1.5f * x - 2.5f) * x * x + 1.0f, outer = -0.5f * (((x - 5.0f) * x + 8.0f) * x - 4.0f);
  return x < 1.0f ? inner : (x < 2.0f ? outer : 0.0f);
}

}  // namespace patchmix
