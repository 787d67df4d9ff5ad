// Settings and memory of libtorch's CUDA backend that tch does not bind, for src/native/backend.rs and
// src/native/memory.rs. Only ATen's interfaces are used, so that this compiles without CUDA's headers.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/empty.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/env.h>

#include <cstdint>
#include <string>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "gpu_kernels.h"
#include "guarded.h"

namespace {

using patchmix::guarded;

c10::Device gpu(int64_t index) { return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index)); }

c10::DeviceAllocator& gpu_allocator() {
  at::globalContext().lazyInitDevice(c10::kCUDA);
  return *c10::getDeviceAllocator(c10::kCUDA);
}

constexpr auto all_pools = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

}  // namespace

extern "C" {

// Whether the C library now keeps all freed memory for the next allocation; false if it has no such setting.
bool patchmix_keep_freed_memory() {
#ifdef __GLIBC__
  return mallopt(M_MMAP_MAX, 0) == 1 && mallopt(M_TRIM_THRESHOLD, -1) == 1;
#else
  return false;
#endif
}

// Makes GPU `index` the current device of this thread.
char* patchmix_use_gpu(int64_t index) {
  return guarded([&] {
    at::globalContext().lazyInitDevice(c10::kCUDA);
    c10::impl::VirtualGuardImpl(c10::kCUDA).setDevice(gpu(index));
  });
}

// Whether the current GPU multiplies bfloat16 in hardware.
char* patchmix_gpu_has_bfloat16(bool* has) {
  return guarded([&] {
    at::globalContext().lazyInitDevice(c10::kCUDA);
    *has = at::detail::getCUDAHooks().supportsBFloat16ConvolutionWithCuDNNv8();
  });
}

// Compiles the kernels of a source of this folder, such as add_norm.cu, for GPU `index`, unless they are compiled
// already; `width` is the number of features of a token for those that depend on it.
char* patchmix_load_kernels(const char* source, int64_t index, int64_t width) {
  return guarded([&] {
    const c10::DeviceGuard guard(gpu(index));
    for (const auto& known : patchmix::cuda_sources) {
      if (std::string(known.name) == source) {
        patchmix::gpu_kernels(known, static_cast<int>(index), width);
        return;
      }
    }
    TORCH_CHECK(false, "no CUDA source ", source);
  });
}

char* patchmix_allow_tf32(bool allowed) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(allowed);
    at::globalContext().setAllowTF32CuDNN(allowed);
  });
}

// Whether attention may use cuDNN's kernel; otherwise it uses FlashAttention where that applies.
char* patchmix_allow_cudnn_attention(bool allowed) {
  return guarded([&] { at::globalContext().setSDPUseCuDNN(allowed); });
}

// Whether to use deterministic algorithms only; an operation without one fails.
char* patchmix_set_deterministic(bool deterministic) {
  return guarded([&] {
    auto& context = at::globalContext();
    // cuBLAS reads it when its first handle is created, and then splits its work in a fixed way.
    if (deterministic) c10::utils::set_env("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/false);
    context.setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
    context.setDeterministicFillUninitializedMemory(false);  // nothing here reads uninitialized memory
    context.setDeterministicCuDNN(deterministic);
    if (deterministic) context.setBenchmarkCuDNN(false);
  });
}

// The peak of the bytes allocated for tensors on GPU `index` since patchmix_reset_peak_memory.
char* patchmix_peak_memory(int64_t index, int64_t* bytes) {
  return guarded([&] { *bytes = gpu_allocator().getDeviceStats(gpu(index).index()).allocated_bytes[all_pools].peak; });
}

char* patchmix_reset_peak_memory(int64_t index) {
  return guarded([&] { gpu_allocator().resetPeakStats(gpu(index).index()); });
}

// Copies a CPU tensor to GPU `index` through page-locked memory: neither side waits for the other.
char* patchmix_upload(at::Tensor** uploaded, const at::Tensor* source, int64_t index) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    *uploaded = new at::Tensor(patchmix::uploaded_to(*source, gpu(index)));
  });
}

// A new byte tensor on the CPU; `pinned` makes it page-locked, which needs a GPU.
char* patchmix_empty_bytes(at::Tensor** made, const int64_t* sizes, size_t dimensions, bool pinned) {
  return guarded([&] {
    const auto options = at::TensorOptions().dtype(at::kByte).pinned_memory(pinned);
    *made = new at::Tensor(at::empty(at::IntArrayRef(sizes, dimensions), options));
  });
}

// Copies every tensor of `sources` into its counterpart, several per kernel where libtorch has such a kernel.
char* patchmix_copy_all(at::Tensor* const* targets, at::Tensor* const* sources, size_t count) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> target_list, source_list;
    for (size_t place = 0; place < count; ++place) {
      target_list.push_back(*targets[place]);
      source_list.push_back(*sources[place]);
    }
    at::_foreach_copy_(target_list, source_list);
  });
}
}
