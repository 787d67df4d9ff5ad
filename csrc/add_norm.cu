// The kernels of add_norm.cpp. WIDTH is the number of features of a token.
#include "tokens.cuh"

// sum = tokens + kept * branch; normed = (sum - mean) / std * weight + bias. A null `kept` stands for 1.
extern "C" __global__ void add_norm_forward(const float* tokens, const u16* branch, const float* kept,
                                            long tokens_of_image, long rows, const float* weight, const float* bias,
                                            float epsilon, float* sum, u16* normed, float* means, float* inverse_stds) {
  Token scale, shift;
  scale.load(weight, 0);
  shift.load(bias, 0);
  for (long row = first_row(); row < rows; row += warps()) {
    Token x, added;
    x.load(tokens, row);
    added.load(branch, row);
    const float share = kept == nullptr ? 1.0f : kept[row / tokens_of_image];
    x.make([&](int chunk, int k) { return x.values[chunk][k] + share * added.values[chunk][k]; });
    x.store(sum, row);
    const float mean = mean_of([&](int chunk, int k) { return x.values[chunk][k]; });
    const float variance = mean_of([&](int chunk, int k) {
      const float distance = x.values[chunk][k] - mean;
      return distance * distance;
    });
    const float inverse_std = rsqrtf(variance + epsilon);
    x.make([&](int chunk, int k) {
      return (x.values[chunk][k] - mean) * inverse_std * scale.values[chunk][k] + shift.values[chunk][k];
    });
    x.store(normed, row);
    if (threadIdx.x % 32 == 0) {
      means[row] = mean;
      inverse_stds[row] = inverse_std;
    }
  }
}

// Gradients of tokens and branch from the gradients of `sum` (null for none) and `normed`. The gradients of weight and
// bias are partial sums, one per warp, [warps, WIDTH]: the caller adds them up in a fixed order.
extern "C" __global__ void add_norm_backward(const float* grad_sum, const u16* grad_normed, const float* sum,
                                             const float* means, const float* inverse_stds, const float* kept,
                                             long tokens_of_image, long rows, const float* weight, float* grad_tokens,
                                             u16* grad_branch, float* grad_weight, float* grad_bias) {
  Token scale, weight_part, bias_part;
  scale.load(weight, 0);
  weight_part.make([](int, int) { return 0.0f; });
  bias_part.make([](int, int) { return 0.0f; });
  for (long row = first_row(); row < rows; row += warps()) {
    Token x, gradient;
    x.load(sum, row);
    gradient.load(grad_normed, row);
    const float mean = means[row], inverse_std = inverse_stds[row];
    x.make([&](int chunk, int k) { return (x.values[chunk][k] - mean) * inverse_std; });
    weight_part.make([&](int chunk, int k) {
      return weight_part.values[chunk][k] + gradient.values[chunk][k] * x.values[chunk][k];
    });
    bias_part.make([&](int chunk, int k) { return bias_part.values[chunk][k] + gradient.values[chunk][k]; });
    gradient.make([&](int chunk, int k) { return gradient.values[chunk][k] * scale.values[chunk][k]; });
    const float average = mean_of([&](int chunk, int k) { return gradient.values[chunk][k]; });
    const float along_x = mean_of([&](int chunk, int k) { return gradient.values[chunk][k] * x.values[chunk][k]; });
    x.make([&](int chunk, int k) {
      return inverse_std * (gradient.values[chunk][k] - average - x.values[chunk][k] * along_x);
    });
    if (grad_sum != nullptr) {
      gradient.load(grad_sum, row);
      x.make([&](int chunk, int k) { return x.values[chunk][k] + gradient.values[chunk][k]; });
    }
    x.store(grad_tokens, row);
    const float share = kept == nullptr ? 1.0f : kept[row / tokens_of_image];
    x.make([&](int chunk, int k) { return share * x.values[chunk][k]; });
    x.store(grad_branch, row);
  }
  weight_part.store(grad_weight, first_row());
  bias_part.store(grad_bias, first_row());
}
