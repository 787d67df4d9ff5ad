// libtorch's wheel holds Gloo, but none of its headers. The header of c10d's process group over Gloo needs these names to
// be declared; all that is ever done with them happens inside libtorch, and no object of theirs is made outside.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  virtual ~Context();
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
