// NCCL's process group. It needs CUDA's headers: nccl.cpp implements it, or no_nccl.cpp where they are missing.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>

namespace patchmix {

// Throws if this build has no NCCL, or if the NCCL found at run time is of another minor version.
void check_nccl();

c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size,
                                               std::chrono::milliseconds timeout);

}  // namespace patchmix
