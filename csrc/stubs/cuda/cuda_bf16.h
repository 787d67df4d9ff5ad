// Only ever pointed to: this crate's own C++ computes with numbers of this kind nowhere.
#pragma once
struct __nv_bfloat16;
struct __nv_bfloat162;
