// Everything but the process groups and the profiler, in one translation unit: reading libtorch's headers takes most of
// the time.
#include "add_norm.cpp"
#include "attention.cpp"
#include "backend.cpp"
#include "kernels.cpp"
#include "known_gradient.cpp"
#include "layers.cpp"
#include "split_heads.cpp"
#include "views.cpp"
