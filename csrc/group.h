// A group of ranks: calls of all ranks, one at a time, checked against each other before they start.
#pragma once

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "guarded.h"
#include "memory.h"

namespace patchmix {

// Calls that all ranks make together. Ranks exchange the numbers, so all ranks of a run must be of one version.
enum class Collective : int64_t { AllReduce, AllGather, Broadcast, Barrier, Numbers, Trust };
constexpr size_t counted = 3;  // the first three carry the bytes of tensors

// The call that a rank is about to make, as numbers that all ranks exchange first.
struct Request {
  static constexpr int64_t max_dimensions = 8;
  static constexpr int64_t length = 4 + max_dimensions;
  std::array<int64_t, length> numbers{};  // collective, from_rank, kind, dimensions, sizes...

  Request(Collective collective, const at::Tensor& tensor, int64_t from_rank) {
    numbers[0] = static_cast<int64_t>(collective);
    numbers[1] = from_rank;
    if (!tensor.defined()) return;
    TORCH_CHECK(tensor.dim() <= max_dimensions, "a tensor of more than ", max_dimensions, " dimensions");
    numbers[2] = static_cast<int64_t>(tensor.scalar_type());
    numbers[3] = tensor.dim();
    for (int64_t dimension = 0; dimension < tensor.dim(); ++dimension) numbers[4 + dimension] = tensor.size(dimension);
  }

  // The numbers may be another rank's.
  static std::string words(const int64_t* numbers) {
    const auto dimensions = std::clamp<int64_t>(numbers[3], 0, max_dimensions);
    const auto shape = c10::str(c10::toString(static_cast<c10::ScalarType>(numbers[2])), " ",
                                at::IntArrayRef(numbers + 4, dimensions));
    switch (static_cast<Collective>(numbers[0])) {
      case Collective::AllReduce: return "all-reduce " + shape;
      case Collective::AllGather: return "all-gather " + shape;
      case Collective::Broadcast: return c10::str("broadcast ", shape, " from rank ", numbers[1]);
      case Collective::Numbers: return "gather numbers";
      case Collective::Trust: return "trust_ranks";
      default: return "barrier";
    }
  }
};

// c10d records all calls of a process; two threads must not start one at the same time.
inline std::mutex recorder;

// Starts `call` over Gloo and waits for its work. Only the start is locked: ranks may be threads of one process, which
// wait for each other.
template <class Call>
void over_gloo(Call&& call) {
  std::unique_lock<std::mutex> lock(recorder);
  const auto work = call();
  lock.unlock();
  work->wait();
}

// Rewords an error of c10d for whoever started the ranks.
inline std::string explained(const std::string& message, std::chrono::milliseconds timeout, const char* all_should_be) {
  const auto says = [&](const char* words) { return message.find(words) != std::string::npos; };
  if (says("onnection refused")) return c10::str("another rank has left or died (", message, ")");
  if (says("imed out") || says("imeout")) {
    return c10::str("no answer within ", timeout.count() / 1e3, " s: is every rank ", all_should_be, "? (", message,
                    ")");
  }
  if (says("onnection closed") || says("onnection reset") || says("roken pipe")) {
    return c10::str("another rank has left or died (", message, ")");
  }
  return message;
}

struct Group : torch::CustomClassHolder {
  c10::intrusive_ptr<c10d::Store> store;      // served by rank 0 or by a launcher
  c10::intrusive_ptr<c10d::Backend> control;  // Gloo: exchanges requests and numbers
  c10::intrusive_ptr<c10d::Backend> payload;  // carries tensors: the same Gloo backend, or NCCL
  std::chrono::milliseconds timeout{};
  bool exchanges_requests = true;
  bool trusts = false;  // exchanges no more requests
  std::array<int64_t, counted> bytes{};
  std::string failure;
  bool met_last = false;  // the last call was a barrier
  std::mutex one_at_a_time;  // a backward pass runs in threads of its own

  ~Group() override {
    if (payload == nullptr) return;
    try {
      // Shutting NCCL down waits for the other ranks, so it is safe only after a barrier.
      if (failure.empty() && (payload == control || met_last)) {
        payload->shutdown();
      } else {
        payload->abort();
      }
    } catch (...) {  // a destructor cannot report errors
    }
  }

  // Makes one call of all ranks at a time. A failed call makes the group unusable: another rank may wait for anything.
  template <class Work>
  void together(Collective collective, const at::Tensor& tensor, int64_t from_rank, Work&& work) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    TORCH_CHECK(failure.empty(), "the group is unusable since an earlier call failed: ", failure);
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

  // Gloo and NCCL crash or hang if the tensors of the ranks do not match, so the requests are compared first.
  void exchange(const Request& mine) {
    if (!exchanges_requests || trusts) return;
    const auto numbers = at::TensorOptions().dtype(at::kLong);
    at::Tensor own = at::empty({Request::length}, numbers);
    std::copy(mine.numbers.begin(), mine.numbers.end(), own.mutable_data_ptr<int64_t>());
    at::Tensor all = at::empty({control->getSize() * Request::length}, numbers);
    over_gloo([&] { return control->_allgather_base(all, own); });
    for (int64_t rank = 0; rank < control->getSize(); ++rank) {
      const int64_t* theirs = all.const_data_ptr<int64_t>() + rank * Request::length;
      TORCH_CHECK(std::equal(mine.numbers.begin(), mine.numbers.end(), theirs), "rank ", rank, " called ",
                  Request::words(theirs), ", but rank ", control->getRank(), " called ",
                  Request::words(mine.numbers.data()));
    }
  }

  // Starts `call` over the backend that carries tensors and waits for its work. NCCL's first call waits for the other
  // ranks while it starts, so it must not hold the lock.
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

// The sum over ranks with its gradient, which is the sum over ranks of the gradients.
struct SumOverRanks : torch::autograd::Function<SumOverRanks> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& tensor,
                            const c10::intrusive_ptr<Group>& group) {
    context->saved_data["group"] = c10::IValue::make_capsule(group);
    at::Tensor sum = copied(tensor);
    group->all_reduce(sum);
    return sum;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto group = c10::static_intrusive_pointer_cast<Group>(context->saved_data["group"].toCapsule());
    return {apply(gradients[0], group), at::Tensor()};
  }
};

}  // namespace patchmix
