// Layers on a CPU, each one node of libtorch's graph: a linear layer, and the perceptron of a transformer block. The
// only caller is src/native/layers.rs, which checks shapes, kinds and devices first.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "chunks.h"
#include "guarded.h"
#include "memory.h"
#include "node.h"
#include "numbers.h"

namespace patchmix {

// out = GELU(in + bias).
template <class Number>
INLINED void gelu_of(const Number* __restrict in, const float* __restrict bias, Number* __restrict out, int64_t rows,
                     int64_t width) {
  for (int64_t row = 0; row < rows; ++row, in += width, out += width) {
    for (int64_t column = 0; column < width; ++column) {
      const float x = load(in[column]) + bias[column];
      store(out[column], x * normal(x).below);
    }
  }
}

// out = GELU(in + bias) once more, and the gradient of `in` from that of `out`, which it replaces; `sums` adds up its
// columns.
template <class Number>
INLINED void gelu_backward_of(const Number* __restrict in, const float* __restrict bias, Number* __restrict out,
                              Number* __restrict gradient, float* __restrict sums, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row, in += width, out += width, gradient += width) {
    for (int64_t column = 0; column < width; ++column) {
      const float x = load(in[column]) + bias[column];
      const auto [below, density] = normal(x);
      store(out[column], x * below);
      const float slope = load(gradient[column]) * (below + x * density);
      store(gradient[column], slope);
      sums[column] += slope;
    }
  }
}

template <class Number>
INLINED void add_columns_of(const Number* __restrict in, float* __restrict sums, int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row, in += width) {
    for (int64_t column = 0; column < width; ++column) sums[column] += load(in[column]);
  }
}

EACH_PROCESSOR void gelu(const float* in, const float* bias, float* out, int64_t rows, int64_t width) {
  gelu_of(in, bias, out, rows, width);
}
EACH_PROCESSOR void gelu(const at::BFloat16* in, const float* bias, at::BFloat16* out, int64_t rows, int64_t width) {
  gelu_of(in, bias, out, rows, width);
}
EACH_PROCESSOR void gelu_backward(const float* in, const float* bias, float* out, float* gradient, float* sums,
                                  int64_t rows, int64_t width) {
  gelu_backward_of(in, bias, out, gradient, sums, rows, width);
}
EACH_PROCESSOR void gelu_backward(const at::BFloat16* in, const float* bias, at::BFloat16* out,
                                  at::BFloat16* gradient, float* sums, int64_t rows, int64_t width) {
  gelu_backward_of(in, bias, out, gradient, sums, rows, width);
}
EACH_PROCESSOR void add_columns(const float* in, float* sums, int64_t rows, int64_t width) {
  add_columns_of(in, sums, rows, width);
}
EACH_PROCESSOR void add_columns(const at::BFloat16* in, float* sums, int64_t rows, int64_t width) {
  add_columns_of(in, sums, rows, width);
}

}  // namespace patchmix

namespace {

using patchmix::AutogradContext;
using patchmix::Chunks;
using patchmix::column_sums;
using patchmix::variable_list;
using patchmix::with_kind;

// Chunks of rows with about 1.6 MB of activations of `width`, measured best with 2 MB of cache per core.
Chunks chunks_of(const at::Tensor& rows, int64_t width) {
  const int64_t longest = 1'600'000 / (width * rows.element_size());
  return Chunks(rows.size(0), std::max<int64_t>(longest, 64), /*shortest=*/96);
}

// For a product alone, which fills all threads by itself if there are too few rows for chunks.
Chunks chunks_of_product(const at::Tensor& rows, int64_t width) {
  const Chunks chunks = chunks_of(rows, width);
  return chunks.count() < at::get_num_threads() ? Chunks(rows.size(0)) : chunks;
}

at::Tensor as_rows(const at::Tensor& tensor) { return patchmix::in_memory(tensor).view({-1, tensor.size(-1)}); }

// A weight of Float in the kind of the product, or nothing.
at::Tensor cast(const at::Tensor& weight, const at::Tensor& like) {
  return weight.defined() ? weight.to(like.scalar_type()) : weight;
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

void add_columns(const at::Tensor& rows, at::Tensor& sums, int64_t chunk) {
  with_kind(rows, [&](auto* kind) {
    using Number = std::remove_pointer_t<decltype(kind)>;
    patchmix::add_columns(rows.const_data_ptr<Number>(), sums.mutable_data_ptr<float>() + chunk * sums.size(1),
                          rows.size(0), rows.size(1));
  });
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
    at::Tensor grad_bias = of_bias ? column_sums(chunks, gradient.size(1)) : at::Tensor();
    chunks.each([&](int64_t chunk, int64_t first, int64_t count) {
      const at::Tensor part = gradient.narrow(0, first, count);
      if (of_input) multiply(grad_inputs.narrow(0, first, count), part, weight);
      if (of_bias) add_columns(part, grad_bias, chunk);
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
    const at::Tensor shift = patchmix::in_memory(bias_1), cast_bias_2 = cast(bias_2, x);
    const int64_t rows = inputs.size(0), width = weight_1.size(0);
    const at::Tensor hidden = keep ? at::empty({rows, width}, inputs.options()) : at::Tensor();
    const at::Tensor made = at::empty(with_width(x, weight_2.size(0)), inputs.options());
    const at::Tensor outputs = made.view({-1, weight_2.size(0)});
    chunks_of(inputs, width).each([&](int64_t, int64_t first, int64_t count) {
      const at::Tensor part = keep ? hidden.narrow(0, first, count) : at::empty({count, width}, inputs.options());
      product(part, inputs.narrow(0, first, count), cast_1, at::Tensor());
      const at::Tensor active = at::empty_like(part);
      with_kind(part, [&](auto* kind) {
        using Number = std::remove_pointer_t<decltype(kind)>;
        patchmix::gelu(part.const_data_ptr<Number>(), shift.const_data_ptr<float>(),
                       active.mutable_data_ptr<Number>(), count, width);
      });
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
    at::Tensor grad_bias_1 = column_sums(chunks, hidden.size(1)), grad_bias_2 = column_sums(chunks, gradient.size(1));
    chunks.each([&](int64_t chunk, int64_t first, int64_t count) {
      const at::Tensor part = gradient.narrow(0, first, count), grad_part = grad_hidden.narrow(0, first, count);
      add_columns(part, grad_bias_2, chunk);
      multiply(grad_part, part, weight_2);
      with_kind(hidden, [&](auto* kind) {
        using Number = std::remove_pointer_t<decltype(kind)>;
        const int64_t width = hidden.size(1), offset = first * width;
        patchmix::gelu_backward(hidden.const_data_ptr<Number>() + offset, shift.const_data_ptr<float>(),
                                active.mutable_data_ptr<Number>() + offset, grad_part.mutable_data_ptr<Number>(),
                                grad_bias_1.mutable_data_ptr<float>() + chunk * width, count, width);
      });
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

// `x * weightᵀ + bias` over the last dimension. `x` is of Float or BFloat16, as is the result; `weight` [N, K] and
// `bias` [N], or null, are of Float.
char* patchmix_linear(at::Tensor** made, const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias) {
  return patchmix::guarded([&] {
    const auto given = bias == nullptr ? std::nullopt : std::optional<at::Tensor>(*bias);
    *made = new at::Tensor(LinearLayer::apply(*x, *weight, given));
  });
}

// `GELU(x * weight_1ᵀ + bias_1) * weight_2ᵀ + bias_2` over the last dimension, kinds as for patchmix_linear.
char* patchmix_perceptron(at::Tensor** made, const at::Tensor* x, const at::Tensor* weight_1, const at::Tensor* bias_1,
                          const at::Tensor* weight_2, const at::Tensor* bias_2) {
  return patchmix::guarded([&] {
    const bool any = x->requires_grad() || weight_1->requires_grad() || bias_1->requires_grad() ||
                     weight_2->requires_grad() || bias_2->requires_grad();
    const bool keep = at::GradMode::is_enabled() && any;
    *made = new at::Tensor(Perceptron::apply(*x, *weight_1, *bias_1, *weight_2, *bias_2, keep));
  });
}
}
