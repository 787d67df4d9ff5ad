// Rows in chunks that a core works on one after the other. What one operation leaves in the core's cache, the next one
// finds there, and threads wait for each other once for all operations instead of once for each.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdint>

namespace patchmix {

class Chunks {
 public:
  // Chunks of at most `longest` rows, as many for each thread. Fewer than `shortest` rows for each thread are one
  // chunk, in which libtorch's operations use all threads.
  Chunks(int64_t rows, int64_t longest, int64_t shortest) : rows_(rows) {
    const int64_t threads = at::get_num_threads();
    const int64_t of_thread = rows / threads;
    count_ = of_thread < shortest ? 1 : threads * std::max<int64_t>(1, (of_thread + longest - 1) / longest);
  }

  int64_t count() const { return count_; }

  // Calls work(index, first row, number of rows) for each chunk, without gradient.
  template <class Work>
  void each(Work&& work) const {
    at::parallel_for(0, count_, 1, [&](int64_t begin, int64_t end) {
      const at::NoGradGuard no_grad;  // holds for one thread only
      for (int64_t index = begin; index < end; ++index) {
        const int64_t first = rows_ * index / count_;
        work(index, first, rows_ * (index + 1) / count_ - first);
      }
    });
  }

 private:
  int64_t rows_, count_;
};

}  // namespace patchmix
