// Process groups over libtorch's c10d, as in Python's torch.distributed. The only caller is src/distributed/native.rs,
// which checks kinds and devices first. Whether all ranks make the same call is checked in group.h, because backward
// passes make calls, too.
#define USE_C10D_GLOO

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/util/safe_numerics.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "group.h"
#include "guarded.h"
#include "memory.h"
#include "nccl.h"

namespace {

using c10::intrusive_ptr;
using patchmix::Collective;
using patchmix::Group;
using patchmix::explained;
using patchmix::guarded;
using patchmix::message_of;
using patchmix::over_gloo;
using std::chrono::milliseconds;

// Writes the result of a call back to `tensor`, unless the call was in place.
void write_back(const at::Tensor& result, at::Tensor& tensor) {
  if (result.is_same(tensor)) {
    result.unsafeGetTensorImpl()->bump_version();  // c10d has written to it without autograd noticing
  } else {
    tensor.copy_(result);
  }
}

intrusive_ptr<c10d::Store> part_of(const intrusive_ptr<c10d::Store>& store, std::string name) {
  return c10::make_intrusive<c10d::PrefixStore>(std::move(name), store);
}

bool is_loopback(const std::string& address) {
  in_addr number{};
  const bool is_number = inet_pton(AF_INET, address.c_str(), &number) == 1;
  return address == "localhost" || address == "::1" || (is_number && ntohl(number.s_addr) >> 24 == 127);
}

// A socket that listens on `port` of the loopback interface only.
int loopback_socket(const std::string& address, uint16_t port) {
  sockaddr_in6 version_6{};
  sockaddr_in version_4{};
  const bool is_6 = address == "::1";
  version_6.sin6_family = AF_INET6;
  version_6.sin6_addr = in6addr_loopback;
  version_6.sin6_port = htons(port);
  version_4.sin_family = AF_INET;
  version_4.sin_port = htons(port);
  if (inet_pton(AF_INET, address.c_str(), &version_4.sin_addr) != 1) version_4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const auto* place = is_6 ? reinterpret_cast<const sockaddr*>(&version_6) : reinterpret_cast<sockaddr*>(&version_4);
  const socklen_t length = is_6 ? sizeof(version_6) : sizeof(version_4);
  const int listener = socket(is_6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
  TORCH_CHECK(listener >= 0, "cannot listen on ", address, ": ", std::strerror(errno));
  const int yes = 1;  // the port of a group that has just ended can be used again
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  fcntl(listener, F_SETFD, FD_CLOEXEC);
  if (bind(listener, place, length) != 0 || listen(listener, SOMAXCONN) != 0) {
    const int error = errno;
    close(listener);
    TORCH_CHECK(false, "cannot listen on port ", port, " of ", address, ": ", std::strerror(error));
  }
  return listener;
}

// The store as Python's init_process_group("env://") sets it up, so that ranks of both can join one group.
intrusive_ptr<c10d::Store> rendezvous_store(const std::string& address, uint16_t port, bool serves, int64_t restart,
                                         int world_size, milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = serves;
  options.numWorkers = world_size;
  options.timeout = serves ? timeout : timeout / 2;  // it tries twice to reach the server
  options.multiTenant = serves;
  // The store asks nobody for a password. By default it listens on all interfaces, also for ranks of this machine only.
  if (serves && is_loopback(address)) options.masterListenFd = loopback_socket(address, port);
  intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::TCPStore>(address, options);
  store->setTimeout(timeout);
  // After a restart, the launcher's store still holds the addresses of the previous, dead ranks.
  if (restart > 0) store = part_of(store, c10::str("restart_", restart));
  return part_of(store, "default_pg");
}

intrusive_ptr<c10d::Backend> gloo_backend(const intrusive_ptr<c10d::Store>& store, const std::string& address, int rank,
                                          int world_size, milliseconds timeout) {
  using c10d::ProcessGroupGloo;
  intrusive_ptr<ProcessGroupGloo::Options> options;
  if (is_loopback(address) && std::getenv("GLOO_SOCKET_IFNAME") == nullptr) {  // then all ranks are on this machine
    options = ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  } else {
    options = ProcessGroupGloo::Options::create_default(timeout);
  }
  return c10::make_intrusive<ProcessGroupGloo>(store, rank, world_size, std::move(options));
}

// Connects the group to all other ranks.
void connect_ranks(Group& group, const std::string& address, int rank, int world_size, bool nccl) {
  // PyTorch's own ranks exchange no requests. A rank that does sets its key before Gloo connects it to the others, so
  // if a key is missing afterwards, that rank does not.
  std::vector<std::string> all_ranks;
  for (int each = 0; each < world_size; ++each) all_ranks.push_back(c10::str("patchmix/exchanges_requests/", each));
  group.store->set(all_ranks[rank], std::vector<uint8_t>{1});
  // The prefixes that Python uses for its default group.
  const auto parts = part_of(group.store, "0/");
  const auto gloo_part = part_of(parts, nccl ? "patchmix" : "cpu/");
  group.control = gloo_backend(gloo_part, address, rank, world_size, group.timeout);
  group.exchanges_requests = group.store->check(all_ranks);
  if (nccl) {
    group.payload = patchmix::nccl_backend(part_of(parts, "cuda/"), rank, world_size, group.timeout);
  } else {
    group.payload = group.control;
  }
}

}  // namespace

extern "C" {

// Joins the group at `address`:`port`, which rank 0 serves unless a launcher does.
char* patchmix_group_join(Group** joined, const char* address, uint16_t port, bool launcher_serves, int64_t restart,
                          int rank, int world_size, bool nccl, int64_t timeout_in_milliseconds) {
  return guarded([&] {
    if (nccl) patchmix::check_nccl();
    const milliseconds timeout(timeout_in_milliseconds);
    const auto problem = message_of([&] {
      auto group = c10::make_intrusive<Group>();
      group->timeout = timeout;
      const bool serves = rank == 0 && !launcher_serves;
      group->store = rendezvous_store(address, port, serves, restart, world_size, timeout);
      connect_ranks(*group, address, rank, world_size, nccl);
      *joined = group.release();
    });
    TORCH_CHECK(!problem, explained(*problem, timeout, "started, and told the same address and number of ranks"));
  });
}

void patchmix_group_leave(Group* group) { intrusive_ptr<Group>::reclaim(group); }

bool patchmix_group_exchanges_requests(const Group* group) { return group->exchanges_requests; }

// Stops the exchange of requests.
char* patchmix_group_trust(Group* group) {
  return guarded([&] { group->together(Collective::Trust, at::Tensor(), 0, [&] { group->trusts = true; }); });
}

// Bytes that this rank has contributed to all-reduces, all-gathers and broadcasts.
void patchmix_group_bytes(Group* group, int64_t* bytes) {
  const std::lock_guard<std::mutex> lock(group->one_at_a_time);
  std::copy(group->bytes.begin(), group->bytes.end(), bytes);
}

// The sum over all ranks, in place.
char* patchmix_group_all_reduce(Group* group, at::Tensor* tensor) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor sum = patchmix::in_memory(*tensor);
    group->all_reduce(sum);
    write_back(sum, *tensor);
  });
}

// The sum over all ranks as a new tensor, through which gradient flows.
char* patchmix_group_sum(at::Tensor** sum, Group* group, const at::Tensor* tensor) {
  return guarded([&] {
    *sum = new at::Tensor(patchmix::SumOverRanks::apply(*tensor, intrusive_ptr<Group>::reclaim_copy(group)));
  });
}

// The rows [B, ...] of all ranks in rank order, [world_size * B, ...].
char* patchmix_group_all_gather(at::Tensor** gathered, Group* group, const at::Tensor* rows) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor own = patchmix::in_memory(*rows);
    std::vector<int64_t> sizes = own.sizes().vec();
    const bool overflows = c10::mul_overflows(sizes[0], static_cast<int64_t>(group->payload->getSize()), &sizes[0]);
    TORCH_CHECK(!overflows, own.size(0), " rows of each of ", group->payload->getSize(), " ranks are too many");
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
    at::Tensor copy = patchmix::in_memory(*tensor);
    group->together(Collective::Broadcast, copy, from_rank, [&] {
      std::vector<at::Tensor> list{copy};
      c10d::BroadcastOptions options;
      options.rootRank = from_rank;
      group->carry([&] { return group->payload->broadcast(list, options); });
    });
    write_back(copy, *tensor);
  });
}

// Returns once all ranks have reached it.
char* patchmix_group_barrier(Group* group) {
  return guarded([&] {
    group->together(Collective::Barrier, at::Tensor(), 0, [&] {
      over_gloo([&] { return group->control->barrier(); });
    });
  });
}

// Gathers one number from every rank into `numbers`, which has room for `count`, in rank order, over Gloo.
char* patchmix_group_numbers(Group* group, int64_t number, int64_t* numbers, int64_t count) {
  return guarded([&] {
    TORCH_CHECK(count == group->control->getSize(), "room for ", count, " numbers of ", group->control->getSize());
    group->together(Collective::Numbers, at::Tensor(), 0, [&] {
      at::Tensor own = at::full({1}, number, at::kLong);
      at::Tensor all = at::empty({group->control->getSize()}, at::kLong);
      over_gloo([&] { return group->control->_allgather_base(all, own); });
      std::copy_n(all.const_data_ptr<int64_t>(), all.numel(), numbers);
    });
  });
}
}
