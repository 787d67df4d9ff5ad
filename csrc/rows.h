// GELU and sums of columns, over the rows of a matrix of Float or BFloat16 on either device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "chunks.h"
#include "gpu_kernels.h"
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

EACH_PROCESSOR void gelu_on_cpu(const float* in, const float* bias, float* out, int64_t rows, int64_t width) {
  gelu_of(in, bias, out, rows, width);
}
EACH_PROCESSOR void gelu_on_cpu(const at::BFloat16* in, const float* bias, at::BFloat16* out, int64_t rows,
                                int64_t width) {
  gelu_of(in, bias, out, rows, width);
}
EACH_PROCESSOR void gelu_backward_on_cpu(const float* in, const float* bias, float* out, float* gradient, float* sums,
                                         int64_t rows, int64_t width) {
  gelu_backward_of(in, bias, out, gradient, sums, rows, width);
}
EACH_PROCESSOR void gelu_backward_on_cpu(const at::BFloat16* in, const float* bias, at::BFloat16* out,
                                         at::BFloat16* gradient, float* sums, int64_t rows, int64_t width) {
  gelu_backward_of(in, bias, out, gradient, sums, rows, width);
}
EACH_PROCESSOR void add_columns_on_cpu(const float* in, float* sums, int64_t rows, int64_t width) {
  add_columns_of(in, sums, rows, width);
}
EACH_PROCESSOR void add_columns_on_cpu(const at::BFloat16* in, float* sums, int64_t rows, int64_t width) {
  add_columns_of(in, sums, rows, width);
}

// Launches the kernel of layers.cu for the kind of `rows`, with the number of rows and columns as the last arguments.
template <class... Arguments>
void launch_on_rows(const char* name, const at::Tensor& rows, Arguments... arguments) {
  const auto& kernels = gpu_kernels(layers_source, rows.get_device(), 0);
  const std::string kernel = name + std::string(rows.scalar_type() == at::kBFloat16 ? "_bfloat16" : "_float");
  kernels.launch(kernel.c_str(), kernels.blocks(), rows.device(), arguments..., static_cast<long>(rows.size(0)),
                 static_cast<int>(rows.size(1)));
}

// Where the sums of `width` columns go, [n, width], which are added up in a fixed order at the end: on a CPU a row for
// each chunk, on a GPU for each block of threads.
inline at::Tensor column_sums_like(const at::Tensor& rows, const Chunks& chunks, int64_t width) {
  if (rows.is_cpu()) return column_sums(chunks, width);
  const int64_t blocks = gpu_kernels(layers_source, rows.get_device(), 0).blocks();
  return at::empty({blocks, width}, rows.options().dtype(at::kFloat));
}

// The rows of column_sums_like that belong to a chunk.
inline at::Tensor sums_of_chunk(const at::Tensor& sums, int64_t chunk) {
  return sums.is_cpu() ? sums.narrow(0, chunk, 1) : sums;
}

// out = GELU(in + bias).
inline void gelu(const at::Tensor& in, const at::Tensor& bias, const at::Tensor& out) {
  if (in.is_cuda()) return launch_on_rows("gelu", in, memory(in), memory(bias), memory(out));
  with_kind(in, [&](auto* kind) {
    using Number = std::remove_pointer_t<decltype(kind)>;
    gelu_on_cpu(in.const_data_ptr<Number>(), bias.const_data_ptr<float>(), out.mutable_data_ptr<Number>(), in.size(0),
                in.size(1));
  });
}

// out = GELU(in + bias) once more, and the gradient of `in` from that of `out`, which it replaces, with the sums of
// its columns.
inline void gelu_backward(const at::Tensor& in, const at::Tensor& bias, const at::Tensor& out,
                          const at::Tensor& gradient, const at::Tensor& sums) {
  if (in.is_cuda()) {
    return launch_on_rows("gelu_backward", in, memory(in), memory(bias), memory(out), memory(gradient), memory(sums));
  }
  with_kind(in, [&](auto* kind) {
    using Number = std::remove_pointer_t<decltype(kind)>;
    gelu_backward_on_cpu(in.const_data_ptr<Number>(), bias.const_data_ptr<float>(), out.mutable_data_ptr<Number>(),
                         gradient.mutable_data_ptr<Number>(), sums.mutable_data_ptr<float>(), in.size(0), in.size(1));
  });
}

inline void add_columns(const at::Tensor& in, const at::Tensor& sums) {
  if (in.is_cuda()) return launch_on_rows("add_columns", in, memory(in), memory(sums));
  with_kind(in, [&](auto* kind) {
    using Number = std::remove_pointer_t<decltype(kind)>;
    add_columns_on_cpu(in.const_data_ptr<Number>(), sums.mutable_data_ptr<float>(), in.size(0), in.size(1));
  });
}

}  // namespace patchmix
