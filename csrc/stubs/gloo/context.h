// libtorch's wheel contains Gloo but not its headers. The header of c10d's Gloo process group needs these declarations;
// the types are only used inside libtorch, and nothing outside creates an object of them.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  virtual ~Context();
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
