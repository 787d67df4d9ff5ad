#include "nccl.h"

#include <torch/csrc/distributed/c10d/NCCLUtils.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <string>

namespace patchmix {

namespace {

std::string words(int version) { return c10::str(version / 10000, ".", version / 100 % 100, ".", version % 100); }

}  // namespace

// c10d's classes are laid out by what the headers say that NCCL can do, which grows with its minor version.
void check_nccl() {
  const int found = c10d::getNcclVersionNumber();
  TORCH_CHECK(found / 100 == NCCL_VERSION_CODE / 100, "this program was built with the headers of NCCL ",
              words(NCCL_VERSION_CODE), " and finds NCCL ", words(found),
              " where it runs; build it against the libtorch and NCCL that are there");
}

c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size,
                                               std::chrono::milliseconds timeout) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  // NCCL's own watchdog ends the program. By then, the exchange of requests over Gloo has failed with an error.
  options->timeout = 2 * timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, world_size, std::move(options));
}

}  // namespace patchmix
