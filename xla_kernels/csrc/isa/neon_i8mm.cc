// NEON with the int8 matrix instructions (Neoverse V1 and N2, Apple M2): `smmla` multiplies 2 rows x 8 columns with 8
// columns x 2 tokens. Two neighbouring groups of columns, zipped by lanes, are 2 rows x 8 columns.
#include "cpu.h"
#include "isa/neon_dot.h"
#include "isa/portable.h"

namespace trix {
namespace {

constexpr int kPairs = 4;  // Pairs of tokens in one pass: sixteen accumulators.
// Columns whose masked weights (four vectors for every vector of packed ones) stay in the first-level cache.
constexpr int64_t kChunk = 256;
constexpr int kMaxSlices = kWideRows / 8;

// Weights of a chunk in the order of the inner loop: for each slice of two lanes, for every 8 columns, four prefixes.
struct Expanded {
  alignas(64) int8_t bytes[kMaxSlices * kChunk / 8 * 64];
};

// Activations of a chunk: for each pair of tokens, for every 8 columns, those of the first token and then the second.
struct Interleaved {
  alignas(64) int8_t bytes[kMaxPanel / 2 * kChunk / 8 * 16];
};

// A group of columns that has no neighbour gets zeros as its neighbour, as do the activations.
template <int kRows>
inline void Expand(const uint8_t* packed, int64_t columns, Expanded* expanded) {
  const int64_t octets = (columns + 7) / 8;
  for (int64_t o = 0; o < octets; ++o, packed += 2 * kRows) {
    const bool alone = columns - 8 * o < 8;
    for (int v = 0; v < kRows / 16; ++v) {
      const Prefixes even = Mask(packed + 16 * v), odd = alone ? Prefixes{} : Mask(packed + kRows + 16 * v);
      int8_t* first = expanded->bytes + (2 * v * octets + o) * 64;
      int8_t* second = first + octets * 64;
      for (int p = 0; p < 4; ++p) {
        const int32x4_t a = vreinterpretq_s32_s8(even.w[p]), b = vreinterpretq_s32_s8(odd.w[p]);
        vst1q_s8(first + 16 * p, vreinterpretq_s8_s32(vzip1q_s32(a, b)));
        vst1q_s8(second + 16 * p, vreinterpretq_s8_s32(vzip2q_s32(a, b)));
      }
    }
  }
}

inline void Interleave(const int8_t* q, int64_t stride, int tokens, int64_t octets, Interleaved* interleaved) {
  int8_t* out = interleaved->bytes;
  for (int t = 0; t < tokens; t += 2) {
    const int8_t* one = q + t * stride;
    const int8_t* other = t + 1 < tokens ? one + stride : one;
    for (int64_t o = 0; o < octets; ++o, out += 16) {
      std::memcpy(out, one + 8 * o, 8);
      std::memcpy(out + 8, other + 8 * o, 8);
    }
  }
}

// acc[pair][prefix] of one slice and up to four pairs of tokens.
template <int kCount>
inline void MultiplySlice(const int8_t* w, const int8_t* x, int64_t octets, int32x4_t* acc) {
  int32x4_t sums[kCount][4];
  for (int i = 0; i < kCount; ++i) {
    for (int p = 0; p < 4; ++p) sums[i][p] = acc[4 * i + p];
  }
  for (int64_t o = 0; o < octets; ++o) {
    int8x16_t weights[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) weights[p] = vld1q_s8(w + 64 * o + 16 * p);
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      const int8x16_t activations = vld1q_s8(x + (i * octets + o) * 16);
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) sums[i][p] = vmmlaq_s32(sums[i][p], weights[p], activations);
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int p = 0; p < 4; ++p) acc[4 * i + p] = sums[i][p];
  }
}

inline void MultiplySliceOf(int count, const int8_t* w, const int8_t* x, int64_t octets, int32x4_t* acc) {
  switch (count) {
    case 1:
      return MultiplySlice<1>(w, x, octets, acc);
    case 2:
      return MultiplySlice<2>(w, x, octets, acc);
    case 3:
      return MultiplySlice<3>(w, x, octets, acc);
    default:
      return MultiplySlice<4>(w, x, octets, acc);
  }
}

// Lanes `lane` and `lane + 1` of a pair of tokens; the vector holds both tokens of one lane, then of the other.
template <int kPlane>
inline void StorePlane(const int32x4_t* prefix, int32x4_t sums, bool both, int32_t* out) {
  const int32x4_t rows = Plane<kPlane>(prefix, sums);
  vst1_s32(out, vget_low_s32(vuzp1q_s32(rows, rows)));
  if (both) vst1_s32(out + kWideRows, vget_low_s32(vuzp2q_s32(rows, rows)));
}

template <int kRows>
void MultiplyBlock(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                   int tokens, int32_t* out) {
  constexpr int kSlices = kRows / 8, kLanes = kRows / 4;
  const int pairs = (tokens + 1) / 2;
  int32x4_t acc[kMaxPanel / 2 * kSlices * 4];  // [slice][pair][prefix]
  for (int i = 0; i < kSlices * pairs * 4; ++i) acc[i] = vdupq_n_s32(0);
  Expanded expanded;
  Interleaved interleaved;
  for (int64_t k = 0; k < columns; k += kChunk) {
    const int64_t left = columns - k < kChunk ? columns - k : kChunk, octets = (left + 7) / 8;
    Expand<kRows>(block + k / 4 * kRows, left, &expanded);
    Interleave(q + k, stride, tokens, octets, &interleaved);
    for (int slice = 0; slice < kSlices; ++slice) {
      for (int pair = 0; pair < pairs; pair += kPairs) {
        MultiplySliceOf(pairs - pair, expanded.bytes + slice * octets * 64, interleaved.bytes + pair * octets * 16,
                        octets, acc + (slice * pairs + pair) * 4);
      }
    }
  }
  for (int slice = 0; slice < kSlices; ++slice) {
    for (int pair = 0; pair < pairs; ++pair) {
      const bool both = 2 * pair + 1 < tokens;
      const int32x2_t two = {sums[2 * pair], sums[both ? 2 * pair + 1 : 2 * pair]};
      const int32x4_t zero_points = vcombine_s32(two, two);
      const int32x4_t* prefix = acc + (slice * pairs + pair) * 4;
      int32_t* rows = out + 2 * pair * kWideRows + 2 * slice;
      StorePlane<0>(prefix, zero_points, both, rows);
      StorePlane<1>(prefix, zero_points, both, rows + kLanes);
      StorePlane<2>(prefix, zero_points, both, rows + 2 * kLanes);
      StorePlane<3>(prefix, zero_points, both, rows + 3 * kLanes);
    }
  }
}

// One or two tokens would waste half of every matrix product, or cost more in rearranging.
constexpr int kFewTokens = 2;

void MultiplyWide(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                  int tokens, int32_t* acc) {
  if (tokens <= kFewTokens) return DotWide(block, columns, q, stride, sums, tokens, acc);
  MultiplyBlock<kWideRows>(block, columns, q, stride, sums, tokens, acc);
}

void MultiplyNarrow(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                    int tokens, int32_t* acc) {
  if (tokens <= kFewTokens) return DotNarrow(block, columns, q, stride, sums, tokens, acc);
  MultiplyBlock<kNarrowRows>(block, columns, q, stride, sums, tokens, acc);
}

int64_t Peak(int64_t rounds) {
  return PeakOf(rounds, 32, [](int32x4_t sum, int8x16_t one) { return vmmlaq_s32(sum, one, one); });
}

bool Supported() { return CpuHasDotprod() && CpuHasI8mm(); }

}  // namespace

extern const Path kNeonI8mm = {
    .name = "neon_i8mm",
    .supported = Supported,
    .macs_per_ns = 80,
    .panel = kMaxPanel,
    .dot_wide = MultiplyWide,
    .dot_narrow = MultiplyNarrow,
    .dot_thin = DotThin,
    .add_wide = nullptr,
    .dot_int8 = DotInt8,
    .elementwise = &kBaselineElementwise,
    .peak = Peak,
};

}  // namespace trix
