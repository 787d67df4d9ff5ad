// Kernel times from libtorch's profiler (Kineto), for src/native/profile.rs.
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include "guarded.h"

namespace {

namespace profiler = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;

// Kineto's activity types 3 to 5 are what a GPU does: copies, fills and kernels.
bool is_gpu_work(const profiler::KinetoEvent& event) {
  return event.deviceType() == c10::DeviceType::CUDA && event.activityType() >= 3 && event.activityType() <= 5;
}

void finish(bool gpu) {
  if (!gpu) return;
  const c10::impl::VirtualGuardImpl gpus(c10::kCUDA);
  gpus.synchronizeDevice(gpus.getDevice().index());
}

std::set<ActivityType> activities(bool gpu) { return {gpu ? ActivityType::CUDA : ActivityType::CPU}; }

}  // namespace

extern "C" {

char* patchmix_profile_begin(bool gpu) {
  return patchmix::guarded([&] {
    finish(gpu);
    const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
    profiler::prepareProfiler(config, activities(gpu));
    profiler::enableProfiler(config, activities(gpu), {at::RecordScope::FUNCTION});
  });
}

// One line per name: calls, nanoseconds, name. The caller frees `lines` like a message.
char* patchmix_profile_end(bool gpu, char** lines) {
  return patchmix::guarded([&] {
    const auto unfinished = patchmix::message_of([&] { finish(gpu); });
    const auto result = profiler::disableProfiler();  // even if the work failed
    TORCH_CHECK(!unfinished, *unfinished);
    std::map<std::string, std::pair<uint64_t, uint64_t>> totals;
    for (const auto& event : result->events()) {
      if (gpu ? !is_gpu_work(event) : event.deviceType() != c10::DeviceType::CPU) continue;
      auto& [calls, nanoseconds] = totals[event.name()];
      calls += 1;
      nanoseconds += event.durationNs();
    }
    std::ostringstream text;
    for (const auto& [name, total] : totals) {
      std::string line = name;
      std::replace(line.begin(), line.end(), '\n', ' ');
      text << total.first << ' ' << total.second << ' ' << line << '\n';
    }
    *lines = strdup(text.str().c_str());
  });
}
}
