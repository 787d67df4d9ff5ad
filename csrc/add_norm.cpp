// Fused residual addition and layer norm. On a GPU, one kernel forward and one backward: adds a branch to the residual
// stream and normalizes the sum for the next layer, in bfloat16. libtorch's own operations make six passes over memory
// forward and ten backward. The only caller is src/native/add_norm.rs, which checks shapes, kinds and devices first.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <optional>

#include "add_norm_on_cpu.h"
#include "gpu_kernels.h"
#include "guarded.h"

namespace {

using patchmix::gpu_kernels;
using patchmix::memory;
using patchmix::readable;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct AddNorm : torch::autograd::Function<AddNorm> {
  static variable_list forward(AutogradContext* context, const at::Tensor& tokens, const at::Tensor& branch,
                               const std::optional<at::Tensor>& drawn, const at::Tensor& weight,
                               const at::Tensor& bias, double epsilon) {
    const at::Tensor kept = drawn.value_or(at::Tensor());
    const int64_t width = tokens.size(-1), rows = tokens.numel() / width, tokens_of_image = rows / tokens.size(0);
    const auto& kernels = gpu_kernels(patchmix::add_norm_source, tokens.get_device(), width);
    at::Tensor sum = at::empty_like(tokens), normed = at::empty_like(branch);
    at::Tensor means = at::empty({rows}, tokens.options()), inverse_stds = at::empty({rows}, tokens.options());
    kernels.launch("add_norm_forward", kernels.blocks(), tokens.device(), memory(tokens), memory(branch), memory(kept),
                   static_cast<long>(tokens_of_image), static_cast<long>(rows), memory(weight), memory(bias),
                   static_cast<float>(epsilon), memory(sum), memory(normed), memory(means), memory(inverse_stds));
    context->save_for_backward({sum, means, inverse_stds, kept, weight});
    context->set_materialize_grads(false);
    return {sum, normed};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    patchmix::refuse_second_derivative();
    const auto saved = context->get_saved_variables();
    const at::Tensor &sum = saved[0], &means = saved[1], &inverse_stds = saved[2], &kept = saved[3], &weight = saved[4];
    const int64_t width = sum.size(-1), rows = sum.numel() / width, tokens_of_image = rows / sum.size(0);
    const auto& kernels = gpu_kernels(patchmix::add_norm_source, sum.get_device(), width);
    const at::Tensor grad_sum = gradients[0].defined() ? readable(gradients[0]) : at::Tensor();
    const auto halves = sum.options().dtype(at::kBFloat16);
    const at::Tensor grad_normed = gradients[1].defined() ? readable(gradients[1]) : at::zeros(sum.sizes(), halves);
    at::Tensor grad_tokens = at::empty_like(sum), grad_branch = at::empty(sum.sizes(), halves);
    const int64_t warps = int64_t{kernels.blocks()} * kernels.threads / 32;
    at::Tensor grad_weight = at::empty({warps, width}, sum.options());
    at::Tensor grad_bias = at::empty_like(grad_weight);
    kernels.launch("add_norm_backward", kernels.blocks(), sum.device(), memory(grad_sum), memory(grad_normed),
                   memory(sum), memory(means), memory(inverse_stds), memory(kept), static_cast<long>(tokens_of_image),
                   static_cast<long>(rows), memory(weight), memory(grad_tokens), memory(grad_branch),
                   memory(grad_weight), memory(grad_bias));
    return {grad_tokens, grad_branch, at::Tensor(), grad_weight.sum(0), grad_bias.sum(0), at::Tensor()};
  }
};

}  // namespace

extern "C" {

// `sum = tokens + kept * branch` and its layer norm `normed`. `tokens` and `sum` are [B, T, width] of Float, `branch`
// and `normed` of BFloat16, on a CPU also of Float; `kept` is [B, 1, 1] of Float, or null for 1.
char* patchmix_add_norm(at::Tensor** sum, at::Tensor** normed, const at::Tensor* tokens, const at::Tensor* branch,
                        const at::Tensor* kept, const at::Tensor* weight, const at::Tensor* bias, double epsilon) {
  return patchmix::guarded([&] {
    const c10::DeviceGuard guard(tokens->device());
    const auto drawn = kept == nullptr ? std::nullopt : std::optional<at::Tensor>(*kept);
    const auto results = tokens->is_cpu() ? AddNormOnCpu::apply(*tokens, *branch, drawn, *weight, *bias, epsilon)
                                          : AddNorm::apply(*tokens, *branch, drawn, *weight, *bias, epsilon);
    *sum = new at::Tensor(results[0]);
    *normed = new at::Tensor(results[1]);
  });
}
}
