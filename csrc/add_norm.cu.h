// CUDA source of the kernels of add_norm.cpp, compiled at run time. WIDTH is the number of features of a token, VECTOR
// how many of them a thread moves at once. A warp works on one token at a time and holds all of it in registers.
#pragma once

namespace patchmix {

constexpr const char* add_norm_source = R"CUDA(
typedef unsigned int u32;
typedef unsigned short u16;

constexpr int chunks = WIDTH / (32 * VECTOR);  // per thread

struct alignas(4 * VECTOR) Floats { float values[VECTOR]; };
struct alignas(2 * VECTOR) Halves { u32 pairs[VECTOR / 2]; };

struct Token {
  float values[chunks][VECTOR];

  __device__ static long place(long row, int chunk) {
    return row * WIDTH + (chunk * 32 + threadIdx.x % 32) * VECTOR;
  }

  __device__ void load(const float* from, long row) {
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const Floats loaded = *reinterpret_cast<const Floats*>(from + place(row, chunk));
      for (int k = 0; k < VECTOR; ++k) values[chunk][k] = loaded.values[k];
    }
  }

  // bfloat16 is the upper half of a float.
  __device__ void load(const u16* from, long row) {
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const Halves loaded = *reinterpret_cast<const Halves*>(from + place(row, chunk));
      for (int k = 0; k < VECTOR; k += 2) {
        values[chunk][k] = __uint_as_float(loaded.pairs[k / 2] << 16);
        values[chunk][k + 1] = __uint_as_float(loaded.pairs[k / 2] & 0xffff0000u);
      }
    }
  }

  __device__ void store(float* to, long row) const {
    for (int chunk = 0; chunk < chunks; ++chunk) {
      Floats stored;
      for (int k = 0; k < VECTOR; ++k) stored.values[k] = values[chunk][k];
      *reinterpret_cast<Floats*>(to + place(row, chunk)) = stored;
    }
  }

  __device__ void store(u16* to, long row) const {
    for (int chunk = 0; chunk < chunks; ++chunk) {
      Halves stored;
      for (int k = 0; k < VECTOR; k += 2) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
            : "=r"(stored.pairs[k / 2])
            : "f"(values[chunk][k + 1]), "f"(values[chunk][k]));
      }
      *reinterpret_cast<Halves*>(to + place(row, chunk)) = stored;
    }
  }

  template <class Make>
  __device__ void make(Make&& value) {
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int k = 0; k < VECTOR; ++k) values[chunk][k] = value(chunk, k);
    }
  }
};

// The mean over the features of a token.
template <class Value>
__device__ float mean_of(Value&& value) {
  float sum = 0;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    for (int k = 0; k < VECTOR; ++k) sum += value(chunk, k);
  }
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum / WIDTH;
}

__device__ long first_row() { return (blockIdx.x * (long)blockDim.x + threadIdx.x) / 32; }
__device__ long warps() { return gridDim.x * (long)blockDim.x / 32; }

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
)CUDA";

}  // namespace patchmix
