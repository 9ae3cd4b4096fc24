// Products by the signed dot product instruction `sdot`, which advances four columns of four lanes. The paths of CPUs
// with this instruction include the file.
#pragma once

#include "isa/neon_common.h"

namespace trix {
namespace {

// The products are in assembly, because GCC 12 reorders the intrinsics and then has to spill accumulators.

// One vector of four lanes times one group of columns of one token.
template <int kColumnGroup>
[[gnu::always_inline]] inline void DotVector(int32x4_t (&acc)[4], const uint8_t* packed, int8x16_t x) {
  int8x16_t all, w3, w15, w63;
  asm volatile(
      "ldr %q[all], %[packed]\n\t"
      "and %[w3].16b, %[all].16b, %[three].16b\n\t"
      "and %[w15].16b, %[all].16b, %[fifteen].16b\n\t"
      "and %[w63].16b, %[all].16b, %[sixty_three].16b\n\t"
      "sdot %[acc0].4s, %[w3].16b, %[x].4b[%[group]]\n\t"
      "sdot %[acc1].4s, %[w15].16b, %[x].4b[%[group]]\n\t"
      "sdot %[acc2].4s, %[w63].16b, %[x].4b[%[group]]\n\t"
      "sdot %[acc3].4s, %[all].16b, %[x].4b[%[group]]"
      : [acc0] "+w"(acc[0]), [acc1] "+w"(acc[1]), [acc2] "+w"(acc[2]), [acc3] "+w"(acc[3]), [all] "=&w"(all),
        [w3] "=&w"(w3), [w15] "=&w"(w15), [w63] "=&w"(w63)
      : [packed] "m"(*reinterpret_cast<const uint8_t (*)[16]>(packed)), [x] "w"(x), [three] "w"(vdupq_n_s8(3)),
        [fifteen] "w"(vdupq_n_s8(15)), [sixty_three] "w"(vdupq_n_s8(63)), [group] "i"(kColumnGroup));
}

template <int kColumnGroup>
[[gnu::always_inline]] inline void Dot(int32x4_t& acc, int8x16_t w, int8x16_t x) {
  asm volatile("sdot %[acc].4s, %[w].16b, %[x].4b[%[group]]"
               : [acc] "+w"(acc)
               : [w] "w"(w), [x] "w"(x), [group] "i"(kColumnGroup));
}

// Adds the products of one group of columns: kVectors vectors of four lanes, kTokens tokens.
template <int kColumnGroup, int kVectors, int kTokens>
[[gnu::always_inline]] inline void DotGroup(int32x4_t (&acc)[kVectors][kTokens][4], const uint8_t* packed,
                                            const int8x16_t (&x)[kTokens]) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (kTokens == 1) {
      DotVector<kColumnGroup>(acc[v][0], packed + 16 * v, x[0]);
    } else {
      const Prefixes w = Mask(packed + 16 * v);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) Dot<kColumnGroup>(acc[v][t][p], w.w[p], x[t]);
      }
    }
  }
}

// kVectors vectors of four lanes times kTokens tokens. Groups of columns are `step` bytes apart.
template <int kVectors, int kTokens>
inline void DotLanes(const uint8_t* packed, int64_t step, int64_t columns, const int8_t* q, int64_t stride,
                     const int32_t* sums, int lanes, int32_t* out) {
  int32x4_t acc[kVectors][kTokens][4] = {};
  int64_t k = 0;
  for (; k + 16 <= columns; k += 16, packed += 4 * step) {
    int8x16_t x[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) x[t] = vld1q_s8(q + t * stride + k);
    DotGroup<0>(acc, packed, x);
    DotGroup<1>(acc, packed + step, x);
    DotGroup<2>(acc, packed + 2 * step, x);
    DotGroup<3>(acc, packed + 3 * step, x);
  }
  for (; k < columns; k += 4, packed += step) {
    int8x16_t x[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      int32_t four;
      std::memcpy(&four, q + t * stride + k, 4);
      x[t] = vreinterpretq_s8_s32(vdupq_n_s32(four));
    }
    DotGroup<0>(acc, packed, x);
  }
  // The loop is unrolled, because the compiler keeps no array in registers that a variable indexes.
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) StorePlanes(acc[v][t], sums[t], lanes, out + t * kWideRows + 4 * v);
  }
}

// Tokens of one pass. Its twenty accumulators, five activations and the weights fill the 32 registers.
constexpr int kDotPanel = 5;

inline void DotLanesOf(int tokens, const uint8_t* packed, int64_t step, int64_t columns, const int8_t* q,
                       int64_t stride, const int32_t* sums, int lanes, int32_t* out) {
  switch (tokens) {
    case 1:
      return DotLanes<1, 1>(packed, step, columns, q, stride, sums, lanes, out);
    case 2:
      return DotLanes<1, 2>(packed, step, columns, q, stride, sums, lanes, out);
    case 3:
      return DotLanes<1, 3>(packed, step, columns, q, stride, sums, lanes, out);
    case 4:
      return DotLanes<1, 4>(packed, step, columns, q, stride, sums, lanes, out);
    default:
      return DotLanes<1, 5>(packed, step, columns, q, stride, sums, lanes, out);
  }
}

inline void DotWide(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                    int tokens, int32_t* acc) {
  constexpr int kLanes = kWideRows / 4;
  if (tokens == 1) return DotLanes<4, 1>(block, kWideRows, columns, q, stride, sums, kLanes, acc);
  for (int quarter = 0; quarter < 4; ++quarter) {
    DotLanesOf(tokens, block + 16 * quarter, kWideRows, columns, q, stride, sums, kLanes, acc + 4 * quarter);
  }
}

inline void DotNarrow(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                      int tokens, int32_t* acc) {
  DotLanesOf(tokens, block, kNarrowRows, columns, q, stride, sums, kNarrowRows / 4, acc);
}

// A vector holds four groups of columns of the one lane.
inline void DotThin(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                    int tokens, int32_t* acc) {
  for (int t = 0; t < tokens; ++t) {
    const int8_t* x = q + t * stride;
    int32x4_t sum[4] = {};
    const auto add = [&](const Prefixes& w, int64_t k) __attribute__((always_inline)) {
      const int8x16_t activations = vld1q_s8(x + k);
      for (int p = 0; p < 4; ++p) sum[p] = vdotq_s32(sum[p], w.w[p], activations);
    };
    const int64_t whole = columns / 16 * 16;
    for (int64_t k = 0; k < whole; k += 16) add(Mask(block + k), k);
    if (whole < columns) add(Mask(LoadSome(block + whole, columns - whole)), whole);
    const int32x4_t prefix = vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3]));
    const int32x4_t below = vextq_s32(vdupq_n_s32(0), prefix, 3);
    const int32x4_t shifts = {0, -2, -4, -6}, zero_points = {sums[t], sums[t], sums[t], 0};
    vst1q_s32(acc + t * kWideRows, vsubq_s32(vshlq_s32(vsubq_s32(prefix, below), shifts), zero_points));
  }
}

// Sixteen lanes times kTokens tokens.
template <int kTokens>
inline void DotInt8Tokens(const int8_t* block, int64_t columns, const int8_t* q, int64_t stride, int32_t* out) {
  int32x4_t acc[kTokens][4] = {};
  const auto add = [&]<int kColumnGroup>(const int8_t* lanes, const int8x16_t(&x)[kTokens])
                       __attribute__((always_inline)) {
#pragma GCC unroll 4
                         for (int v = 0; v < 4; ++v) {
                           const int8x16_t w = vld1q_s8(lanes + 64 * kColumnGroup + 16 * v);
#pragma GCC unroll 8
                           for (int t = 0; t < kTokens; ++t) Dot<kColumnGroup>(acc[t][v], w, x[t]);
                         }
                       };
  for (int64_t k = 0; k < columns; k += 16) {
    int8x16_t x[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) x[t] = vld1q_s8(q + t * stride + k);
    const int8_t* lanes = block + k * kInt8Rows;
    add.template operator()<0>(lanes, x);
    add.template operator()<1>(lanes, x);
    add.template operator()<2>(lanes, x);
    add.template operator()<3>(lanes, x);
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) vst1q_s32(out + t * kWideRows + 4 * v, acc[t][v]);
  }
}

inline void DotInt8(const int8_t* block, int blocks, int64_t columns, const int8_t* q, int64_t stride, const int32_t*,
                    int tokens, int32_t* acc) {
  for (int b = 0; b < blocks; ++b, block += columns * kInt8Rows, acc += kInt8Rows) {
    for (int t = 0; t < tokens; t += kDotPanel) {
      const int8_t* rows = q + t * stride;
      int32_t* out = acc + t * kWideRows;
      switch (tokens - t) {
        case 1:
          DotInt8Tokens<1>(block, columns, rows, stride, out);
          break;
        case 2:
          DotInt8Tokens<2>(block, columns, rows, stride, out);
          break;
        case 3:
          DotInt8Tokens<3>(block, columns, rows, stride, out);
          break;
        case 4:
          DotInt8Tokens<4>(block, columns, rows, stride, out);
          break;
        default:
          DotInt8Tokens<5>(block, columns, rows, stride, out);
          break;
      }
    }
  }
}

// `multiply` on sixteen independent accumulators.
template <typename Multiply>
inline int64_t PeakOf(int64_t rounds, int64_t macs, Multiply multiply) {
  constexpr int kSums = 16;
  int32x4_t sums[kSums] = {};
  int8x16_t one = vdupq_n_s8(1);
  for (int64_t r = 0; r < rounds; ++r) {
    asm("" : "+w"(one));  // This keeps the compiler from hoisting the product out of the loop.
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = multiply(sums[i], one);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) asm volatile("" ::"w"(sums[i]));
  return rounds * kSums * macs;
}

}  // namespace
}  // namespace trix
