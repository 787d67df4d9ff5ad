// Views of images on a GPU, in up to seven kernels for all images of a batch.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

#include "gpu_kernels.h"
#include "view_math.cuh"

namespace patchmix {

// What is the same for all images of a batch.
struct ViewSizes {
  int64_t height, width, size;
  float gain;  // scales the values of an image to 0 .. 1
  float means[3], inverse_stds[3];
};

// `plans` are on the CPU, `images` on the GPU, which is the current one.
inline at::Tensor views_on_gpu(const at::Tensor& images, const at::Tensor& plans, const ViewSizes& sizes) {
  const int64_t batch = images.size(0);
  const int size = static_cast<int>(sizes.size), width = static_cast<int>(sizes.width);
  const auto* first = reinterpret_cast<const ViewPlan*>(plans.const_data_ptr<float>());
  bool colored = false, blurred = false;
  float rows = 1.0f;
  for (const auto* plan = first; plan != first + batch; ++plan) {
    for (const float kind : plan->kinds) colored = colored || int(kind) != no_step;
    blurred = blurred || plan->reach >= 0.0f;
    rows = std::max(rows, plan->height);
  }
  const at::Tensor source = readable(images), uploaded = uploaded_to(plans, images.device());
  const auto options = images.options().dtype(at::kFloat);
  const int height = static_cast<int>(sizes.height), tallest = static_cast<int>(rows);
  const at::Tensor narrowed = at::empty({batch, 3, tallest, size}, options);
  at::Tensor views = at::empty({batch, 3, size, size}, options);
  const auto& kernels = gpu_kernels(views_source, images.get_device(), /*width=*/0);
  const auto launch = [&](const char* name, int64_t blocks, auto... arguments) {
    kernels.launch(name, static_cast<unsigned>(blocks), images.device(), arguments...);
  };
  const int64_t all = 2 * int64_t{kernels.blocks()};
  const long count = static_cast<long>(batch);
  launch(source.scalar_type() == at::kByte ? "view_narrow_bytes" : "view_narrow_floats", all, memory(source),
         memory(uploaded), memory(narrowed), count, tallest, height, width, size, sizes.gain);
  launch("view_shorten", all, memory(narrowed), memory(uploaded), memory(views), count, tallest, size);
  if (colored) {
    const int parts = std::clamp(size * size / 2048, 1, 32);  // of an image, for a block each
    const at::Tensor sums = at::empty({batch, parts}, options);
    for (const char* name : {"view_color", "view_contrast"}) {
      launch(name, batch * parts, memory(uploaded), memory(views), memory(sums), size, parts);
    }
  }
  const int64_t lines = longest_blurred / size, groups = (size + lines - 1) / lines;
  if (blurred) {
    for (const int vertical : {0, 1}) {
      launch("view_blur", batch * 3 * groups, memory(uploaded), memory(views), size, vertical);
    }
  }
  launch("view_finish", all, memory(uploaded), memory(views), count, size, sizes.means[0], sizes.means[1],
         sizes.means[2], sizes.inverse_stds[0], sizes.inverse_stds[1], sizes.inverse_stds[2]);
  return views;
}

}  // namespace patchmix
