// Rows in chunks that a core works on one after the other. What one operation leaves in the core's cache, the next one
// finds there, and threads wait for each other once for all operations instead of once for each.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdint>

namespace patchmix {

class Chunks {
 public:
  // All rows in one chunk, in which libtorch's operations use all threads.
  explicit Chunks(int64_t rows) : rows_(rows), count_(1) {}

  // As many chunks for each thread, of about `longest` rows; fewer if they would have less than `shortest` rows.
  Chunks(int64_t rows, int64_t longest, int64_t shortest) : rows_(rows) {
    const int64_t threads = at::get_num_threads(), of_thread = rows / threads;
    count_ = of_thread < shortest ? std::max<int64_t>(1, rows / shortest)
                                  : threads * std::max<int64_t>(1, (of_thread + longest - 1) / longest);
  }

  int64_t count() const { return count_; }

  // Calls work(index, first row, number of rows) for each chunk, without gradient.
  template <class Work>
  void each(Work&& work) const {
    const at::ThreadLocalState settings;  // of profilers, say, which belong to a thread as the next line does
    at::parallel_for(0, count_, 1, [&](int64_t begin, int64_t end) {
      const at::ThreadLocalStateGuard same_settings(settings);
      const at::NoGradGuard no_grad;
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
