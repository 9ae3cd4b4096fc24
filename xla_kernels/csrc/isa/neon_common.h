// Shared by the NEON paths: how the planes come apart. Included by one file per path, in an anonymous namespace,
// because each is compiled for another instruction set.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "path.h"

namespace trix {
namespace {

// A vector of four lanes, masked to the prefixes of its planes. The top plane is signed, so all are signed bytes.
struct Prefixes {
  int8x16_t w[4];
};

inline Prefixes Mask(int8x16_t all) {
  return {{vandq_s8(all, vdupq_n_s8(3)), vandq_s8(all, vdupq_n_s8(15)), vandq_s8(all, vdupq_n_s8(63)), all}};
}

inline Prefixes Mask(const uint8_t* packed) { return Mask(vreinterpretq_s8_u8(vld1q_u8(packed))); }

// Sums of plane p from the prefix sums of four lanes, minus the zero point of the lower three planes.
template <int kPlane>
inline int32x4_t Plane(const int32x4_t* prefix, int32x4_t sum) {
  if constexpr (kPlane == 0) {
    return vsubq_s32(prefix[0], sum);
  } else {
    const int32x4_t plane = vshrq_n_s32(vsubq_s32(prefix[kPlane], prefix[kPlane - 1]), 2 * kPlane);
    return kPlane == 3 ? plane : vsubq_s32(plane, sum);
  }
}

// Four lanes of the block of `lanes` lanes: rows of plane p are at out + p * lanes.
inline void StorePlanes(const int32x4_t* prefix, int32_t sum, int lanes, int32_t* out) {
  const int32x4_t zero_point = vdupq_n_s32(sum);
  vst1q_s32(out, Plane<0>(prefix, zero_point));
  vst1q_s32(out + lanes, Plane<1>(prefix, zero_point));
  vst1q_s32(out + 2 * lanes, Plane<2>(prefix, zero_point));
  vst1q_s32(out + 3 * lanes, Plane<3>(prefix, zero_point));
}

// The 16 bytes, or the first `columns` of them, a multiple of four, and zeros.
inline int8x16_t LoadSome(const uint8_t* from, int64_t columns) {
  uint8_t some[16] = {};
  std::memcpy(some, from, static_cast<size_t>(columns));
  return vreinterpretq_s8_u8(vld1q_u8(some));
}

}  // namespace
}  // namespace trix
