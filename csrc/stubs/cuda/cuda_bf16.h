// Declarations only: this crate's C++ does not compute with these types.
#pragma once
struct __nv_bfloat16;
struct __nv_bfloat162;
