// Tensors as memory that can be read in order.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cstddef>
#include <cstdint>

namespace patchmix {

// Whether the elements are in memory as they are: no negation or conjugation is pending, and the tensor is not
// libtorch's tensor of zeros without memory.
inline bool is_plain(const at::Tensor& tensor) {
  return !tensor.is_neg() && !tensor.is_conj() && !tensor._is_zerotensor();
}

// The elements in contiguous memory; `tensor` itself if they are.
inline at::Tensor in_memory(const at::Tensor& tensor) {
  if (tensor._is_zerotensor()) return at::zeros(tensor.sizes(), tensor.options());
  return tensor.resolve_conj().resolve_neg().contiguous();
}

// A contiguous copy.
inline at::Tensor copied(const at::Tensor& tensor) {
  return at::empty(tensor.sizes(), tensor.options()).copy_(tensor);
}

// The elements in contiguous memory whose address is a multiple of `bytes`; `tensor` itself if they are.
inline at::Tensor aligned_to(size_t bytes, const at::Tensor& tensor) {
  const at::Tensor contiguous = in_memory(tensor);
  const auto address = reinterpret_cast<uintptr_t>(contiguous.const_data_ptr());
  return address % bytes == 0 ? contiguous : copied(contiguous);
}

// A copy of a CPU tensor on a GPU, through page-locked memory: neither side waits for the other.
inline at::Tensor uploaded_to(const at::Tensor& tensor, c10::Device device) {
  // The cache of page-locked memory does not reuse the block before the copy is done.
  return tensor.pin_memory().to(device, tensor.scalar_type(), /*non_blocking=*/true);
}

}  // namespace patchmix
