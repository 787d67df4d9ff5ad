// The kernels of layers.cpp and split_heads.cpp. Rows consist of packs of 8 numbers, which a thread moves at once.
typedef unsigned int u32;
typedef unsigned short u16;

struct alignas(16) Words { u32 words[4]; };

struct Pack {
  float values[8];

  __device__ static Pack load(const float* from, long place) {
    Pack pack;
    for (int half = 0; half < 2; ++half) {
      const Words loaded = reinterpret_cast<const Words*>(from)[2 * place + half];
      for (int k = 0; k < 4; ++k) pack.values[4 * half + k] = __uint_as_float(loaded.words[k]);
    }
    return pack;
  }

  // bfloat16 is the upper half of a float.
  __device__ static Pack load(const u16* from, long place) {
    const Words loaded = reinterpret_cast<const Words*>(from)[place];
    Pack pack;
    for (int k = 0; k < 4; ++k) {
      pack.values[2 * k] = __uint_as_float(loaded.words[k] << 16);
      pack.values[2 * k + 1] = __uint_as_float(loaded.words[k] & 0xffff0000u);
    }
    return pack;
  }

  __device__ void store(float* to, long place) const {
    for (int half = 0; half < 2; ++half) {
      Words stored;
      for (int k = 0; k < 4; ++k) stored.words[k] = __float_as_uint(values[4 * half + k]);
      reinterpret_cast<Words*>(to)[2 * place + half] = stored;
    }
  }

  __device__ void store(u16* to, long place) const {
    Words stored;
    for (int k = 0; k < 4; ++k) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(stored.words[k]) : "f"(values[2 * k + 1]), "f"(values[2 * k]));
    }
    reinterpret_cast<Words*>(to)[place] = stored;
  }
};

// Calls `work_of(column)`, which returns the work on the packs of one column of packs, and then that work with the
// place of every pack of the column and with a sum of the column. Unless `sums` is null, writes the sums of all packs
// that this block worked on to its row of `sums` [blocks, width].
template <class WorkOf>
__device__ void each_pack(long rows, int width, float* sums, WorkOf&& work_of) {
  __shared__ float of_thread[256][9];  // one more than 8, which would put the numbers of all threads in the same banks
  const int columns = width / 8, threads = blockDim.x, thread = threadIdx.x;
  for (int first = 0; first < columns; first += threads) {
    const int across = min(columns - first, threads), at_once = threads / across;
    const int column = first + thread % across, down = thread / across;
    Pack sum = {};
    if (down < at_once) {
      const auto work = work_of(column);
#pragma unroll 4
      for (long row = blockIdx.x * (long)at_once + down; row < rows; row += gridDim.x * (long)at_once) {
        work(row * columns + column, sum);
      }
    }
    if (sums == nullptr) continue;
    for (int k = 0; k < 8; ++k) of_thread[thread][k] = sum.values[k];
    __syncthreads();
    if (thread < across) {
      for (int other = thread + across; other < at_once * across; other += across) {
        for (int k = 0; k < 8; ++k) sum.values[k] += of_thread[other][k];
      }
      sum.store(sums, blockIdx.x * (long)columns + column);
    }
    __syncthreads();
  }
}

__device__ float normal_below(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }
__device__ float normal_density(float x) { return 0.39894228f * expf(-0.5f * x * x); }

// out = GELU(in + bias).
template <class Number>
__device__ void gelu(const Number* in, const float* bias, Number* out, long rows, int width) {
  each_pack(rows, width, nullptr, [=](int column) {
    const Pack shift = Pack::load(bias, column);
    return [=](long place, Pack&) {
      Pack x = Pack::load(in, place);
      for (int k = 0; k < 8; ++k) {
        const float shifted = x.values[k] + shift.values[k];
        x.values[k] = shifted * normal_below(shifted);
      }
      x.store(out, place);
    };
  });
}

// out = GELU(in + bias) once more, and the gradient of `in` from that of `out`, which it replaces.
template <class Number>
__device__ void gelu_backward(const Number* in, const float* bias, Number* out, Number* gradient, float* sums,
                              long rows, int width) {
  each_pack(rows, width, sums, [=](int column) {
    const Pack shift = Pack::load(bias, column);
    return [=](long place, Pack& sum) {
      Pack x = Pack::load(in, place), slope = Pack::load(gradient, place);
      for (int k = 0; k < 8; ++k) {
        const float shifted = x.values[k] + shift.values[k], below = normal_below(shifted);
        x.values[k] = shifted * below;
        slope.values[k] *= below + shifted * normal_density(shifted);
        sum.values[k] += slope.values[k];
      }
      x.store(out, place);
      slope.store(gradient, place);
    };
  });
}

template <class Number>
__device__ void add_columns(const Number* in, float* sums, long rows, int width) {
  each_pack(rows, width, sums, [=](int) {
    return [=](long place, Pack& sum) {
      const Pack x = Pack::load(in, place);
      for (int k = 0; k < 8; ++k) sum.values[k] += x.values[k];
    };
  });
}

#define FOR_KIND(kind, Number)                                                                                        \
  extern "C" __global__ void gelu_##kind(const Number* in, const float* bias, Number* out, long rows, int width) {    \
    gelu(in, bias, out, rows, width);                                                                                 \
  }                                                                                                                   \
  extern "C" __global__ void gelu_backward_##kind(const Number* in, const float* bias, Number* out, Number* gradient, \
                                                  float* sums, long rows, int width) {                                \
    gelu_backward(in, bias, out, gradient, sums, rows, width);                                                        \
  }                                                                                                                   \
  extern "C" __global__ void add_columns_##kind(const Number* in, float* sums, long rows, int width) {                \
    add_columns(in, sums, rows, width);                                                                               \
  }
FOR_KIND(float, float)
FOR_KIND(bfloat16, u16)

// A tensor [images, heads, tokens, depth words of 16 bytes], the last dimension of which is contiguous.
struct ByHead {
  const Words* words;
  long image, head, token;  // distances
};

// joined [images, tokens, parts, heads, depth] = the first `parts` of `part` side by side.
extern "C" __global__ void join_heads(ByHead part_0, ByHead part_1, ByHead part_2, u32 parts, u32 tokens, u32 heads,
                                      u32 depth, u32 count, Words* joined) {
  for (u32 place = blockIdx.x * blockDim.x + threadIdx.x; place < count; place += gridDim.x * blockDim.x) {
    u32 rest = place;
    const u32 word = rest % depth;
    rest /= depth;
    const u32 head = rest % heads;
    rest /= heads;
    const u32 number = rest % parts;
    rest /= parts;
    const u32 token = rest % tokens, image = rest / tokens;
    const ByHead& part = number == 0 ? part_0 : number == 1 ? part_1 : part_2;
    joined[place] = part.words[image * part.image + head * part.head + token * part.token + word];
  }
}
