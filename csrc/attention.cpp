// Attention on a CPU as one node of libtorch's graph: heads are neither split nor joined by copies, and the weights of
// attention are made again for the gradient. The only caller is src/native/layers.rs, which checks everything first.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "guarded.h"
#include "memory.h"
#include "node.h"
#include "numbers.h"
#include "products.h"

namespace patchmix {

// What makes the weights of one query again: weight = share * exp(scale * (logit - largest)).
struct Softmax {
  float largest, share;
};

// weights = softmax(scale * logits) of one query. Here and below, the number of keys is filled up to `row`, a multiple
// of what vectors hold, with keys of no weight.
template <class Number>
INLINED Softmax softmax_of(float* __restrict logits, Number* __restrict weights, float scale, int64_t keys,
                         int64_t row) {
  for (int64_t key = keys; key < row; ++key) logits[key] = -std::numeric_limits<float>::infinity();
  float largest = -std::numeric_limits<float>::infinity(), sum = 0.0f;
#pragma omp simd reduction(max : largest)
  for (int64_t key = 0; key < row; ++key) largest = logits[key] > largest ? logits[key] : largest;
#pragma omp simd reduction(+ : sum)
  for (int64_t key = 0; key < row; ++key) {
    const float weight = exponential(scale * (logits[key] - largest));
    logits[key] = weight;
    sum += weight;
  }
  const float share = 1.0f / sum;
  for (int64_t key = 0; key < row; ++key) store(weights[key], logits[key] * share);
  return {largest, share};
}

// For one query: the weights once more from `logits` and `made`, and the gradient of the logits from that of the
// weights.
template <class Number>
INLINED void softmax_backward_of(float* __restrict logits, Softmax made, const float* __restrict of_weights,
                                 Number* __restrict weights, Number* __restrict of_logits, float scale, int64_t keys,
                                 int64_t row) {
  for (int64_t key = keys; key < row; ++key) logits[key] = -std::numeric_limits<float>::infinity();
  float mean = 0.0f;
#pragma omp simd reduction(+ : mean)
  for (int64_t key = 0; key < row; ++key) {
    const float weight = made.share * exponential(scale * (logits[key] - made.largest));
    logits[key] = weight;
    store(weights[key], weight);
    mean += weight * of_weights[key];
  }
  for (int64_t key = 0; key < row; ++key) {
    store(of_logits[key], scale * logits[key] * (of_weights[key] - mean));
  }
}

template <class Number>
INLINED void copy_rows_of(const float* __restrict from, int64_t from_step, Number* __restrict to, int64_t to_step,
                          int64_t rows, int64_t width) {
  for (int64_t row = 0; row < rows; ++row, from += from_step, to += to_step) {
    for (int64_t place = 0; place < width; ++place) store(to[place], from[place]);
  }
}

EACH_PROCESSOR Softmax softmax(float* logits, float* weights, float scale, int64_t keys, int64_t row) {
  return softmax_of(logits, weights, scale, keys, row);
}
EACH_PROCESSOR Softmax softmax(float* logits, at::BFloat16* weights, float scale, int64_t keys, int64_t row) {
  return softmax_of(logits, weights, scale, keys, row);
}
EACH_PROCESSOR void softmax_backward(float* logits, Softmax made, const float* of_weights, float* weights,
                                     float* of_logits, float scale, int64_t keys, int64_t row) {
  softmax_backward_of(logits, made, of_weights, weights, of_logits, scale, keys, row);
}
EACH_PROCESSOR void softmax_backward(float* logits, Softmax made, const float* of_weights, at::BFloat16* weights,
                                     at::BFloat16* of_logits, float scale, int64_t keys, int64_t row) {
  softmax_backward_of(logits, made, of_weights, weights, of_logits, scale, keys, row);
}
EACH_PROCESSOR void copy_rows(const float* from, int64_t from_step, float* to, int64_t to_step, int64_t rows,
                              int64_t width) {
  copy_rows_of(from, from_step, to, to_step, rows, width);
}
EACH_PROCESSOR void copy_rows(const float* from, int64_t from_step, at::BFloat16* to, int64_t to_step, int64_t rows,
                              int64_t width) {
  copy_rows_of(from, from_step, to, to_step, rows, width);
}

// The sizes of attention within one head of one image, and the memory that a thread needs for it.
template <class Number>
struct Head {
  int64_t tokens, width, step;  // `step` from one token to the next in queries, keys and values
  float scale;
  int64_t row = padded_length(round_up(tokens, 16));  // from one query to the next in logits and weights
  int64_t wide = round_up(width, 16);                 // from one token to the next in values
  std::vector<float> logits = std::vector<float>(tokens * row), of_weights = std::vector<float>(tokens * row);
  std::vector<float> values = std::vector<float>(padded_rows(tokens) * wide);
  std::vector<Number> weights = std::vector<Number>(padded_rows(tokens) * row, Number(0.0f));
  std::vector<Number> of_logits = std::vector<Number>(padded_rows(tokens) * row, Number(0.0f));
  Products<Number> products = {};

  // attended [tokens, width], `out_step` apart; made [tokens] may be null.
  void forward(const Number* query, const Number* key, const Number* value, Number* attended, int64_t out_step,
               Softmax* made) {
    products.with_transposed(tokens, tokens, width, query, step, key, step, logits.data(), row);
    for (int64_t token = 0; token < tokens; ++token) {
      const Softmax softmaxed = softmax(logits.data() + token * row, weights.data() + token * row, scale, tokens, row);
      if (made != nullptr) made[token] = softmaxed;
    }
    products.plain(tokens, width, tokens, weights.data(), row, value, step, values.data(), wide);
    copy_rows(values.data(), wide, attended, out_step, tokens, width);
  }

  // The gradients of queries, keys and values, which lie as these do, from that of `attended`.
  void backward(const Number* query, const Number* key, const Number* value, const Softmax* made,
                const Number* of_attended, int64_t out_step, Number* of_query, Number* of_key, Number* of_value) {
    products.with_transposed(tokens, tokens, width, query, step, key, step, logits.data(), row);
    products.with_transposed(tokens, tokens, width, of_attended, out_step, value, step, of_weights.data(), row);
    for (int64_t token = 0; token < tokens; ++token) {
      const int64_t place = token * row;
      softmax_backward(logits.data() + place, made[token], of_weights.data() + place, weights.data() + place,
                       of_logits.data() + place, scale, tokens, row);
    }
    const auto keep = [&](Number* gradient) { copy_rows(values.data(), wide, gradient, step, tokens, width); };
    products.plain(tokens, width, tokens, of_logits.data(), row, key, step, values.data(), wide);
    keep(of_query);
    products.of_transposed(tokens, width, tokens, of_logits.data(), row, query, step, values.data(), wide);
    keep(of_key);
    products.of_transposed(tokens, width, tokens, weights.data(), row, of_attended, out_step, values.data(), wide);
    keep(of_value);
  }
};

}  // namespace patchmix

namespace {

using patchmix::AutogradContext;
using patchmix::variable_list;
using patchmix::with_kind;

// Calls work(head, image, number of the head) for every head of every image.
template <class Number, class Work>
void each_head(const at::Tensor& query_key_value, int64_t heads, Work&& work) {
  const int64_t tokens = query_key_value.size(1), width = query_key_value.size(2) / 3 / heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  at::parallel_for(0, query_key_value.size(0) * heads, 1, [&](int64_t begin, int64_t end) {
    patchmix::Head<Number> head{tokens, width, query_key_value.size(2), scale};
    for (int64_t place = begin; place < end; ++place) work(head, place / heads, place % heads);
  });
}

// The elements in contiguous memory where two of BFloat16 can be read at once.
at::Tensor in_pairs(const at::Tensor& tensor) { return patchmix::aligned_to(sizeof(uint32_t), tensor); }

struct Attention : torch::autograd::Function<Attention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& given, int64_t heads, bool keep) {
    const at::Tensor parts = in_pairs(given);
    const int64_t images = parts.size(0), tokens = parts.size(1), width = parts.size(2) / 3;
    at::Tensor attended = at::empty({images, tokens, width}, parts.options());
    at::Tensor made = keep ? at::empty({images, heads, tokens, 2}, parts.options().dtype(at::kFloat)) : at::Tensor();
    with_kind(parts, [&](auto* kind) {
      using Number = std::remove_pointer_t<decltype(kind)>;
      const Number* from = parts.const_data_ptr<Number>();
      Number* to = attended.mutable_data_ptr<Number>();
      each_head<Number>(parts, heads, [&](auto& head, int64_t image, int64_t number) {
        const Number* query = from + image * tokens * 3 * width + number * head.width;
        auto* softmax = keep ? reinterpret_cast<patchmix::Softmax*>(made.mutable_data_ptr<float>()) : nullptr;
        if (keep) softmax += (image * heads + number) * tokens;
        head.forward(query, query + width, query + 2 * width, to + image * tokens * width + number * head.width,
                     width, softmax);
      });
    });
    if (keep) context->save_for_backward({parts, made});
    return attended;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    patchmix::refuse_second_derivative();
    const auto saved = context->get_saved_variables();
    const at::Tensor &parts = saved[0], &made = saved[1];
    const at::Tensor gradient = in_pairs(gradients[0]);
    const int64_t tokens = parts.size(1), width = parts.size(2) / 3, heads = made.size(1);
    const auto* softmax = reinterpret_cast<const patchmix::Softmax*>(made.const_data_ptr<float>());
    at::Tensor grad_parts = at::empty_like(parts);
    with_kind(parts, [&](auto* kind) {
      using Number = std::remove_pointer_t<decltype(kind)>;
      const Number *from = parts.const_data_ptr<Number>(), *of_attended = gradient.const_data_ptr<Number>();
      Number* to = grad_parts.mutable_data_ptr<Number>();
      each_head<Number>(parts, heads, [&](auto& head, int64_t image, int64_t number) {
        const int64_t place = image * tokens * 3 * width + number * head.width;
        const Number* query = from + place;
        Number* of_query = to + place;
        head.backward(query, query + width, query + 2 * width,
                      softmax + (image * heads + number) * tokens,
                      of_attended + image * tokens * width + number * head.width, width, of_query, of_query + width,
                      of_query + 2 * width);
      });
    });
    return {grad_parts, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

// Whether this processor has what patchmix_attention needs for BFloat16.
bool patchmix_has_bfloat16_attention() { return patchmix::Products<at::BFloat16>::available(); }

// Attention of `heads` heads, [B, T, width], from queries, keys and values side by side, [B, T, 3 * width].
char* patchmix_attention(at::Tensor** made, const at::Tensor* query_key_value, int64_t heads) {
  return patchmix::guarded([&] {
    const bool keep = at::GradMode::is_enabled() && query_key_value->requires_grad();
    *made = new at::Tensor(Attention::apply(*query_key_value, heads, keep));
  });
}
}
