// Residual addition and layer norm on a CPU as one node of libtorch's graph, one pass over memory each way. The only
// caller is add_norm.cpp.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>

#include "chunks.h"
#include "memory.h"
#include "node.h"
#include "numbers.h"

namespace patchmix {

// One token: sum = tokens + share * branch; normed = (sum - mean) / std * weight + bias.
template <class Number>
struct AddNormRow {
  const float* tokens;
  const Number* branch;
  float share;
  float* sum;
  Number* normed;
  float* mean;
  float* inverse_std;
};

template <class Number>
INLINED void add_norm_of(const AddNormRow<Number>& row, const float* weight, const float* bias, float epsilon,
                         int64_t width) {
  const float *__restrict tokens = row.tokens, share = row.share;
  const Number* __restrict branch = row.branch;
  float* __restrict sum = row.sum;
  Number* __restrict normed = row.normed;
  float total = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : total)
  for (int64_t place = 0; place < width; ++place) {
    const float x = tokens[place] + share * load(branch[place]);
    sum[place] = x;
    total += x;
  }
  const float mean = total / width;
#pragma omp simd reduction(+ : squares)
  for (int64_t place = 0; place < width; ++place) {
    const float distance = sum[place] - mean;
    squares += distance * distance;
  }
  const float inverse_std = 1.0f / std::sqrt(squares / width + epsilon);
  for (int64_t place = 0; place < width; ++place) {
    store(normed[place], (sum[place] - mean) * inverse_std * weight[place] + bias[place]);
  }
  *row.mean = mean;
  *row.inverse_std = inverse_std;
}

// The gradients of one token and its branch from those of its sum, which may be null, and of what was normalized.
template <class Number>
struct AddNormGradients {
  const float* of_sum;
  const Number* of_normed;
  float* of_tokens;
  Number* of_branch;
};

// Adds to the gradients of weight and bias.
template <class Number>
INLINED void add_norm_backward_of(const AddNormGradients<Number>& gradients, const AddNormRow<Number>& row,
                                  const float* __restrict weight, float* __restrict of_weight,
                                  float* __restrict of_bias, int64_t width) {
  const float* __restrict sum = row.sum;
  const Number* __restrict of_normed = gradients.of_normed;
  float* __restrict of_tokens = gradients.of_tokens;
  Number* __restrict of_branch = gradients.of_branch;
  const float mean = *row.mean, inverse_std = *row.inverse_std, share = row.share;
  float total = 0.0f, along_x = 0.0f;
#pragma omp simd reduction(+ : total, along_x)
  for (int64_t place = 0; place < width; ++place) {
    const float x = (sum[place] - mean) * inverse_std, gradient = load(of_normed[place]);
    of_weight[place] += gradient * x;
    of_bias[place] += gradient;
    total += gradient * weight[place];
    along_x += gradient * weight[place] * x;
  }
  total /= width;
  along_x /= width;
  for (int64_t place = 0; place < width; ++place) {
    const float x = (sum[place] - mean) * inverse_std;
    of_tokens[place] = inverse_std * (load(of_normed[place]) * weight[place] - total - x * along_x);
  }
  if (const float* __restrict of_sum = gradients.of_sum) {
    for (int64_t place = 0; place < width; ++place) of_tokens[place] += of_sum[place];
  }
  for (int64_t place = 0; place < width; ++place) store(of_branch[place], share * of_tokens[place]);
}

EACH_PROCESSOR void add_norm(const AddNormRow<float>& row, const float* weight, const float* bias, float epsilon,
                             int64_t width) {
  add_norm_of(row, weight, bias, epsilon, width);
}
EACH_PROCESSOR void add_norm(const AddNormRow<at::BFloat16>& row, const float* weight, const float* bias,
                             float epsilon, int64_t width) {
  add_norm_of(row, weight, bias, epsilon, width);
}
EACH_PROCESSOR void add_norm_backward(const AddNormGradients<float>& gradients, const AddNormRow<float>& row,
                                      const float* weight, float* of_weight, float* of_bias, int64_t width) {
  add_norm_backward_of(gradients, row, weight, of_weight, of_bias, width);
}
EACH_PROCESSOR void add_norm_backward(const AddNormGradients<at::BFloat16>& gradients,
                                      const AddNormRow<at::BFloat16>& row, const float* weight, float* of_weight,
                                      float* of_bias, int64_t width) {
  add_norm_backward_of(gradients, row, weight, of_weight, of_bias, width);
}

}  // namespace patchmix

namespace {

using patchmix::AutogradContext;
using patchmix::Chunks;
using patchmix::column_sums;
using patchmix::variable_list;
using patchmix::with_kind;

// The factor of a row's image; 1 without drop path.
float share_of(const at::Tensor& kept, int64_t row, int64_t tokens_of_image) {
  return kept.defined() ? kept.const_data_ptr<float>()[row / tokens_of_image] : 1.0f;
}

template <class Number>
const Number* row_of(const at::Tensor& tensor, int64_t row) {
  return tensor.defined() ? tensor.const_data_ptr<Number>() + row * tensor.size(-1) : nullptr;
}

template <class Number>
Number* row_of(at::Tensor& tensor, int64_t row) {
  return tensor.mutable_data_ptr<Number>() + row * tensor.size(-1);
}

struct AddNormOnCpu : torch::autograd::Function<AddNormOnCpu> {
  static variable_list forward(AutogradContext* context, const at::Tensor& tokens, const at::Tensor& branch,
                               const std::optional<at::Tensor>& drawn, const at::Tensor& weight,
                               const at::Tensor& bias, double epsilon) {
    const at::Tensor stream = patchmix::in_memory(tokens), added = patchmix::in_memory(branch);
    const at::Tensor kept = drawn ? patchmix::in_memory(*drawn) : at::Tensor();
    const at::Tensor scale = patchmix::in_memory(weight), shift = patchmix::in_memory(bias);
    const int64_t width = stream.size(-1), rows = stream.numel() / width, tokens_of_image = rows / stream.size(0);
    at::Tensor sum = at::empty_like(stream), normed = at::empty_like(added);
    at::Tensor means = at::empty({rows, 1}, stream.options()), inverse_stds = at::empty({rows, 1}, stream.options());
    with_kind(added, [&](auto* kind) {
      using Number = std::remove_pointer_t<decltype(kind)>;
      Chunks(rows, /*longest=*/rows, /*shortest=*/64).each([&](int64_t, int64_t first, int64_t count) {
        for (int64_t row = first; row < first + count; ++row) {
          const patchmix::AddNormRow<Number> places{row_of<float>(std::as_const(stream), row),
                                                    row_of<Number>(std::as_const(added), row),
                                                    share_of(kept, row, tokens_of_image),
                                                    row_of<float>(sum, row),
                                                    row_of<Number>(normed, row),
                                                    row_of<float>(means, row),
                                                    row_of<float>(inverse_stds, row)};
          patchmix::add_norm(places, scale.const_data_ptr<float>(), shift.const_data_ptr<float>(),
                             static_cast<float>(epsilon), width);
        }
      });
    });
    context->save_for_backward({sum, means, inverse_stds, kept, scale});
    context->saved_data["kind"] = added.scalar_type();
    context->set_materialize_grads(false);
    return {sum, normed};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    patchmix::refuse_second_derivative();
    auto saved = context->get_saved_variables();
    at::Tensor &sum = saved[0], &means = saved[1], &inverse_stds = saved[2];
    const at::Tensor &kept = saved[3], &weight = saved[4];
    const int64_t width = sum.size(-1), rows = sum.numel() / width, tokens_of_image = rows / sum.size(0);
    const auto kind = sum.options().dtype(context->saved_data["kind"].toScalarType());
    const at::Tensor grad_sum = gradients[0].defined() ? patchmix::in_memory(gradients[0]) : at::Tensor();
    const at::Tensor grad_normed =
        gradients[1].defined() ? patchmix::in_memory(gradients[1]) : at::zeros(sum.sizes(), kind);
    at::Tensor grad_tokens = at::empty_like(sum), grad_branch = at::empty(sum.sizes(), kind);
    const Chunks chunks(rows, /*longest=*/rows, /*shortest=*/64);
    at::Tensor grad_weight = column_sums(chunks, width), grad_bias = column_sums(chunks, width);
    with_kind(grad_branch, [&](auto* kind) {
      using Number = std::remove_pointer_t<decltype(kind)>;
      chunks.each([&](int64_t chunk, int64_t first, int64_t count) {
        for (int64_t row = first; row < first + count; ++row) {
          const patchmix::AddNormRow<Number> places{nullptr, nullptr, share_of(kept, row, tokens_of_image),
                                                    row_of<float>(sum, row), nullptr, row_of<float>(means, row),
                                                    row_of<float>(inverse_stds, row)};
          const patchmix::AddNormGradients<Number> grads{row_of<float>(grad_sum, row),
                                                         row_of<Number>(grad_normed, row),
                                                         row_of<float>(grad_tokens, row),
                                                         row_of<Number>(grad_branch, row)};
          patchmix::add_norm_backward(grads, places, weight.const_data_ptr<float>(),
                                      row_of<float>(grad_weight, chunk), row_of<float>(grad_bias, chunk), width);
        }
      });
    });
    return {grad_tokens, grad_branch, at::Tensor(), grad_weight.sum(0), grad_bias.sum(0), at::Tensor()};
  }
};

}  // namespace
