// Sixteen floats at a time, in the vector extensions of GCC and Clang. One file per instruction set includes this file:
// see `elementwise.h`.
//
// The code fixes the order of every sum: sixteen partial sums, added in one order, give the same bits on every path.
#pragma once

#include <cstdint>
#include <utility>

namespace trix {
namespace {

constexpr int kLanes = 16;

// Bytes of the widest vector of the instruction set. GCC 12 keeps wider ones in memory.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kVectorLanes = kVectorBytes / 4, kVectors = kLanes / kVectorLanes;

// Vectors are aligned like their elements, so that they can be loaded from any address of an element.
typedef float Vector __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef int32_t IntVector __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));

struct Lanes {
  Vector parts[kVectors];
};

[[gnu::always_inline]] inline void Load(const float* values, Lanes& to) {
  for (int i = 0; i < kVectors; ++i) to.parts[i] = *reinterpret_cast<const Vector*>(values + i * kVectorLanes);
}

[[gnu::always_inline]] inline void Store(const Lanes& lanes, float* values) {
  for (int i = 0; i < kVectors; ++i) *reinterpret_cast<Vector*>(values + i * kVectorLanes) = lanes.parts[i];
}

// sums += values * factor
[[gnu::always_inline]] inline void AddProduct(const Lanes& values, float factor, Lanes& sums) {
  for (int i = 0; i < kVectors; ++i) sums.parts[i] += values.parts[i] * factor;
}

[[gnu::always_inline]] inline void Add(const Lanes& values, Lanes& sums) {
  for (int i = 0; i < kVectors; ++i) sums.parts[i] += values.parts[i];
}

[[gnu::always_inline]] inline void Scale(float factor, Lanes& lanes) {
  for (int i = 0; i < kVectors; ++i) lanes.parts[i] *= factor;
}

// The first if they are equal or either is NaN.
[[gnu::always_inline]] inline Vector Greater(const Vector& first, const Vector& other) {
  return other > first ? other : first;
}

[[gnu::always_inline]] inline void Max(const Lanes& values, Lanes& most) {
  for (int i = 0; i < kVectors; ++i) most.parts[i] = Greater(most.parts[i], values.parts[i]);
}

// Lane i takes the value of lane i + kDistance, cyclically.
template <int kDistance>
[[gnu::always_inline]] inline Vector Rotate(const Vector& from) {
  return [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    return __builtin_shufflevector(from, from, ((i + kDistance) % kVectorLanes)...);
  }(std::make_integer_sequence<int, kVectorLanes>());
}

// Combines lane i with lane i + 8, the results with those 4 further, then 2, then 1. Returns lane 0.
template <typename Combine>
[[gnu::always_inline]] inline float Fold(Lanes lanes, const Combine& combine) {
  for (int half = kVectors / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes.parts[i] = combine(lanes.parts[i], lanes.parts[i + half]);
  }
  Vector all = lanes.parts[0];
  if constexpr (kVectorLanes > 8) all = combine(all, Rotate<8>(all));
  if constexpr (kVectorLanes > 4) all = combine(all, Rotate<4>(all));
  all = combine(all, Rotate<2>(all));
  return combine(all, Rotate<1>(all))[0];
}

inline float SumOf(const Lanes& lanes) {
  return Fold(lanes, [](const Vector& own, const Vector& other) __attribute__((always_inline)) { return own + other; });
}

// NaN counts only in lane 0.
inline float MaxOf(const Lanes& lanes) { return Fold(lanes, Greater); }

// exp(x) for x <= 0, with an error of at most two units in the last place. It is 0 below -87, and NaN stays NaN. The
// reduction to |r| <= ln(2) / 2 and the polynomial are those of expf in Cephes (Moshier).
[[gnu::always_inline]] inline void ExpOfNegative(Vector& x) {
  constexpr float kLog2E = 1.44269504088896341f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23
  constexpr int32_t kRoundToIntegerBits = 0x4b400000;
  const IntVector tiny = x < -87.0f, nan = x != x;
  const Vector rounded = x * kLog2E + kRoundToInteger;
  const Vector n = rounded - kRoundToInteger;
  const Vector r = (x - n * kLn2High) - n * kLn2Low;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * (r * r) + r) + 1.0f;
  const IntVector exponent = (reinterpret_cast<const IntVector&>(rounded) - kRoundToIntegerBits) << 23;
  const IntVector bits = reinterpret_cast<const IntVector&>(p) + exponent;
  x = nan ? x : tiny ? Vector{} : reinterpret_cast<const Vector&>(bits);
}

// Turns `count` values, a multiple of kLanes, into exp(value - highest), and returns their sum.
inline float Exponentials(float highest, int64_t count, float* values) {
  Lanes sums = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    Lanes lanes;
    Load(values + i, lanes);
    for (Vector& part : lanes.parts) {
      part -= highest;
      ExpOfNegative(part);
    }
    Store(lanes, values + i);
    Add(lanes, sums);
  }
  return SumOf(sums);
}

}  // namespace
}  // namespace trix
