// The runtime's interface without its templates for nvcc; see crt/host_defines.h beside this.
#pragma once
#include <cuda_runtime_api.h>
