// Weights in the kind of the products. A step reads each weight in several forward passes, between which it does not
// change: what is cast in the first one serves the others.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <tuple>
#include <utility>

#include "memory.h"

namespace patchmix {

class Casts {
 public:
  // The casts that this thread keeps.
  static Casts& kept() {
    static thread_local Casts casts;
    return casts;
  }

  void begin() { ++depth_; }
  void end() {
    if (--depth_ == 0) made_.clear();
  }

  // `weight` as `kind`; itself if it has that kind.
  at::Tensor cast(const at::Tensor& weight, at::ScalarType kind) {
    if (depth_ == 0 || weight.scalar_type() == kind || !weight.is_contiguous() || !is_plain(weight)) {
      return weight.to(kind);
    }
    auto& [source, made] = made_[{weight.const_data_ptr(), weight.numel(), kind}];
    if (!made.defined()) {
      made = weight.to(kind);
      source = weight;  // keeps its memory from being given to another
    }
    return made.view(weight.sizes());
  }

 private:
  int64_t depth_ = 0;
  std::map<std::tuple<const void*, int64_t, at::ScalarType>, std::pair<at::Tensor, at::Tensor>> made_;
};

}  // namespace patchmix
