// Baseline NEON, without dot product instructions. It sums products in 16 bits and widens them before they overflow.
#include "isa/neon_common.h"
#include "isa/portable.h"

namespace trix {
namespace {

// Prefixes of the lower two planes are at most 10 in magnitude, and those of the upper two at most 4 * 1 + 2. So 25 of
// their products with 127 fit into 16 bits. A step of 16 columns adds four.
constexpr int64_t kColumnsBetweenWidening = 96;

// acc[p] += products of the eight lower bytes with x, and of the eight upper bytes.
inline void MultiplyAdd(int16x8_t* low, int16x8_t* high, int8x16_t w, int8x16_t x) {
  *low = vmlal_s8(*low, vget_low_s8(w), vget_low_s8(x));
  *high = vmlal_high_s8(*high, w, x);
}

// All four prefixes: low[p] and high[p] += products of the lower and of the upper bytes with x.
inline void MultiplyAddPrefixes(int16x8_t* low, int16x8_t* high, int8x16_t all, int8x16_t x) {
  // The shift is arithmetic, because the top plane is signed. Planes 2 and 3 are c_2 + 4 w_3; plane 2 alone is its low
  // two bits.
  const int8x16_t upper = vshrq_n_s8(all, 4);
  MultiplyAdd(&low[0], &high[0], vandq_s8(all, vdupq_n_s8(3)), x);
  MultiplyAdd(&low[1], &high[1], vandq_s8(all, vdupq_n_s8(15)), x);
  MultiplyAdd(&low[2], &high[2], vandq_s8(upper, vdupq_n_s8(3)), x);
  MultiplyAdd(&low[3], &high[3], upper, x);
}

// sum[p] += pairs of neighbours, for all four prefixes.
inline void Widen(int32x4_t* sum, const int16x8_t* added) {
  for (int p = 0; p < 4; ++p) sum[p] = vpadalq_s16(sum[p], added[p]);
}

// Four lanes times one token. Groups of columns are `step` bytes apart.
inline void DotLanes(const uint8_t* packed, int64_t step, int64_t columns, const int8_t* x, int32_t sum, int lanes,
                     int32_t* out) {
  int32x4_t low32[4] = {}, high32[4] = {};
  for (int64_t k = 0; k < columns;) {
    const int64_t end = k + kColumnsBetweenWidening < columns ? k + kColumnsBetweenWidening : columns;
    int16x8_t low[4] = {}, high[4] = {};
    for (; k < end; k += 4, packed += step) {
      int32_t four;
      std::memcpy(&four, x + k, 4);
      const int8x16_t activations = vreinterpretq_s8_s32(vdupq_n_s32(four));
      const int8x16_t all = vreinterpretq_s8_u8(vld1q_u8(packed));
      MultiplyAddPrefixes(low, high, all, activations);
    }
    Widen(low32, low);
    Widen(high32, high);
  }
  int32x4_t prefix[4];
  for (int p = 0; p < 4; ++p) prefix[p] = vpaddq_s32(low32[p], high32[p]);
  const int32x4_t zero_point = vdupq_n_s32(sum);
  vst1q_s32(out, vsubq_s32(prefix[0], zero_point));
  vst1q_s32(out + lanes, vsubq_s32(vshrq_n_s32(vsubq_s32(prefix[1], prefix[0]), 2), zero_point));
  vst1q_s32(out + 2 * lanes, vsubq_s32(prefix[2], zero_point));
  vst1q_s32(out + 3 * lanes, vshrq_n_s32(vsubq_s32(prefix[3], prefix[2]), 2));
}

void DotWide(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums, int tokens,
             int32_t* acc) {
  for (int quarter = 0; quarter < 4; ++quarter) {
    for (int t = 0; t < tokens; ++t) {
      DotLanes(block + 16 * quarter, kWideRows, columns, q + t * stride, sums[t], kWideRows / 4,
               acc + t * kWideRows + 4 * quarter);
    }
  }
}

void DotNarrow(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums, int tokens,
               int32_t* acc) {
  for (int t = 0; t < tokens; ++t) {
    DotLanes(block, kNarrowRows, columns, q + t * stride, sums[t], kNarrowRows / 4, acc + t * kWideRows);
  }
}

// A vector holds four groups of columns of the one lane.
void DotThin(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums, int tokens,
             int32_t* acc) {
  constexpr int64_t kBetweenWidening = 4 * kColumnsBetweenWidening;
  for (int t = 0; t < tokens; ++t) {
    const int8_t* x = q + t * stride;
    int32x4_t low32[4] = {}, high32[4] = {};
    for (int64_t k = 0; k < columns;) {
      const int64_t end = k + kBetweenWidening < columns ? k + kBetweenWidening : columns;
      int16x8_t low[4] = {}, high[4] = {};
      for (; k < end; k += 16) {
        const int8x16_t all = end - k < 16 ? LoadSome(block + k, end - k) : vreinterpretq_s8_u8(vld1q_u8(block + k));
        MultiplyAddPrefixes(low, high, all, vld1q_s8(x + k));
      }
      Widen(low32, low);
      Widen(high32, high);
    }
    int32_t prefix[4];
    for (int p = 0; p < 4; ++p) prefix[p] = vaddvq_s32(vaddq_s32(low32[p], high32[p]));
    int32_t* rows = acc + t * kWideRows;
    rows[0] = prefix[0] - sums[t];
    rows[1] = ((prefix[1] - prefix[0]) >> 2) - sums[t];
    rows[2] = prefix[2] - sums[t];
    rows[3] = (prefix[3] - prefix[2]) >> 2;
  }
}

void DotInt8(const int8_t* block, int blocks, int64_t columns, const int8_t* q, int64_t stride, const int32_t*,
             int tokens, int32_t* acc) {
  for (int b = 0; b < blocks; ++b, block += columns * kInt8Rows) {
    for (int t = 0; t < tokens; ++t) {
      // A vector holds two lanes. For each lane it has the sums of the even and of the odd pairs of columns.
      int32x4_t pairs[kInt8Rows / 2] = {};
      for (int64_t k = 0; k < columns; k += 4) {
        int32_t four;
        std::memcpy(&four, q + t * stride + k, 4);
        const int8x8_t x = vreinterpret_s8_s32(vdup_n_s32(four));
#pragma GCC unroll 8
        for (int v = 0; v < kInt8Rows / 2; ++v) {
          pairs[v] = vpadalq_s16(pairs[v], vmull_s8(vld1_s8(block + k * kInt8Rows + 8 * v), x));
        }
      }
#pragma GCC unroll 4
      for (int v = 0; v < kInt8Rows / 2; v += 2) {
        vst1q_s32(acc + t * kWideRows + b * kInt8Rows + 2 * v, vpaddq_s32(pairs[v], pairs[v + 1]));
      }
    }
  }
}

int64_t Peak(int64_t rounds) {
  constexpr int kSums = 16;
  int16x8_t sums[kSums] = {};
  int8x8_t one = vdup_n_s8(1);
  for (int64_t r = 0; r < rounds; ++r) {
    asm("" : "+w"(one));  // This keeps the compiler from hoisting the product out of the loop.
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = vmlal_s8(sums[i], one, one);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) asm volatile("" ::"w"(sums[i]));
  return rounds * kSums * 8;
}

}  // namespace

extern const Path kNeon = {
    .name = "neon",
    .supported = [] { return true; },
    .macs_per_ns = 10,
    .panel = 8,
    .dot_wide = DotWide,
    .dot_narrow = DotNarrow,
    .dot_thin = DotThin,
    .add_wide = nullptr,
    .dot_int8 = DotInt8,
    .elementwise = &kBaselineElementwise,
    .peak = Peak,
};

}  // namespace trix
