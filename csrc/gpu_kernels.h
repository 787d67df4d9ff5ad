// CUDA kernels, compiled at run time for the GPU at hand: a build needs neither CUDA's compiler nor its headers, and a
// program without a GPU needs neither its driver nor its run-time compiler.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "memory.h"

namespace patchmix {

// A CUDA source of this folder; build.rs writes them into cuda_sources.h.
struct CudaSource {
  const char* name;
  const char* text;
};

}  // namespace patchmix

#include "cuda_sources.h"

namespace patchmix {

// The functions used of CUDA's driver and of its run-time compiler, looked up by name.
struct Cuda {
  int (*nvrtcCreateProgram)(void**, const char*, const char*, int, const char* const*, const char* const*);
  int (*nvrtcCompileProgram)(void*, int, const char* const*);
  int (*nvrtcGetCUBINSize)(void*, size_t*);
  int (*nvrtcGetCUBIN)(void*, char*);
  int (*nvrtcGetProgramLogSize)(void*, size_t*);
  int (*nvrtcGetProgramLog)(void*, char*);
  int (*nvrtcDestroyProgram)(void**);
  int (*cuCtxGetCurrent)(void**);
  int (*cuCtxSetCurrent)(void*);
  int (*cuDevicePrimaryCtxRetain)(void**, int);
  int (*cuDeviceGetAttribute)(int*, int, int);
  int (*cuModuleLoadData)(void**, const void*);
  int (*cuModuleGetFunction)(void**, void*, const char*);
  int (*cuLaunchKernel)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                        void**);

  Cuda() {
    // The library through which libtorch reaches both.
    void* library = dlopen("libcaffe2_nvrtc.so", RTLD_NOW | RTLD_LOCAL);
    TORCH_CHECK(library != nullptr, "cannot load libcaffe2_nvrtc.so: ", dlerror());
#define FIND(name)                                                 \
  name = reinterpret_cast<decltype(name)>(dlsym(library, #name)); \
  TORCH_CHECK(name != nullptr, "no " #name " in libcaffe2_nvrtc.so")
    FIND(nvrtcCreateProgram);
    FIND(nvrtcCompileProgram);
    FIND(nvrtcGetCUBINSize);
    FIND(nvrtcGetCUBIN);
    FIND(nvrtcGetProgramLogSize);
    FIND(nvrtcGetProgramLog);
    FIND(nvrtcDestroyProgram);
    FIND(cuCtxGetCurrent);
    FIND(cuCtxSetCurrent);
    FIND(cuDevicePrimaryCtxRetain);
    FIND(cuDeviceGetAttribute);
    FIND(cuModuleLoadData);
    FIND(cuModuleGetFunction);
    FIND(cuLaunchKernel);
#undef FIND
  }
};

inline const Cuda& cuda() {
  static const Cuda found;
  return found;
}

inline void check_call(int answer, const char* what) {
  TORCH_CHECK(answer == 0, what, " failed with CUDA's error ", answer);
}
#define CALL(name, ...) check_call(cuda().name(__VA_ARGS__), #name)

// The kernels of `source` compiled for an architecture such as sm_90, with WIDTH defined as `width`.
inline std::string compiled(const CudaSource& source, int64_t width, const std::string& processor) {
  std::vector<const char*> names, texts;
  for (const auto& header : cuda_headers) {
    names.push_back(header.name);
    texts.push_back(header.text);
  }
  void* program = nullptr;
  CALL(nvrtcCreateProgram, &program, source.text, source.name, static_cast<int>(names.size()), texts.data(),
       names.data());
  const std::string architecture = "--gpu-architecture=" + processor, definition = "-DWIDTH=" + std::to_string(width);
  const char* options[] = {architecture.c_str(), definition.c_str(), "--std=c++17"};
  size_t size = 0;
  if (cuda().nvrtcCompileProgram(program, static_cast<int>(std::size(options)), options) != 0) {
    CALL(nvrtcGetProgramLogSize, program, &size);
    std::string log(size, '\0');
    CALL(nvrtcGetProgramLog, program, log.data());
    CALL(nvrtcDestroyProgram, &program);
    TORCH_CHECK(false, source.name, " does not compile for ", processor, ": ", log);
  }
  CALL(nvrtcGetCUBINSize, program, &size);
  std::string binary(size, '\0');
  CALL(nvrtcGetCUBIN, program, binary.data());
  CALL(nvrtcDestroyProgram, &program);
  return binary;
}

// The kernels of one source on one GPU.
struct GpuKernels {
  static constexpr unsigned threads = 256;  // of a block

  void* module = nullptr;  // lives as long as the process
  unsigned multiprocessors = 0;

  // Blocks that fill the GPU.
  unsigned blocks() const { return 4 * multiprocessors; }

  template <class... Arguments>
  void launch(const char* name, unsigned blocks, c10::Device device, Arguments... arguments) const {
    void* kernel = nullptr;
    CALL(cuModuleGetFunction, &kernel, module, name);
    void* places[] = {&arguments...};
    void* stream = c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(device).native_handle();
    CALL(cuLaunchKernel, kernel, blocks, 1, 1, threads, 1, 1, 0, stream, places, nullptr);
  }
};

constexpr int multiprocessors = 16, capability_major = 75, capability_minor = 76;  // as the driver numbers them

// The driver needs a current context, which a thread lacks before its first CUDA call.
inline void bind_context(int device) {
  void* context = nullptr;
  CALL(cuCtxGetCurrent, &context);
  if (context != nullptr) return;
  CALL(cuDevicePrimaryCtxRetain, &context, device);
  CALL(cuCtxSetCurrent, context);
}

// The kernels for `device`, which is the current GPU. They are compiled once.
inline const GpuKernels& gpu_kernels(const CudaSource& source, int device, int64_t width) {
  bind_context(device);
  static std::mutex one_at_a_time;
  static std::map<std::tuple<std::string, int, int64_t>, GpuKernels> loaded;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const auto key = std::make_tuple(std::string(source.name), device, width);
  if (const auto found = loaded.find(key); found != loaded.end()) return found->second;
  const auto attribute = [&](int which) {
    int value = 0;
    CALL(cuDeviceGetAttribute, &value, which, device);
    return value;
  };
  const std::string processor = c10::str("sm_", attribute(capability_major), attribute(capability_minor));
  GpuKernels kernels{nullptr, static_cast<unsigned>(attribute(multiprocessors))};
  CALL(cuModuleLoadData, &kernels.module, compiled(source, width, processor).data());
  return loaded.emplace(key, kernels).first->second;
}

#undef CALL

// The memory of a tensor for a kernel; null for none.
inline void* memory(const at::Tensor& tensor) { return tensor.defined() ? tensor.mutable_data_ptr() : nullptr; }

// The tensor as the kernels read it: contiguous and aligned to 16 bytes.
inline at::Tensor readable(const at::Tensor& tensor) { return aligned_to(16, tensor); }

}  // namespace patchmix
