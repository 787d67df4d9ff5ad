// Declarations only: this crate's C++ does not compute with these types.
#pragma once
struct __half;
struct __half2;
