// Process groups: what libtorch's c10d does for Python's torch.distributed, for src/dist/native.rs, its one caller. That
// checks kinds and devices first; whether all ranks ask for the same is found out here, since backward passes ask, too.
#define USE_C10D_GLOO

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "guarded.h"
#include "nccl.h"

namespace {

using c10::intrusive_ptr;
using patchmix::guarded;
using patchmix::message_of;
using std::chrono::milliseconds;

// What ranks do together. The numbers travel, so ranks of one run are of one version.
enum class Collective : int64_t { AllReduce, AllGather, Broadcast, Barrier, Numbers, Trust };
constexpr size_t counted = 3;  // the first three carry the bytes of tensors

// What a rank asks for, as numbers that all ranks exchange before they begin.
struct Request {
  static constexpr int64_t most_dimensions = 8;
  static constexpr int64_t length = 4 + most_dimensions;
  std::array<int64_t, length> numbers{};  // collective, from_rank, kind, dimensions, sizes...

  Request(Collective collective, const at::Tensor& tensor, int64_t from_rank) {
    numbers[0] = static_cast<int64_t>(collective);
    numbers[1] = from_rank;
    if (!tensor.defined()) return;
    TORCH_CHECK(tensor.dim() <= most_dimensions, "a tensor of more than ", most_dimensions, " dimensions");
    numbers[2] = static_cast<int64_t>(tensor.scalar_type());
    numbers[3] = tensor.dim();
    for (int64_t dimension = 0; dimension < tensor.dim(); ++dimension) numbers[4 + dimension] = tensor.size(dimension);
  }

  static std::string words(const int64_t* numbers) {
    const auto shape = c10::str(c10::toString(static_cast<c10::ScalarType>(numbers[2])), " ",
                                at::IntArrayRef(numbers + 4, numbers[3]));
    switch (static_cast<Collective>(numbers[0])) {
      case Collective::AllReduce: return "all-reduce " + shape;
      case Collective::AllGather: return "all-gather " + shape;
      case Collective::Broadcast: return c10::str("broadcast ", shape, " from rank ", numbers[1]);
      case Collective::Numbers: return "gather numbers";
      case Collective::Trust: return "take the others' requests on trust";
      default: return "meet at a barrier";
    }
  }
};

// c10d keeps a record of all calls of a process, which two threads must not begin at once.
std::mutex recorder;

// Waits for what `call` begins over Gloo. Only beginning is one at a time: ranks that are threads wait for each other.
template <class Call>
void over_gloo(Call&& call) {
  std::unique_lock<std::mutex> lock(recorder);
  const auto work = call();
  lock.unlock();
  work->wait();
}

// A message from below in the words of whoever runs the ranks.
std::string explained(const std::string& message, milliseconds timeout, const char* all_should_be) {
  const auto says = [&](const char* words) { return message.find(words) != std::string::npos; };
  if (says("onnection refused")) return c10::str("another rank has left or died (", message, ")");
  if (says("imed out") || says("imeout")) {
    return c10::str("no answer within ", timeout.count() / 1e3, " s: is every rank ", all_should_be, "? (", message, ")");
  }
  if (says("onnection closed") || says("onnection reset") || says("roken pipe")) {
    return c10::str("another rank has left or died (", message, ")");
  }
  return message;
}

struct Group : torch::CustomClassHolder {
  intrusive_ptr<c10d::Store> store;      // rank 0 may be the one that serves it
  intrusive_ptr<c10d::Backend> control;  // Gloo, for what ranks tell each other
  intrusive_ptr<c10d::Backend> payload;  // Gloo too, and then the same, or NCCL
  milliseconds timeout{};
  bool exchanges_requests = true;
  bool trusts = false;  // and exchanges none any more
  std::array<int64_t, counted> bytes{};
  std::string failure;
  bool met_last = false;  // at a barrier, and asked for nothing since
  std::mutex one_at_a_time;  // a backward pass runs in threads of its own

  // Shutting NCCL down waits for the other ranks, so only after all have met to leave.
  ~Group() override {
    try {
      if (payload != nullptr) failure.empty() && (payload == control || met_last) ? payload->shutdown() : payload->abort();
    } catch (...) {  // there is nobody to tell
    }
  }

  // A call of all ranks, one at a time; after one that fails there is no telling what another rank waits for.
  template <class Work>
  void together(Collective collective, const at::Tensor& tensor, int64_t from_rank, Work&& work) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    TORCH_CHECK(failure.empty(), "the group is of no use since an earlier call failed: ", failure);
    at::NoGradGuard no_grad;
    const auto problem = message_of([&] {
      exchange(Request(collective, tensor, from_rank));
      work();
    });
    if (problem) fail(*problem);
    met_last = collective == Collective::Barrier;
    const auto kind = static_cast<size_t>(collective);
    if (kind < counted) bytes[kind] += tensor.numel() * tensor.element_size();
  }

  // Libraries below crash or hang where ranks bring tensors that do not fit together, so that is found out first.
  void exchange(const Request& mine) {
    if (!exchanges_requests || trusts) return;
    const auto numbers = at::TensorOptions().dtype(at::kLong);
    at::Tensor own = at::empty({Request::length}, numbers);
    std::copy(mine.numbers.begin(), mine.numbers.end(), own.mutable_data_ptr<int64_t>());
    at::Tensor all = at::empty({control->getSize() * Request::length}, numbers);
    over_gloo([&] { return control->_allgather_base(all, own); });
    for (int64_t rank = 0; rank < control->getSize(); ++rank) {
      const int64_t* theirs = all.const_data_ptr<int64_t>() + rank * Request::length;
      TORCH_CHECK(std::equal(mine.numbers.begin(), mine.numbers.end(), theirs), "rank ", rank, " came to ",
                  Request::words(theirs), ", rank ", control->getRank(), " to ", Request::words(mine.numbers.data()));
    }
  }

  // Waits for what `call` begins over whatever carries tensors. NCCL's first call waits for the other ranks where it
  // begins, so it cannot be one at a time.
  template <class Call>
  void carry(Call&& call) {
    if (payload == control) return over_gloo(call);
    call()->wait();
  }

  [[noreturn]] void fail(const std::string& message) {
    failure = explained(message, timeout, "alive, and at the same call");
    TORCH_CHECK(false, failure);
  }

  void all_reduce(at::Tensor& tensor) {
    together(Collective::AllReduce, tensor, 0, [&] {
      std::vector<at::Tensor> list{tensor};
      carry([&] { return payload->allreduce(list); });
    });
  }
};

// Gradient flows back to the tensors of all ranks: the gradient of a sum over ranks is the sum over ranks of gradients.
struct SumOverRanks : torch::autograd::Function<SumOverRanks> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& tensor,
                            const intrusive_ptr<Group>& group) {
    context->saved_data["group"] = c10::IValue::make_capsule(group);
    at::Tensor sum = tensor.clone(at::MemoryFormat::Contiguous);
    group->all_reduce(sum);
    return sum;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto group = c10::static_intrusive_pointer_cast<Group>(context->saved_data["group"].toCapsule());
    return {apply(gradients[0], group), at::Tensor()};
  }
};

intrusive_ptr<c10d::Store> part_of(const intrusive_ptr<c10d::Store>& store, std::string name) {
  return c10::make_intrusive<c10d::PrefixStore>(std::move(name), store);
}

// The store as Python's init_process_group("env://") sets it up, so that ranks of both meet in it.
intrusive_ptr<c10d::Store> meeting_place(const std::string& address, uint16_t port, bool serves, int64_t restart,
                                         int world_size, milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = serves;
  options.numWorkers = world_size;
  options.timeout = serves ? timeout : timeout / 2;  // it tries twice to reach the one that serves
  options.multiTenant = serves;
  intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::TCPStore>(address, options);
  store->setTimeout(timeout);
  // A launcher that starts ranks again has kept what the ranks before said in its store: addresses of the dead.
  if (restart > 0) store = part_of(store, c10::str("restart_", restart));
  return part_of(store, "default_pg");
}

intrusive_ptr<c10d::Backend> gloo_backend(const intrusive_ptr<c10d::Store>& store, const std::string& address, int rank,
                                          int world_size, milliseconds timeout) {
  using c10d::ProcessGroupGloo;
  const bool loopback = address == "localhost" || address == "::1" || address.rfind("127.", 0) == 0;
  intrusive_ptr<ProcessGroupGloo::Options> options;
  if (loopback && std::getenv("GLOO_SOCKET_IFNAME") == nullptr) {  // then all ranks are on this machine
    options = ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  } else {
    options = ProcessGroupGloo::Options::create_default(timeout);
  }
  return c10::make_intrusive<ProcessGroupGloo>(store, rank, world_size, std::move(options));
}

// Gives the group its connections to all other ranks.
void meet(Group& group, const std::string& address, int rank, int world_size, bool nccl) {
  // PyTorch's own ranks exchange no requests. A rank that does says so before Gloo joins it with the others, so whoever
  // has not said so afterwards does not.
  std::vector<std::string> all_ranks;
  for (int each = 0; each < world_size; ++each) all_ranks.push_back(c10::str("patchmix/exchanges_requests/", each));
  group.store->set(all_ranks[rank], std::vector<uint8_t>{1});
  // Under the names that Python uses for its default group.
  const auto parts = part_of(group.store, "0/");
  const auto gloo_part = part_of(parts, nccl ? "patchmix" : "cpu/");
  group.control = gloo_backend(gloo_part, address, rank, world_size, group.timeout);
  group.exchanges_requests = group.store->check(all_ranks);
  group.payload = nccl ? patchmix::nccl_backend(part_of(parts, "cuda/"), rank, world_size, group.timeout) : group.control;
}

}  // namespace

extern "C" {

// Joins the ranks that meet at `address`:`port`, which rank 0 serves unless a launcher does.
char* patchmix_group_join(Group** joined, const char* address, uint16_t port, bool launcher_serves, int64_t restart,
                          int rank, int world_size, bool nccl, int64_t timeout_in_milliseconds) {
  return guarded([&] {
    if (nccl) patchmix::check_nccl();
    const milliseconds timeout(timeout_in_milliseconds);
    const auto problem = message_of([&] {
      auto group = c10::make_intrusive<Group>();
      group->timeout = timeout;
      const bool serves = rank == 0 && !launcher_serves;
      group->store = meeting_place(address, port, serves, restart, world_size, timeout);
      meet(*group, address, rank, world_size, nccl);
      *joined = group.release();
    });
    TORCH_CHECK(!problem, explained(*problem, timeout, "started, and told the same address and number of ranks"));
  });
}

void patchmix_group_leave(Group* group) { intrusive_ptr<Group>::reclaim(group); }

bool patchmix_group_exchanges_requests(const Group* group) { return group->exchanges_requests; }

// From here on, requests are not exchanged.
char* patchmix_group_trust(Group* group) {
  return guarded([&] { group->together(Collective::Trust, at::Tensor(), 0, [&] { group->trusts = true; }); });
}

// Bytes that this rank has brought to all-reduces, all-gathers and broadcasts.
void patchmix_group_bytes(Group* group, int64_t* bytes) {
  const std::lock_guard<std::mutex> lock(group->one_at_a_time);
  std::copy(group->bytes.begin(), group->bytes.end(), bytes);
}

// The sum over all ranks, in place.
char* patchmix_group_all_reduce(Group* group, at::Tensor* tensor) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor sum = tensor->resolve_neg().contiguous();
    group->all_reduce(sum);
    // Into memory that c10d has written behind autograd's back.
    sum.is_same(*tensor) ? sum.unsafeGetTensorImpl()->bump_version() : void(tensor->copy_(sum));
  });
}

// The sum over all ranks as a new tensor, through which gradient flows.
char* patchmix_group_sum(at::Tensor** sum, Group* group, const at::Tensor* tensor) {
  return guarded([&] {
    *sum = new at::Tensor(SumOverRanks::apply(*tensor, intrusive_ptr<Group>::reclaim_copy(group)));
  });
}

// The rows [B, ...] of all ranks in rank order, [world_size * B, ...].
char* patchmix_group_all_gather(at::Tensor** gathered, Group* group, const at::Tensor* rows) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor own = rows->resolve_neg().contiguous();
    std::vector<int64_t> sizes = own.sizes().vec();
    sizes[0] *= group->payload->getSize();
    at::Tensor all = at::empty(sizes, own.options());
    group->together(Collective::AllGather, own, 0, [&] {
      group->carry([&] { return group->payload->_allgather_base(all, own); });
    });
    *gathered = new at::Tensor(std::move(all));
  });
}

// The tensor of rank `from_rank`, in place.
char* patchmix_group_broadcast(Group* group, at::Tensor* tensor, int64_t from_rank) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor copy = tensor->resolve_neg().contiguous();
    group->together(Collective::Broadcast, copy, from_rank, [&] {
      std::vector<at::Tensor> list{copy};
      c10d::BroadcastOptions options;
      options.rootRank = from_rank;
      group->carry([&] { return group->payload->broadcast(list, options); });
    });
    copy.is_same(*tensor) ? copy.unsafeGetTensorImpl()->bump_version() : void(tensor->copy_(copy));
  });
}

// Returns once all ranks have come here.
char* patchmix_group_barrier(Group* group) {
  return guarded([&] {
    group->together(Collective::Barrier, at::Tensor(), 0, [&] {
      over_gloo([&] { return group->control->barrier(); });
    });
  });
}

// One number of every rank, in rank order, into room for as many; by the CPU, whatever carries tensors.
char* patchmix_group_numbers(Group* group, int64_t number, int64_t* numbers) {
  return guarded([&] {
    group->together(Collective::Numbers, at::Tensor(), 0, [&] {
      at::Tensor own = at::full({1}, number, at::kLong);
      at::Tensor all = at::empty({group->control->getSize()}, at::kLong);
      over_gloo([&] { return group->control->_allgather_base(all, own); });
      std::copy_n(all.const_data_ptr<int64_t>(), all.numel(), numbers);
    });
  });
}
}
