// Layers, each one node of libtorch's graph: a linear layer, and the perceptron of a transformer block. The only caller
// is src/native/layers.rs, which checks shapes, kinds and devices first.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "casts.h"
#include "chunks.h"
#include "guarded.h"
#include "memory.h"
#include "node.h"
#include "rows.h"

namespace {

using patchmix::AutogradContext;
using patchmix::Chunks;
using patchmix::column_sums_like;
using patchmix::sums_of_chunk;
using patchmix::variable_list;

// Chunks of rows with about 1.6 MB of activations of `width`, measured best with 2 MB of cache per core. A GPU takes
// all rows at once.
Chunks chunks_of(const at::Tensor& rows, int64_t width) {
  if (rows.is_cuda()) return Chunks(rows.size(0));
  const int64_t longest = 1'600'000 / (width * rows.element_size());
  return Chunks(rows.size(0), std::max<int64_t>(longest, 64), /*shortest=*/96);
}

// For a product alone, which fills all threads by itself if there are too few rows for chunks.
Chunks chunks_of_product(const at::Tensor& rows, int64_t width) {
  const Chunks chunks = chunks_of(rows, width);
  return chunks.count() < at::get_num_threads() ? Chunks(rows.size(0)) : chunks;
}

at::Tensor as_rows(const at::Tensor& tensor) {
  const at::Tensor contiguous = tensor.is_cpu() ? patchmix::in_memory(tensor) : patchmix::readable(tensor);
  return contiguous.view({-1, tensor.size(-1)});
}

// A weight of Float in the kind of the product, or nothing.
at::Tensor cast(const at::Tensor& weight, const at::Tensor& like) {
  return weight.defined() ? patchmix::Casts::kept().cast(weight, like.scalar_type()) : weight;
}

void multiply(at::Tensor out, const at::Tensor& left, const at::Tensor& right) { at::mm_out(out, left, right); }

// out = rows * weightᵀ + bias.
void product(at::Tensor out, const at::Tensor& rows, const at::Tensor& weight, const at::Tensor& bias) {
  if (bias.defined()) {
    at::addmm_out(out, bias, rows, weight.t());
  } else {
    multiply(out, rows, weight.t());
  }
}

// The sizes of `tensor` with another width.
std::vector<int64_t> with_width(const at::Tensor& tensor, int64_t width) {
  auto sizes = tensor.sizes().vec();
  sizes.back() = width;
  return sizes;
}

// The gradient of a weight, from those of the outputs and the inputs.
at::Tensor weight_gradient(const at::Tensor& outputs, const at::Tensor& inputs) {
  return at::mm(outputs.t(), inputs).to(at::kFloat);
}

// What a backward pass needs, or nothing.
at::Tensor if_needed(const at::Tensor& tensor, bool needed) { return needed ? tensor : at::Tensor(); }

struct LinearLayer : torch::autograd::Function<LinearLayer> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    const at::Tensor inputs = as_rows(x), cast_weight = cast(weight, x);
    const at::Tensor cast_bias = cast(bias.value_or(at::Tensor()), x);
    const int64_t width = weight.size(0);
    const at::Tensor made = at::empty(with_width(x, width), inputs.options()), outputs = made.view({-1, width});
    chunks_of_product(inputs, width).each([&](int64_t, int64_t first, int64_t count) {
      product(outputs.narrow(0, first, count), inputs.narrow(0, first, count), cast_weight, cast_bias);
    });
    context->save_for_backward({if_needed(inputs, weight.requires_grad()), if_needed(cast_weight, x.requires_grad())});
    context->saved_data["biased"] = bias.has_value();
    return made;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    patchmix::refuse_second_derivative();
    const auto saved = context->get_saved_variables();
    const at::Tensor &inputs = saved[0], &weight = saved[1];
    const at::Tensor gradient = as_rows(gradients[0]);
    const Chunks chunks = chunks_of_product(gradient, gradient.size(1));
    const bool of_input = context->needs_input_grad(0), of_weight = context->needs_input_grad(1);
    const bool of_bias = context->saved_data["biased"].toBool() && context->needs_input_grad(2);
    const at::Tensor grad_inputs =
        of_input ? at::empty({gradient.size(0), weight.size(1)}, gradient.options()) : at::Tensor();
    at::Tensor grad_bias = of_bias ? column_sums_like(gradient, chunks, gradient.size(1)) : at::Tensor();
    chunks.each([&](int64_t chunk, int64_t first, int64_t count) {
      const at::Tensor part = gradient.narrow(0, first, count);
      if (of_input) multiply(grad_inputs.narrow(0, first, count), part, weight);
      if (of_bias) patchmix::add_columns(part, sums_of_chunk(grad_bias, chunk));
    });
    return {of_input ? grad_inputs.view(with_width(gradients[0], grad_inputs.size(1))) : at::Tensor(),
            of_weight ? weight_gradient(gradient, inputs) : at::Tensor(), of_bias ? grad_bias.sum(0) : at::Tensor()};
  }
};

struct Perceptron : torch::autograd::Function<Perceptron> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight_1,
                            const at::Tensor& bias_1, const at::Tensor& weight_2, const at::Tensor& bias_2,
                            bool keep) {
    const at::Tensor inputs = as_rows(x);
    const at::Tensor cast_1 = cast(weight_1, x), cast_2 = cast(weight_2, x);
    const at::Tensor shift = as_rows(bias_1), cast_bias_2 = cast(bias_2, x);
    const int64_t rows = inputs.size(0), width = weight_1.size(0);
    const at::Tensor hidden = keep ? at::empty({rows, width}, inputs.options()) : at::Tensor();
    const at::Tensor made = at::empty(with_width(x, weight_2.size(0)), inputs.options());
    const at::Tensor outputs = made.view({-1, weight_2.size(0)});
    chunks_of(inputs, width).each([&](int64_t, int64_t first, int64_t count) {
      const at::Tensor part = keep ? hidden.narrow(0, first, count) : at::empty({count, width}, inputs.options());
      product(part, inputs.narrow(0, first, count), cast_1, at::Tensor());
      const at::Tensor active = at::empty_like(part);
      patchmix::gelu(part, shift, active);
      product(outputs.narrow(0, first, count), active, cast_2, cast_bias_2);
    });
    if (keep) {
      context->save_for_backward({if_needed(inputs, weight_1.requires_grad()), hidden,
                                  if_needed(cast_1, x.requires_grad()), shift, cast_2});
    }
    return made;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    patchmix::refuse_second_derivative();
    const auto saved = context->get_saved_variables();
    const at::Tensor &inputs = saved[0], &hidden = saved[1], &weight_1 = saved[2], &shift = saved[3];
    const at::Tensor& weight_2 = saved[4];
    const at::Tensor gradient = as_rows(gradients[0]);
    const Chunks chunks = chunks_of(hidden, hidden.size(1));
    const bool of_input = context->needs_input_grad(0);
    const at::Tensor grad_inputs =
        of_input ? at::empty({hidden.size(0), weight_1.size(1)}, hidden.options()) : at::Tensor();
    at::Tensor grad_hidden = at::empty_like(hidden), active = at::empty_like(hidden);
    at::Tensor grad_bias_1 = column_sums_like(hidden, chunks, hidden.size(1));
    at::Tensor grad_bias_2 = column_sums_like(gradient, chunks, gradient.size(1));
    chunks.each([&](int64_t chunk, int64_t first, int64_t count) {
      const at::Tensor part = gradient.narrow(0, first, count), grad_part = grad_hidden.narrow(0, first, count);
      patchmix::add_columns(part, sums_of_chunk(grad_bias_2, chunk));
      multiply(grad_part, part, weight_2);
      patchmix::gelu_backward(hidden.narrow(0, first, count), shift, active.narrow(0, first, count), grad_part,
                              sums_of_chunk(grad_bias_1, chunk));
      if (of_input) multiply(grad_inputs.narrow(0, first, count), grad_part, weight_1);
    });
    return {of_input ? grad_inputs.view(with_width(gradients[0], grad_inputs.size(1))) : at::Tensor(),
            context->needs_input_grad(1) ? weight_gradient(grad_hidden, inputs) : at::Tensor(),
            grad_bias_1.sum(0),
            context->needs_input_grad(3) ? weight_gradient(gradient, active) : at::Tensor(),
            grad_bias_2.sum(0),
            at::Tensor()};
  }
};

}  // namespace

extern "C" {

// From the first call on, the layers below cast each weight once, until as many calls of patchmix_end_casts. The
// weights must not change meanwhile. Both calls are of the same thread.
void patchmix_begin_casts() { patchmix::Casts::kept().begin(); }
void patchmix_end_casts() { patchmix::Casts::kept().end(); }

// `x * weightᵀ + bias` over the last dimension. `x` is of Float or BFloat16, as is the result; `weight` [N, K] and
// `bias` [N], or null, are of Float.
char* patchmix_linear(at::Tensor** made, const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias) {
  return patchmix::guarded([&] {
    const c10::DeviceGuard guard(x->device());
    const auto given = bias == nullptr ? std::nullopt : std::optional<at::Tensor>(*bias);
    *made = new at::Tensor(LinearLayer::apply(*x, *weight, given));
  });
}

// `GELU(x * weight_1ᵀ + bias_1) * weight_2ᵀ + bias_2` over the last dimension, kinds as for patchmix_linear.
char* patchmix_perceptron(at::Tensor** made, const at::Tensor* x, const at::Tensor* weight_1, const at::Tensor* bias_1,
                          const at::Tensor* weight_2, const at::Tensor* bias_2) {
  return patchmix::guarded([&] {
    const c10::DeviceGuard guard(x->device());
    const bool any = x->requires_grad() || weight_1->requires_grad() || bias_1->requires_grad() ||
                     weight_2->requires_grad() || bias_2->requires_grad();
    const bool keep = at::GradMode::is_enabled() && any;
    *made = new at::Tensor(Perceptron::apply(*x, *weight_1, *bias_1, *weight_2, *bias_2, keep));
  });
}
}
