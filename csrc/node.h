// What the nodes of libtorch's graph have in common.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>

#include "chunks.h"

namespace patchmix {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Calls `work` with a null pointer of the tensor's kind, Float or BFloat16.
template <class Work>
void with_kind(const at::Tensor& tensor, Work&& work) {
  if (tensor.scalar_type() == at::kBFloat16) {
    work(static_cast<at::BFloat16*>(nullptr));
  } else {
    work(static_cast<float*>(nullptr));
  }
}

// Sums of columns, one row per chunk, which are added up in a fixed order.
inline at::Tensor column_sums(const Chunks& chunks, int64_t width) {
  return at::zeros({chunks.count(), width}, at::TensorOptions().dtype(at::kFloat));
}

// Call it first in a backward pass.
inline void refuse_second_derivative() {
  TORCH_CHECK(!at::GradMode::is_enabled(), "this layer has no second derivative; call "
                                           "patchmix::backend::allow_own_kernels(false) for one");
}

}  // namespace patchmix
