#include "nccl.h"

#include <torch/csrc/distributed/c10d/NCCLUtils.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <string>

namespace patchmix {

namespace {

std::string words(int version) { return c10::str(version / 10000, ".", version / 100 % 100, ".", version % 100); }

}  // namespace

// The layout of c10d's classes depends on the features that NCCL's headers declare, which differ between minor
// versions.
void check_nccl() {
  const int found = c10d::getNcclVersionNumber();
  TORCH_CHECK(found / 100 == NCCL_VERSION_CODE / 100, "this program was built with the headers of NCCL ",
              words(NCCL_VERSION_CODE), " but runs with NCCL ", words(found),
              "; build it against the libtorch and NCCL that it runs with");
}

c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store, int rank, int world_size,
                                               std::chrono::milliseconds timeout) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  // NCCL's watchdog aborts the program. With twice the timeout, the exchange of requests over Gloo fails first, with an
  // error.
  options->timeout = 2 * timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, world_size, std::move(options));
}

}  // namespace patchmix
