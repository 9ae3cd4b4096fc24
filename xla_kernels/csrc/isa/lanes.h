// Sixteen floats at a time, in the vector extensions of GCC and Clang. The compiler uses as many registers as the
// instruction set needs. One file per instruction set includes this file: see `elementwise.h`.
//
// The code fixes the order of every sum: sixteen partial sums, added in one order, give the same bits on every path.
#pragma once

#include <cstdint>

namespace trix {
namespace {

constexpr int kLanes = 16;
// Vectors are aligned like their elements, so that they can be loaded from any address of an element.
typedef float Lanes __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t IntLanes __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

// Vectors pass by reference, because passing this size by value depends on the instruction set.
[[gnu::always_inline]] inline const Lanes& At(const float* values) { return *reinterpret_cast<const Lanes*>(values); }
[[gnu::always_inline]] inline Lanes& At(float* values) { return *reinterpret_cast<Lanes*>(values); }

// Lane i takes the value of lane i + kDistance, cyclically.
template <int kDistance>
[[gnu::always_inline]] inline void Rotate(const Lanes& from, Lanes& to) {
  constexpr int d = kDistance;
  to = __builtin_shufflevector(from, from, d, d + 1, d + 2, d + 3, d + 4, d + 5, d + 6, d + 7, d + 8, d + 9, d + 10,
                               d + 11, d + 12, d + 13, d + 14, d + 15);
}

template <int kDistance>
[[gnu::always_inline]] inline void AddRotated(Lanes& lanes) {
  Lanes other;
  Rotate<kDistance>(lanes, other);
  lanes += other;
}

template <int kDistance>
[[gnu::always_inline]] inline void MaxRotated(Lanes& lanes) {
  Lanes other;
  Rotate<kDistance>(lanes, other);
  lanes = other > lanes ? other : lanes;
}

inline float SumOf(Lanes& lanes) {
  AddRotated<8>(lanes);
  AddRotated<4>(lanes);
  AddRotated<2>(lanes);
  AddRotated<1>(lanes);
  return lanes[0];
}

// NaN counts only in lane 0.
inline float MaxOf(Lanes& lanes) {
  MaxRotated<8>(lanes);
  MaxRotated<4>(lanes);
  MaxRotated<2>(lanes);
  MaxRotated<1>(lanes);
  return lanes[0];
}

// exp(x) for x <= 0, with an error of at most two units in the last place. It is 0 below -87, and NaN stays NaN. The
// reduction to |r| <= ln(2) / 2 and the polynomial are those of expf in Cephes (Moshier).
[[gnu::always_inline]] inline void ExpOfNegative(Lanes& x) {
  constexpr float kLog2E = 1.44269504088896341f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23
  constexpr int32_t kRoundToIntegerBits = 0x4b400000;
  const IntLanes tiny = x < -87.0f, nan = x != x;
  const Lanes rounded = x * kLog2E + kRoundToInteger;
  const Lanes n = rounded - kRoundToInteger;
  const Lanes r = (x - n * kLn2High) - n * kLn2Low;
  Lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * (r * r) + r) + 1.0f;
  const IntLanes exponent = (reinterpret_cast<const IntLanes&>(rounded) - kRoundToIntegerBits) << 23;
  const IntLanes bits = reinterpret_cast<const IntLanes&>(p) + exponent;
  x = nan ? x : tiny ? Lanes{} : reinterpret_cast<const Lanes&>(bits);
}

}  // namespace
}  // namespace trix
