// Views of images. On a CPU: crop, resize, flip, color, blur, solarization and normalization of one image after the
// other, which stays in a core's cache from the first step to the last. The only caller is src/native/views.rs, which
// checks shapes, kinds and plans first.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <cstdint>

#include "guarded.h"
#include "memory.h"
#include "numbers.h"
#include "view_lines.h"
#include "view_math.cuh"
#include "views_on_gpu.h"

namespace patchmix {

static_assert(sizeof(ViewPlan) == 19 * sizeof(float), "src/native/views.rs writes 19 numbers");

// Memory to work in, of one thread.
class ViewScratch {
 public:
  // For crops of up to `height` x `width` pixels.
  ViewScratch(int64_t height, int64_t width, int64_t size)
      : longest_(std::max({height, width, size})),
        taps_(size * Resize::most_taps(longest_, size)),
        floats_(at::empty({2 * longest_ * lines + size * width + 2 * taps_}, at::kFloat)),
        integers_(at::empty({4 * size}, at::kInt)),
        size_(size) {}

  float* block(int which) const { return floats_.mutable_data_ptr<float>() + which * longest_ * lines; }
  Resize resize(int which, int64_t length) const {
    auto* integers = integers_.mutable_data_ptr<int32_t>() + which * 2 * size_;
    return {length, size_, Resize::most_taps(length, size_), integers, integers + size_, block(2) + which * taps_};
  }
  float* narrowed() const { return block(2) + 2 * taps_; }

 private:
  int64_t longest_, taps_;
  at::Tensor floats_, integers_;
  int64_t size_;
};

// Crops, resizes and flips the planes of an image.
template <class Number>
INLINED void cut(const Number* image, const ViewPlan& plan, const ViewSizes& sizes, const ViewScratch& scratch,
                 float* view) {
  const int64_t height = int64_t(plan.height), width = int64_t(plan.width), size = sizes.size;
  const bool flip = plan.flip != 0.0f;
  const Resize rows = scratch.resize(0, height), columns = scratch.resize(1, width);
  if (height != size) rows.fill(false);
  if (width != size || flip) columns.fill(flip);
  float *in = scratch.block(0), *out = scratch.block(1), *narrowed = scratch.narrowed();
  image += int64_t(plan.top) * sizes.width + int64_t(plan.left);
  for (int channel = 0; channel < 3; ++channel, image += sizes.height * sizes.width, view += size * size) {
    for (int64_t column = 0; column < width; column += lines) {
      const int64_t count = std::min(lines, width - column);
      load_lines(image + column, {sizes.width, 1}, height, count, sizes.gain, in);
      if (height != size) rows.apply(in, out);
      store_lines(height != size ? out : in, {width, 1}, size, count, narrowed + column);
    }
    for (int64_t row = 0; row < size; row += lines) {
      const int64_t count = std::min(lines, size - row);
      load_lines(narrowed + row * width, {1, width}, width, count, 1.0f, in);
      if (width != size || flip) columns.apply(in, out);
      store_lines(width != size || flip ? out : in, {1, size}, size, count, view + row * size);
    }
    for (int64_t place = 0; place < size * size; ++place) view[place] = limited(view[place]);
  }
}

// The mean of a plane. Sums are short, so that no number is lost in a large one.
INLINED float mean_of(const float* plane, int64_t pixels) {
  double total = 0.0;
  for (int64_t first = 0; first < pixels; first += 256 * lines) {
    const int64_t end = std::min(pixels, first + 256 * lines), whole = end - (end - first) % lines;
    float sums[lines] = {};
    for (int64_t place = first; place < whole; place += lines) {
      for (int64_t line = 0; line < lines; ++line) sums[line] += plane[place + line];
    }
    for (int64_t place = whole; place < end; ++place) sums[0] += plane[place];
    for (const float sum : sums) total += sum;
  }
  return float(total / pixels);
}

template <int kind>
INLINED void change_pixels(float* __restrict red, float* __restrict green, float* __restrict blue, int64_t pixels,
                           float value, float mean) {
  for (int64_t place = 0; place < pixels; ++place) {
    const Color color = changed({red[place], green[place], blue[place]}, kind, value, mean);
    red[place] = color.red;
    green[place] = color.green;
    blue[place] = color.blue;
  }
}

INLINED void change_colors(const ViewPlan& plan, int64_t pixels, float* view) {
  float *red = view, *green = view + pixels, *blue = view + 2 * pixels;
  for (int step = 0; step < color_steps; ++step) {
    const float value = plan.values[step];
    switch (int(plan.kinds[step])) {
      case brightness_step: change_pixels<brightness_step>(red, green, blue, pixels, value, 0.0f); break;
      case contrast_step: {
        // The mean of the gray image is the gray of the mean color.
        const float mean = gray_of({mean_of(red, pixels), mean_of(green, pixels), mean_of(blue, pixels)});
        change_pixels<contrast_step>(red, green, blue, pixels, value, mean);
        break;
      }
      case saturation_step: change_pixels<saturation_step>(red, green, blue, pixels, value, 0.0f); break;
      case hue_step: change_pixels<hue_step>(red, green, blue, pixels, value, 0.0f); break;
      default: break;
    }
  }
}

// Pillow's Gaussian blur: a box, three times in each direction.
INLINED void blur(const ViewPlan& plan, int64_t size, const ViewScratch& scratch, float* view) {
  if (plan.reach < 0.0f) return;
  const Box box{int64_t(plan.reach), plan.inner, plan.outer};
  float *in = scratch.block(0), *out = scratch.block(1);
  for (const Layout layout : {Layout{size, 1}, Layout{1, size}}) {
    for (int channel = 0; channel < 3; ++channel) {
      for (int64_t line = 0; line < size; line += lines) {
        float* first = view + channel * size * size + line * layout.line;
        const int64_t count = std::min(lines, size - line);
        load_lines(first, layout, size, count, 1.0f, in);
        box.apply(in, out, size);
        box.apply(out, in, size);
        box.apply(in, out, size);
        store_lines(out, layout, size, count, first);
      }
    }
  }
}

INLINED void finish(const ViewPlan& plan, const ViewSizes& sizes, float* view) {
  const float threshold = threshold_of(plan);
  const int64_t pixels = sizes.size * sizes.size;
  for (int channel = 0; channel < 3; ++channel, view += pixels) {
    const float mean = sizes.means[channel], inverse_std = sizes.inverse_stds[channel];
    for (int64_t place = 0; place < pixels; ++place) view[place] = finished(view[place], threshold, mean, inverse_std);
  }
}

template <class Number>
INLINED void make_view_of(const Number* image, const ViewPlan& plan, const ViewSizes& sizes,
                          const ViewScratch& scratch, float* view) {
  cut(image, plan, sizes, scratch, view);
  change_colors(plan, sizes.size * sizes.size, view);
  blur(plan, sizes.size, scratch, view);
  finish(plan, sizes, view);
}

EACH_PROCESSOR void make_view(const uint8_t* image, const ViewPlan& plan, const ViewSizes& sizes,
                              const ViewScratch& scratch, float* view) {
  make_view_of(image, plan, sizes, scratch, view);
}
EACH_PROCESSOR void make_view(const float* image, const ViewPlan& plan, const ViewSizes& sizes,
                              const ViewScratch& scratch, float* view) {
  make_view_of(image, plan, sizes, scratch, view);
}

template <class Number>
at::Tensor make_views(const at::Tensor& images, const ViewPlan* plans, const ViewSizes& sizes) {
  const at::Tensor views = at::empty({images.size(0), 3, sizes.size, sizes.size}, images.options().dtype(at::kFloat));
  const auto* first = images.const_data_ptr<Number>();
  auto* first_view = views.mutable_data_ptr<float>();
  const int64_t pixels = sizes.height * sizes.width, view_pixels = sizes.size * sizes.size;
  at::parallel_for(0, images.size(0), 1, [&](int64_t begin, int64_t end) {
    float height = 1.0f, width = 1.0f;
    for (int64_t image = begin; image < end; ++image) {
      height = std::max(height, plans[image].height);
      width = std::max(width, plans[image].width);
    }
    const ViewScratch scratch(int64_t(height), int64_t(width), sizes.size);
    for (int64_t image = begin; image < end; ++image) {
      make_view(first + image * 3 * pixels, plans[image], sizes, scratch, first_view + image * 3 * view_pixels);
    }
  });
  return views;
}

at::Tensor views_on_cpu(const at::Tensor& images, const at::Tensor& plans, const ViewSizes& sizes) {
  const at::Tensor source = in_memory(images);
  const auto* first = reinterpret_cast<const ViewPlan*>(plans.const_data_ptr<float>());
  return source.scalar_type() == at::kByte ? make_views<uint8_t>(source, first, sizes)
                                           : make_views<float>(source, first, sizes);
}

}  // namespace patchmix

extern "C" {

// The views [B, 3, size, size] of Float that `plans`, B x ViewPlan of Float on the CPU, make of `images` [B, 3, H, W]
// of Byte or Float. `means` and `inverse_stds` are three numbers each.
char* patchmix_views(at::Tensor** made, const at::Tensor* images, const at::Tensor* plans, int64_t size, float gain,
                     const float* means, const float* inverse_stds) {
  return patchmix::guarded([&] {
    const at::NoGradGuard no_grad;
    const c10::DeviceGuard guard(images->device());
    patchmix::ViewSizes sizes{images->size(2), images->size(3), size, gain, {}, {}};
    std::copy(means, means + 3, sizes.means);
    std::copy(inverse_stds, inverse_stds + 3, sizes.inverse_stds);
    *made = new at::Tensor(images->is_cpu() ? patchmix::views_on_cpu(*images, *plans, sizes)
                                            : patchmix::views_on_gpu(*images, *plans, sizes));
  });
}
}
