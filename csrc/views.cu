// The kernels of views_on_gpu.h. Planes are [B, 3, height, width]; a plan per image is in `plans`.
#include "view_math.cuh"

using namespace patchmix;

typedef unsigned char u8;

__device__ long first_thread() { return blockIdx.x * (long)blockDim.x + threadIdx.x; }
__device__ long all_threads() { return gridDim.x * (long)blockDim.x; }

// Resizes the rows of the crops of `images`, flipped where the plan says so: narrowed [B, 3, rows, size], where no crop
// has more than `rows`. Those of a crop with fewer come first; the others are not written.
template <class Number>
__device__ void narrow(const Number* images, const ViewPlan* plans, float* narrowed, long batch, int rows, int height,
                       int width, int size, float gain) {
  const long count = batch * rows * size;
  for (long place = first_thread(); place < count; place += all_threads()) {
    const int column = place % size, row = place / size % rows;
    const long image = place / size / rows;
    const ViewPlan& plan = plans[image];
    if (row >= int(plan.height)) continue;
    const Taps taps = taps_of(int(plan.width), size, plan.flip != 0.0f ? size - 1 - column : column);
    const long pixels = (long)height * width;
    const int source_row = int(plan.top) + row, source_column = int(plan.left) + taps.first;
    const Number* from = images + image * 3 * pixels + source_row * (long)width + source_column;
    float weights = 0.0f, red = 0.0f, green = 0.0f, blue = 0.0f;
    for (int tap = 0; tap < taps.count; ++tap) {
      const float weight = weight_of(taps, tap);
      weights += weight;
      red += weight * (gain * from[tap]);
      green += weight * (gain * from[tap + pixels]);
      blue += weight * (gain * from[tap + 2 * pixels]);
    }
    float* to = narrowed + (image * 3 * rows + row) * size + column;
    to[0] = red / weights;
    to[(long)rows * size] = green / weights;
    to[2L * rows * size] = blue / weights;
  }
}

extern "C" __global__ void view_narrow_bytes(const u8* images, const ViewPlan* plans, float* narrowed, long batch,
                                             int rows, int height, int width, int size, float gain) {
  narrow(images, plans, narrowed, batch, rows, height, width, size, gain);
}

extern "C" __global__ void view_narrow_floats(const float* images, const ViewPlan* plans, float* narrowed, long batch,
                                              int rows, int height, int width, int size, float gain) {
  narrow(images, plans, narrowed, batch, rows, height, width, size, gain);
}

// Resizes the columns of `narrowed`: views [B, 3, size, size].
extern "C" __global__ void view_shorten(const float* narrowed, const ViewPlan* plans, float* views, long batch,
                                        int rows, int size) {
  const long pixels = (long)size * size, count = batch * pixels;
  for (long place = first_thread(); place < count; place += all_threads()) {
    const int column = place % size, row = place / size % size;
    const long image = place / pixels;
    const Taps taps = taps_of(int(plans[image].height), size, row);
    const float* from = narrowed + (image * 3 * rows + taps.first) * size + column;
    float weights = 0.0f, sums[3] = {0.0f, 0.0f, 0.0f};
    for (int tap = 0; tap < taps.count; ++tap, from += size) {
      const float weight = weight_of(taps, tap);
      weights += weight;
      for (int channel = 0; channel < 3; ++channel) sums[channel] += weight * from[channel * (long)rows * size];
    }
    float* to = views + image * 3 * pixels + row * (long)size + column;
    for (int channel = 0; channel < 3; ++channel) to[channel * pixels] = limited(sums[channel] / weights);
  }
}

// The sum of `value` over the threads of a block, added up in a fixed order.
__device__ float block_sum(float value) {
  __shared__ float sums[1024];  // threads of the largest block
  sums[threadIdx.x] = value;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  return sums[0];
}

// The place of contrast among the changes of color, or color_steps.
__device__ int contrast_of(const ViewPlan& plan) {
  int step = 0;
  while (step < color_steps && int(plan.kinds[step]) != contrast_step) ++step;
  return step;
}

// The changes `first` .. `end` of color of a block's part of an image. Returns the sum of a thread's new grays.
__device__ float change(const ViewPlan& plan, float* view, int pixels, int part, int parts, int first, int end,
                        float mean) {
  float sum = 0.0f;
  for (int place = part * blockDim.x + threadIdx.x; place < pixels; place += parts * blockDim.x) {
    Color color{view[place], view[place + pixels], view[place + 2 * pixels]};
    for (int step = first; step < end; ++step) {
      color = changed(color, int(plan.kinds[step]), plan.values[step], mean);
    }
    view[place] = color.red;
    view[place + pixels] = color.green;
    view[place + 2 * pixels] = color.blue;
    sum += gray_of(color);
  }
  return sum;
}

// The changes of color before contrast, or all if there is none. Contrast needs the mean gray of what they make: a
// block leaves the sum of its part in `sums` [B, parts].
extern "C" __global__ void view_color(const ViewPlan* plans, float* views, float* sums, int size, int parts) {
  const int image = blockIdx.x / parts, part = blockIdx.x % parts, pixels = size * size;
  const ViewPlan& plan = plans[image];
  const int contrast = contrast_of(plan);
  bool any = contrast < color_steps;
  for (const float kind : plan.kinds) any = any || int(kind) != no_step;
  if (!any) return;
  const float sum = change(plan, views + image * 3L * pixels, pixels, part, parts, 0, contrast, 0.0f);
  const float total = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

// Contrast and the changes of color after it.
extern "C" __global__ void view_contrast(const ViewPlan* plans, float* views, const float* sums, int size, int parts) {
  const int image = blockIdx.x / parts, part = blockIdx.x % parts, pixels = size * size;
  const ViewPlan& plan = plans[image];
  const int contrast = contrast_of(plan);
  if (contrast == color_steps) return;
  float total = 0.0f;
  for (int other = 0; other < parts; ++other) total += sums[image * parts + other];
  change(plan, views + image * 3L * pixels, pixels, part, parts, contrast, color_steps, total / pixels);
}

// Pillow's Gaussian blur of the rows, or of the columns: a box, three times. A block works on as many neighboring lines
// of a plane as fit in its memory.
extern "C" __global__ void view_blur(const ViewPlan* plans, float* views, int size, int vertical) {
  __shared__ float memory[2][longest_blurred];  // 48 KB
  const int lines = longest_blurred / size, groups = (size + lines - 1) / lines;
  const long plane = blockIdx.x / groups;
  const ViewPlan& plan = plans[plane / 3];
  const int reach = int(plan.reach);
  if (plan.reach < 0.0f) return;
  const int first = blockIdx.x % groups * lines, count = size - first < lines ? size - first : lines;
  // In memory, neighbors in a row are neighbors; the pixel after `place` in a line is `step` farther.
  const int step = vertical ? count : 1, values = count * size;
  float* view = views + plane * size * (long)size + (vertical ? first : first * (long)size);
  const auto address = [&](int value) {
    return vertical ? view + value / count * (long)size + value % count : view + value;
  };
  for (int value = threadIdx.x; value < values; value += blockDim.x) memory[0][value] = *address(value);
  for (int time = 0; time < 3; ++time) {
    __syncthreads();
    const float* from = memory[time % 2];
    for (int value = threadIdx.x; value < values; value += blockDim.x) {
      const int place = vertical ? value / count : value % size;
      const float* line = from + (value - place * step);
      float sum = line[place * step], farther = sum;
      for (int distance = 1; distance <= reach + 1; ++distance) {
        const int before = place - distance, after = place + distance;
        farther = line[(before < 0 ? 0 : before) * step] + line[(after < size ? after : size - 1) * step];
        if (distance <= reach) sum += farther;
      }
      memory[1 - time % 2][value] = plan.inner * sum + plan.outer * farther;
    }
  }
  __syncthreads();
  for (int value = threadIdx.x; value < values; value += blockDim.x) *address(value) = memory[1][value];
}

// Solarization and normalization.
extern "C" __global__ void view_finish(const ViewPlan* plans, float* views, long batch, int size, float mean_0,
                                       float mean_1, float mean_2, float inverse_std_0, float inverse_std_1,
                                       float inverse_std_2) {
  const long pixels = (long)size * size, count = batch * 3 * pixels;
  for (long place = first_thread(); place < count; place += all_threads()) {
    const long plane = place / pixels;
    const int channel = plane % 3;
    const float mean = channel == 0 ? mean_0 : (channel == 1 ? mean_1 : mean_2);
    const float inverse_std = channel == 0 ? inverse_std_0 : (channel == 1 ? inverse_std_1 : inverse_std_2);
    views[place] = finished(views[place], threshold_of(plans[plane / 3]), mean, inverse_std);
  }
}
