// Queries, keys and values by head, as parts of a linear layer's outputs. The only caller is src/native/layers.rs,
// which checks shapes, kinds and devices first.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <c10/core/DeviceGuard.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "gpu_kernels.h"
#include "guarded.h"
#include "node.h"

namespace {

using patchmix::AutogradContext;
using patchmix::variable_list;

constexpr int64_t word = 16;  // bytes that a thread of the kernel moves at once

// As in layers.cu.
struct ByHead {
  const void* words = nullptr;
  long image = 0, head = 0, token = 0;
};

// `part` [images, heads, tokens, depth] in words; its last dimension made contiguous, and the memory of all aligned.
ByHead by_head(at::Tensor& part) {
  const int64_t bytes = part.element_size();
  const auto fits = [&] {
    const auto address = reinterpret_cast<uintptr_t>(part.const_data_ptr());
    return patchmix::is_plain(part) && part.stride(3) == 1 && address % word == 0 &&
           part.stride(0) * bytes % word == 0 && part.stride(1) * bytes % word == 0 &&
           part.stride(2) * bytes % word == 0;
  };
  if (!fits()) part = patchmix::copied(part);
  const auto distance = [&](int64_t dimension) { return static_cast<long>(part.stride(dimension) * bytes / word); };
  return {part.const_data_ptr(), distance(0), distance(1), distance(2)};
}

// The gradients of all parts side by side, [images, tokens, parts * heads * depth]. libtorch's operation for that takes
// several times as long on a GPU.
at::Tensor joined_on_gpu(variable_list parts) {
  const at::Tensor& like = parts[0];
  const int64_t images = like.size(0), heads = like.size(1), tokens = like.size(2), depth = like.size(3);
  const int64_t count = static_cast<int64_t>(parts.size());
  at::Tensor joined = at::empty({images, tokens, count * heads * depth}, like.options());
  const int64_t words = joined.numel() * joined.element_size() / word;
  std::vector<ByHead> places(3);
  for (int64_t part = 0; part < count; ++part) places[part] = by_head(parts[part]);
  const auto& kernels = patchmix::gpu_kernels(patchmix::layers_source, joined.get_device(), 0);
  const auto number = [](int64_t value) { return static_cast<unsigned>(value); };
  kernels.launch("join_heads", 2 * kernels.blocks(), joined.device(), places[0], places[1], places[2], number(count),
                 number(tokens), number(heads), number(depth * joined.element_size() / word), number(words),
                 patchmix::memory(joined));
  return joined;
}

// Whether the kernel can join such gradients: in whole words, whose places are numbers of 31 bits.
bool can_join_on_gpu(const variable_list& parts) {
  const at::Tensor& like = parts[0];
  const int64_t words = static_cast<int64_t>(parts.size()) * like.numel() * like.element_size() / word;
  return like.is_cuda() && like.size(3) * like.element_size() % word == 0 &&
         words < std::numeric_limits<int32_t>::max();
}

struct SplitHeads : torch::autograd::Function<SplitHeads> {
  static variable_list forward(AutogradContext*, const at::Tensor& parts, int64_t count, int64_t heads) {
    // To libtorch's graph, the results are tensors of their own and not views: their gradients come here.
    const at::AutoDispatchBelowADInplaceOrView not_views;
    const int64_t depth = parts.size(2) / count / heads;
    const at::Tensor all = parts.view({parts.size(0), parts.size(1), count, heads, depth});
    variable_list split;
    for (int64_t part = 0; part < count; ++part) split.push_back(all.select(2, part).transpose(1, 2));
    return split;
  }

  static variable_list backward(AutogradContext*, variable_list gradients) {
    // A gradient that is to have one itself is joined by operations of libtorch, whose gradients are known.
    if (!at::GradMode::is_enabled() && can_join_on_gpu(gradients)) {
      return {joined_on_gpu(gradients), at::Tensor(), at::Tensor()};
    }
    for (auto& gradient : gradients) gradient = gradient.transpose(1, 2);
    return {at::stack(gradients, 2).flatten(2), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

// `count` parts side by side, at most 3, [B, T, count * heads * depth], each as [B, heads, T, depth] in the memory of
// `parts`, which must not change afterwards.
char* patchmix_split_heads(at::Tensor** split, const at::Tensor* parts, int64_t count, int64_t heads) {
  return patchmix::guarded([&] {
    const c10::DeviceGuard guard(parts->device());
    const auto made = SplitHeads::apply(*parts, count, heads);
    for (int64_t part = 0; part < count; ++part) split[part] = new at::Tensor(made[part]);
  });
}
}
