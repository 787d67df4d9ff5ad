// A program that references no CUDA symbol loses libtorch_cuda.so at link time (the linker runs with --as-needed) and
// then finds no GPU. This file references one; build.rs links it whole into every program that uses the crate.
namespace at::cuda {
int warp_size();
}

namespace {
int (*volatile patchmix_keeps_cuda)() = nullptr;

__attribute__((constructor)) void keep_cuda() { patchmix_keeps_cuda = &at::cuda::warp_size; }
}  // namespace
