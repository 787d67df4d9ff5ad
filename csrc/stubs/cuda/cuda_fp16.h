// Only ever pointed to: this crate's own C++ computes with numbers of this kind nowhere.
#pragma once
struct __half;
struct __half2;
