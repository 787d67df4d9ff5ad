// Tokens of WIDTH features in the registers of a warp, which works on one at a time: a thread holds VECTOR neighboring
// features of every 32 * VECTOR.
#pragma once

constexpr int VECTOR = WIDTH % 128 == 0 ? 4 : 2;

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
