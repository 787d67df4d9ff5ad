// Fused residual addition and layer norm. On a GPU, one kernel forward and one backward: adds a branch to the residual
// stream and normalizes the sum for the next layer, in bfloat16. libtorch's own operations make six passes over memory
// forward and ten backward. The only caller is src/native/add_norm.rs, which checks shapes, kinds and devices first.
#include "add_norm.cu.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "add_norm_on_cpu.h"
#include "guarded.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The functions used of CUDA's driver and of its run-time compiler, looked up by name so that programs start without
// either.
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

const Cuda& cuda() {
  static const Cuda found;
  return found;
}

void check_call(int answer, const char* what) { TORCH_CHECK(answer == 0, what, " failed with CUDA's error ", answer); }
#define CALL(name, ...) check_call(cuda().name(__VA_ARGS__), #name)

// The kernels compiled for a compute architecture such as sm_90.
std::string compiled(int64_t width, const std::string& processor) {
  void* program = nullptr;
  CALL(nvrtcCreateProgram, &program, patchmix::add_norm_source, "add_norm.cu", 0, nullptr, nullptr);
  const std::string options[] = {"--gpu-architecture=" + processor, "-DWIDTH=" + std::to_string(width),
                                 width % 128 == 0 ? "-DVECTOR=4" : "-DVECTOR=2", "--std=c++17"};
  std::vector<const char*> words;
  for (const auto& option : options) words.push_back(option.c_str());
  size_t size = 0;
  if (cuda().nvrtcCompileProgram(program, static_cast<int>(words.size()), words.data()) != 0) {
    CALL(nvrtcGetProgramLogSize, program, &size);
    std::string log(size, '\0');
    CALL(nvrtcGetProgramLog, program, log.data());
    CALL(nvrtcDestroyProgram, &program);
    TORCH_CHECK(false, "add_norm.cu does not compile for ", processor, ": ", log);
  }
  CALL(nvrtcGetCUBINSize, program, &size);
  std::string binary(size, '\0');
  CALL(nvrtcGetCUBIN, program, binary.data());
  CALL(nvrtcDestroyProgram, &program);
  return binary;
}

struct Kernels {
  void* forward = nullptr;
  void* backward = nullptr;
  unsigned blocks = 0;

  static constexpr unsigned threads = 256;
  int64_t warps() const { return static_cast<int64_t>(blocks) * threads / 32; }
};

constexpr int multiprocessors = 16, capability_major = 75, capability_minor = 76;  // as the driver numbers them

Kernels load(int device, int64_t width) {
  const auto attribute = [&](int which) {
    int value = 0;
    CALL(cuDeviceGetAttribute, &value, which, device);
    return value;
  };
  const std::string processor = c10::str("sm_", attribute(capability_major), attribute(capability_minor));
  const std::string binary = compiled(width, processor);
  void* module = nullptr;  // lives as long as the process
  CALL(cuModuleLoadData, &module, binary.data());
  Kernels kernels;
  CALL(cuModuleGetFunction, &kernels.forward, module, "add_norm_forward");
  CALL(cuModuleGetFunction, &kernels.backward, module, "add_norm_backward");
  kernels.blocks = 4 * static_cast<unsigned>(attribute(multiprocessors));
  return kernels;
}

// The driver needs a current context, which a thread lacks before its first CUDA call.
void bind_context(int device) {
  void* context = nullptr;
  CALL(cuCtxGetCurrent, &context);
  if (context != nullptr) return;
  CALL(cuDevicePrimaryCtxRetain, &context, device);
  CALL(cuCtxSetCurrent, context);
}

// The kernels for `device`, which is the current GPU; compiled once per width.
const Kernels& kernels_for(int device, int64_t width) {
  bind_context(device);
  static std::mutex one_at_a_time;
  static std::map<std::pair<int, int64_t>, Kernels> loaded;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const auto key = std::make_pair(device, width);
  const auto found = loaded.find(key);
  return found != loaded.end() ? found->second : loaded.emplace(key, load(device, width)).first->second;
}

template <class... Arguments>
void launch(void* kernel, const Kernels& kernels, c10::Device device, Arguments... arguments) {
  void* places[] = {&arguments...};
  void* stream = c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(device).native_handle();
  CALL(cuLaunchKernel, kernel, kernels.blocks, 1, 1, Kernels::threads, 1, 1, 0, stream, places, nullptr);
}

void* memory(const at::Tensor& tensor) { return tensor.defined() ? tensor.mutable_data_ptr() : nullptr; }

// The gradient as the kernels read it: contiguous and aligned to 16 bytes.
at::Tensor readable(const at::Tensor& gradient) {
  const at::Tensor contiguous = gradient.contiguous();
  const auto address = reinterpret_cast<uintptr_t>(contiguous.const_data_ptr());
  return address % 16 == 0 ? contiguous : contiguous.clone();
}

struct AddNorm : torch::autograd::Function<AddNorm> {
  static variable_list forward(AutogradContext* context, const at::Tensor& tokens, const at::Tensor& branch,
                               const std::optional<at::Tensor>& drawn, const at::Tensor& weight,
                               const at::Tensor& bias, double epsilon) {
    const at::Tensor kept = drawn.value_or(at::Tensor());
    const int64_t width = tokens.size(-1), rows = tokens.numel() / width, tokens_of_image = rows / tokens.size(0);
    const auto& kernels = kernels_for(tokens.get_device(), width);
    at::Tensor sum = at::empty_like(tokens), normed = at::empty_like(branch);
    at::Tensor means = at::empty({rows}, tokens.options()), inverse_stds = at::empty({rows}, tokens.options());
    launch(kernels.forward, kernels, tokens.device(), memory(tokens), memory(branch), memory(kept),
           static_cast<long>(tokens_of_image), static_cast<long>(rows), memory(weight), memory(bias),
           static_cast<float>(epsilon), memory(sum), memory(normed), memory(means), memory(inverse_stds));
    context->save_for_backward({sum, means, inverse_stds, kept, weight});
    context->set_materialize_grads(false);
    return {sum, normed};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "this kernel has no second derivative; call "
                                             "patchmix::backend::allow_own_kernels(false) for one");
    const auto saved = context->get_saved_variables();
    const at::Tensor &sum = saved[0], &means = saved[1], &inverse_stds = saved[2], &kept = saved[3], &weight = saved[4];
    const int64_t width = sum.size(-1), rows = sum.numel() / width, tokens_of_image = rows / sum.size(0);
    const auto& kernels = kernels_for(sum.get_device(), width);
    const at::Tensor grad_sum = gradients[0].defined() ? readable(gradients[0]) : at::Tensor();
    const auto halves = sum.options().dtype(at::kBFloat16);
    const at::Tensor grad_normed = gradients[1].defined() ? readable(gradients[1]) : at::zeros(sum.sizes(), halves);
    at::Tensor grad_tokens = at::empty_like(sum), grad_branch = at::empty(sum.sizes(), halves);
    at::Tensor grad_weight = at::empty({kernels.warps(), width}, sum.options());
    at::Tensor grad_bias = at::empty_like(grad_weight);
    launch(kernels.backward, kernels, sum.device(), memory(grad_sum), memory(grad_normed), memory(sum), memory(means),
           memory(inverse_stds), memory(kept), static_cast<long>(tokens_of_image), static_cast<long>(rows),
           memory(weight), memory(grad_tokens), memory(grad_branch), memory(grad_weight), memory(grad_bias));
    return {grad_tokens, grad_branch, at::Tensor(), grad_weight.sum(0), grad_bias.sum(0), at::Tensor()};
  }
};

#undef CALL

}  // namespace

extern "C" {

// Compiles the kernels for tokens of `width` features on GPU `device`, unless they are compiled already.
char* patchmix_add_norm_load(int device, int64_t width) {
  return patchmix::guarded([&] {
    const c10::DeviceGuard guard(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device)));
    kernels_for(device, width);
  });
}

// `sum = tokens + kept * branch` and its layer norm `normed`. `tokens` and `sum` are [B, T, width] of Float, `branch`
// and `normed` of BFloat16, on a CPU also of Float; `kept` is [B, 1, 1] of Float, or null for 1.
char* patchmix_add_norm(at::Tensor** sum, at::Tensor** normed, const at::Tensor* tokens, const at::Tensor* branch,
                        const at::Tensor* kept, const at::Tensor* weight, const at::Tensor* bias, double epsilon) {
  return patchmix::guarded([&] {
    const c10::DeviceGuard guard(tokens->device());
    const auto drawn = kept == nullptr ? std::nullopt : std::optional<at::Tensor>(*kept);
    const auto results = tokens->is_cpu() ? AddNormOnCpu::apply(*tokens, *branch, drawn, *weight, *bias, epsilon)
                                          : AddNorm::apply(*tokens, *branch, drawn, *weight, *bias, epsilon);
    *sum = new at::Tensor(results[0]);
    *normed = new at::Tensor(results[1]);
  });
}
}
