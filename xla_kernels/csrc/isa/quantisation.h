// How floats become integers. One file per instruction set includes it: see `elementwise.h`.
#pragma once

#include <cstdint>
#include <cstring>

namespace trix {
namespace {

constexpr float kTiny = 0x1p-100f;
// Adding 1.5 * 2^23 rounds magnitudes below 2^22 to the nearest integer, halves to even, and leaves it in the low bits.
constexpr float kRounder = 12582912.0f;
constexpr int32_t kRounderBits = 0x4b400000;

inline uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

constexpr int kInt8Max = 127;

struct Scaling {
  bool usable;  // Otherwise all integers are 0.
  float factor, step;
};

// Computes how to quantise a row to integers up to kMost, from the bits of its largest magnitude.
template <int kMost = kInt8Max>
inline Scaling ScalingOf(int32_t largest) {
  constexpr float kInverse = 1.0f / kMost;
  float a;
  std::memcpy(&a, &largest, sizeof(a));
  if (largest >= 0x7f800000) return {false, 0.0f, __builtin_nanf("")};
  if (a < kTiny) return {false, 0.0f, 0.0f};
  return {true, kMost / a, a * kInverse};
}

// The nearest integer, for magnitudes below 2^22.
inline int32_t Rounded(float value) { return static_cast<int32_t>(Bits(value + kRounder)) - kRounderBits; }

inline int32_t Larger(int32_t a, int32_t b) { return a < b ? b : a; }

// The bits of |value|. They have the same order as magnitudes, with infinity and then NaN above all numbers.
inline int32_t Magnitude(float value) { return static_cast<int32_t>(Bits(value) & 0x7fffffffu); }

}  // namespace
}  // namespace trix
