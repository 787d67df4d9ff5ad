// Numbers of a row as float, whatever they are stored as, and functions of them that compilers turn into vector
// instructions. libtorch's own vectors are as wide as the flags of the compiler say, those of the oldest processor;
// functions marked EACH_PROCESSOR are compiled once more for newer ones, and the program takes the best it can run.
#pragma once

#include <c10/util/BFloat16.h>

#include <bit>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_PROCESSOR
#endif
// For what is called in such a function, which else would be compiled for the oldest processor.
#define INLINED inline __attribute__((always_inline))

namespace patchmix {

// bfloat16 is the upper half of a float.
INLINED float load(const c10::BFloat16& number) { return std::bit_cast<float>(uint32_t{number.x} << 16); }
INLINED float load(const float& number) { return number; }

INLINED void store(float& place, float number) { place = number; }
INLINED void store(c10::BFloat16& place, float number) {
  const auto bits = std::bit_cast<uint32_t>(number);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;  // to the nearest, half to even
  place.x = static_cast<uint16_t>(number != number ? 0x7fc0u : rounded);
}

// e^x to 3e-7 of the value, for x up to 80; NaN stays NaN. Below -80 it is e^-80: next to nothing, but still what
// processors multiply fast.
INLINED float exponential(float x) {
  x = x < -80.0f ? -80.0f : x;
  constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: a sum with it has no bits for fractions
  const float power = x * 1.44269504f + to_integer - to_integer;
  const float rest = x - power * 0.693359375f + power * 2.12194440e-4f;  // x - power * ln 2, ln 2 in two parts
  float series = 1.0f / 720;
  series = series * rest + 1.0f / 120;
  series = series * rest + 1.0f / 24;
  series = series * rest + 1.0f / 6;
  series = series * rest + 0.5f;
  series = series * rest + 1.0f;
  series = series * rest + 1.0f;
  return series * std::bit_cast<float>((static_cast<int32_t>(power) + 127) << 23);
}

// The normal distribution at x: the share below x, to 1e-7, and the density (Abramowitz and Stegun, 7.1.26).
struct Normal {
  float below, density;
};
INLINED Normal normal(float x) {
  const float power = -0.5f * x * x;
  const float bell = power < -80.0f ? 0.0f : exponential(power);
  const float t = 1.0f / (1.0f + 0.23164189f * std::fabs(x));
  float tail = 0.530702715f;
  tail = tail * t - 0.726576014f;
  tail = tail * t + 0.710706871f;
  tail = tail * t - 0.142248368f;
  tail = tail * t + 0.127414796f;
  tail = tail * t * bell;
  return {x < 0.0f ? tail : 1.0f - tail, 0.39894228f * bell};
}

}  // namespace patchmix
