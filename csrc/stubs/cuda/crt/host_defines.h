// PyTorch's wheels contain CUDA's headers except nvcc's own, which are in a wheel that PyTorch does not depend on. The
// runtime interface takes these names from them; in C++ that only calls it, most are empty.
#pragma once

#define __host__
#define __device__
#define __global__
#define __shared__
#define __constant__
#define __managed__
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __builtin_align__(bytes) __align__(bytes)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __forceinline__ __inline__ __attribute__((always_inline))
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define CUDACB
