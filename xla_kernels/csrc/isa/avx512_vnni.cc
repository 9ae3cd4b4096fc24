// AVX-512 with VNNI: one `vpdpbusd` advances four columns of sixteen lanes. Weights are unsigned, activations signed.
#include <immintrin.h>

#include "cpu.h"
#include "isa/elementwise.h"

namespace trix {
namespace {

// This is assembly, because GCC 12 spills the accumulators of a panel around the intrinsic, at half the speed.
inline void Dot(__m512i& acc, __m512i weights, __m512i activations) {
  asm("vpdpbusd %[x], %[w], %[acc]" : [acc] "+v"(acc) : [w] "v"(weights), [x] "v"(activations));
}

// Adds the products of 64 packed bytes with the activations to the four prefix accumulators.
inline void DotPrefixes(__m512i* acc, __m512i w3, __m512i w15, __m512i w63, __m512i all, __m512i x) {
  Dot(acc[0], w3, x);
  Dot(acc[1], w15, x);
  Dot(acc[2], w63, x);
  Dot(acc[3], all, x);
}

struct Masked {
  __m512i w3, w15, w63, all;
};

inline Masked Mask(__m512i w) {
  // The top plane is signed. Adding 64 makes the byte an unsigned prefix sum.
  return {_mm512_and_si512(w, _mm512_set1_epi8(3)), _mm512_and_si512(w, _mm512_set1_epi8(15)),
          _mm512_and_si512(w, _mm512_set1_epi8(63)), _mm512_add_epi8(w, _mm512_set1_epi8(64))};
}

inline Masked Mask(const uint8_t* packed) { return Mask(_mm512_loadu_si512(packed)); }

// The first `bytes` bytes, a multiple of four, and zeros.
inline __m512i LoadSome(const void* from, int64_t bytes) {
  return _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1 << (bytes / 4)) - 1), from);
}

// Distance of the prefetch of weights in bytes: far enough for memory, near enough for the first-level cache. The
// prefetch may run past the last block without harm.
constexpr int64_t kAhead = 4096;

template <int kTokens, int kUnroll>
void DotWideTokens(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                   int32_t* out) {
  __m512i acc[kUnroll][kTokens][4] = {};
  int64_t k = 0;
  for (; k + 4 * kUnroll <= columns; k += 4 * kUnroll) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
      const Masked w = Mask(block + (k + 4 * u) * 16);
      if constexpr (kTokens == 1) {
        _mm_prefetch(block + (k + 4 * u) * 16 + kAhead, _MM_HINT_NTA);  // It is read once and need not stay.
      } else if constexpr (kTokens <= 4) {
        _mm_prefetch(block + (k + 4 * u) * 16 + kAhead, _MM_HINT_T0);
      }
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        int32_t four;
        std::memcpy(&four, q + t * stride + k + 4 * u, 4);
        DotPrefixes(acc[u][t], w.w3, w.w15, w.w63, w.all, _mm512_set1_epi32(four));
      }
    }
  }
  for (; kUnroll > 1 && k < columns; k += 4) {
    const Masked w = Mask(block + k * 16);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      int32_t four;
      std::memcpy(&four, q + t * stride + k, 4);
      DotPrefixes(acc[0][t], w.w3, w.w15, w.w63, w.all, _mm512_set1_epi32(four));
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    __m512i prefix[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      prefix[p] = acc[0][t][p];
#pragma GCC unroll 4
      for (int u = 1; u < kUnroll; ++u) prefix[p] = _mm512_add_epi32(prefix[p], acc[u][t][p]);
    }
    const __m512i sum = _mm512_set1_epi32(sums[t]);
    int32_t* rows = out + t * kWideRows;
    _mm512_storeu_si512(rows, _mm512_sub_epi32(prefix[0], sum));
#pragma GCC unroll 4
    for (int p = 1; p < 4; ++p) {
      const __m512i plane = _mm512_srai_epi32(_mm512_sub_epi32(prefix[p], prefix[p - 1]), 2 * p);
      _mm512_storeu_si512(rows + 16 * p, _mm512_sub_epi32(plane, sum));
    }
  }
}

void DotWide(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums, int tokens,
             int32_t* acc) {
  switch (tokens) {
    case 1:
      return DotWideTokens<1, 4>(block, columns, q, stride, sums, acc);
    case 2:
      return DotWideTokens<2, 2>(block, columns, q, stride, sums, acc);
    case 3:
      return DotWideTokens<3, 2>(block, columns, q, stride, sums, acc);
    case 4:
      return DotWideTokens<4, 1>(block, columns, q, stride, sums, acc);
    case 5:
      return DotWideTokens<5, 1>(block, columns, q, stride, sums, acc);
    default:
      return DotWideTokens<6, 1>(block, columns, q, stride, sums, acc);
  }
}

// A vector holds four groups of columns of the four lanes, so the activations differ by 128-bit quarter.
template <int kTokens>
void DotNarrowTokens(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                     int32_t* out) {
  const __m512i quarters = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  __m512i acc[kTokens][4] = {};
  for (int64_t k = 0; k < columns; k += 16) {
    const Masked w = Mask(block + k * 4);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + t * stride + k));
      DotPrefixes(acc[t], w.w3, w.w15, w.w63, w.all, _mm512_permutexvar_epi32(quarters, _mm512_castsi128_si512(x)));
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    __m128i prefix[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(acc[t][p]), _mm512_extracti64x4_epi64(acc[t][p], 1));
      prefix[p] = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    }
    const __m128i sum = _mm_set1_epi32(sums[t]);
    int32_t* rows = out + t * kWideRows;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(rows), _mm_sub_epi32(prefix[0], sum));
#pragma GCC unroll 4
    for (int p = 1; p < 4; ++p) {
      const __m128i plane = _mm_srai_epi32(_mm_sub_epi32(prefix[p], prefix[p - 1]), 2 * p);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(rows + 4 * p), _mm_sub_epi32(plane, sum));
    }
  }
}

void DotWholeNarrow(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                    int tokens, int32_t* acc) {
  switch (tokens) {
    case 1:
      return DotNarrowTokens<1>(block, columns, q, stride, sums, acc);
    case 2:
      return DotNarrowTokens<2>(block, columns, q, stride, sums, acc);
    case 3:
      return DotNarrowTokens<3>(block, columns, q, stride, sums, acc);
    case 4:
      return DotNarrowTokens<4>(block, columns, q, stride, sums, acc);
    case 5:
      return DotNarrowTokens<5>(block, columns, q, stride, sums, acc);
    default:
      return DotNarrowTokens<6>(block, columns, q, stride, sums, acc);
  }
}

// Less than a vector at the end of the columns is filled up with zeros and added on its own. In the loop above it would
// make GCC spill accumulators.
void DotNarrow(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums, int tokens,
               int32_t* acc) {
  const int64_t whole = columns / 16 * 16;
  DotWholeNarrow(block, whole, q, stride, sums, tokens, acc);
  if (whole == columns) return;
  alignas(64) uint8_t last[64];
  _mm512_store_si512(last, LoadSome(block + whole * 4, (columns - whole) * 4));
  for (int t = 0; t < tokens; ++t, acc += kWideRows) {
    const int32_t no_zero_point = 0;
    alignas(64) int32_t rows[kNarrowRows];
    DotNarrowTokens<1>(last, 16, q + t * stride + whole, stride, &no_zero_point, rows);
    _mm512_storeu_si512(acc, _mm512_add_epi32(_mm512_loadu_si512(acc), _mm512_load_si512(rows)));
  }
}

// A vector holds sixteen groups of columns of the one lane.
void DotThin(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums, int tokens,
             int32_t* acc) {
  for (int t = 0; t < tokens; ++t) {
    const int8_t* x = q + t * stride;
    __m512i prefix[4] = {};
    const int64_t whole = columns / 64 * 64;
#pragma GCC unroll 2
    for (int64_t k = 0; k < whole; k += 64) {
      const Masked w = Mask(block + k);
      DotPrefixes(prefix, w.w3, w.w15, w.w63, w.all, _mm512_loadu_si512(x + k));
    }
    if (whole < columns) {
      const Masked w = Mask(LoadSome(block + whole, columns - whole));
      DotPrefixes(prefix, w.w3, w.w15, w.w63, w.all, LoadSome(x + whole, columns - whole));
    }
    // The sums of all lanes: one plane after the other within each quarter, and then the sum of the quarters.
    const auto pairs = [](__m512i a, __m512i b) {
      return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    };
    const __m512i low = pairs(prefix[0], prefix[1]), high = pairs(prefix[2], prefix[3]);
    const __m512i quarters = _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(quarters), _mm512_extracti64x4_epi64(quarters, 1));
    const __m128i planes = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    const __m128i rows = _mm_srav_epi32(_mm_sub_epi32(planes, _mm_slli_si128(planes, 4)), _mm_set_epi32(6, 4, 2, 0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(acc + t * kWideRows), _mm_sub_epi32(rows, _mm_set1_epi32(sums[t])));
  }
}

// The planes stay where they are, times 1, 4, 16 and 64, and their step is as much smaller, which changes no bit of the
// result. Activations are from 0 to 127, so they can be the unsigned side and the top plane the signed one. It needs no
// zero point then. The other planes start below zero instead.
void AddWide(const Part* parts, int64_t count, const uint8_t* down, int64_t bytes, const float* scale, int64_t d,
             int64_t columns, float* y) {
  const __m512i masks[4] = {_mm512_set1_epi8(3), _mm512_set1_epi8(12), _mm512_set1_epi8(48), _mm512_set1_epi8(-64)};
  __m512 out[4];
#pragma GCC unroll 4
  for (int p = 0; p < 4; ++p) out[p] = _mm512_loadu_ps(y + 16 * p);
  for (const Part* part = parts; part < parts + count; ++part) {
    const uint8_t* codes = down + part->tile * bytes;
    const float* scales = scale + part->tile * d;
    const __m512i zero = _mm512_setzero_si512(), start = _mm512_sub_epi32(zero, _mm512_set1_epi32(part->sum));
    __m512i acc[4] = {start, _mm512_slli_epi32(start, 2), _mm512_slli_epi32(start, 4), zero};
    for (int64_t k = 0; k < columns; k += 4) {
      int32_t four;
      std::memcpy(&four, part->q + k, 4);
      const __m512i x = _mm512_set1_epi32(four), w = _mm512_loadu_si512(codes + k * 16);
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) Dot(acc[p], x, _mm512_and_si512(w, masks[p]));
    }
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      const __m512 step = _mm512_set1_ps(part->step * (1.0f / static_cast<float>(1 << 2 * p)));
      const __m512 value =
          _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[p]), step), _mm512_loadu_ps(scales + 16 * p));
      out[p] = _mm512_add_ps(out[p], _mm512_mul_ps(value, _mm512_set1_ps(part->gate)));
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < 4; ++p) _mm512_storeu_ps(y + 16 * p, out[p]);
}

template <int kBlocks, int kTokens>
void DotInt8Tokens(const int8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                   int32_t* out) {
  constexpr int kUnroll = kBlocks * kTokens <= 4 ? 4 : 1;
  __m512i acc[kUnroll][kTokens][kBlocks] = {};
  // Adding 128 makes the weights unsigned, and adds 128 * sum to the result.
  const __m512i flip = _mm512_set1_epi8(-128);
  for (int64_t k = 0; k < columns; k += 4 * kUnroll) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
      __m512i w[kBlocks];
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) {
        w[b] = _mm512_xor_si512(_mm512_loadu_si512(block + (b * columns + k + 4 * u) * kInt8Rows), flip);
      }
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        int32_t four;
        std::memcpy(&four, q + t * stride + k + 4 * u, 4);
        const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) Dot(acc[u][t][b], w[b], x);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    const __m512i added = _mm512_set1_epi32(128 * sums[t]);
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) {
      __m512i total = acc[0][t][b];
#pragma GCC unroll 4
      for (int u = 1; u < kUnroll; ++u) total = _mm512_add_epi32(total, acc[u][t][b]);
      _mm512_storeu_si512(out + t * kWideRows + b * kInt8Rows, _mm512_sub_epi32(total, added));
    }
  }
}

template <int kBlocks>
void DotInt8Blocks(const int8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                   int tokens, int32_t* acc) {
  switch (tokens) {
    case 1:
      return DotInt8Tokens<kBlocks, 1>(block, columns, q, stride, sums, acc);
    case 2:
      return DotInt8Tokens<kBlocks, 2>(block, columns, q, stride, sums, acc);
    case 3:
      return DotInt8Tokens<kBlocks, 3>(block, columns, q, stride, sums, acc);
    case 4:
      return DotInt8Tokens<kBlocks, 4>(block, columns, q, stride, sums, acc);
    case 5:
      return DotInt8Tokens<kBlocks, 5>(block, columns, q, stride, sums, acc);
    default:
      return DotInt8Tokens<kBlocks, 6>(block, columns, q, stride, sums, acc);
  }
}

void DotInt8(const int8_t* block, int blocks, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
             int tokens, int32_t* acc) {
  if (blocks == 4) return DotInt8Blocks<4>(block, columns, q, stride, sums, tokens, acc);
  for (int b = 0; b < blocks; ++b) {
    DotInt8Blocks<1>(block + b * columns * kInt8Rows, columns, q, stride, sums, tokens, acc + b * kInt8Rows);
  }
}

// `Quantise` of elementwise.h in intrinsics, because it is a tenth of the work for matrices with few rows.
void QuantiseRow(const float* x, int64_t columns, int64_t padded, int8_t* q, float* step, int32_t* sum) {
  const auto magnitudes = [x](int64_t k, __mmask16 mask) {
    return _mm512_and_si512(_mm512_maskz_loadu_epi32(mask, x + k), _mm512_set1_epi32(0x7fffffff));
  };
  const int64_t whole = columns / 64 * 64;
  const auto remaining = [columns](int64_t k) {
    return static_cast<__mmask16>(columns - k >= 16 ? 0xffff : (1 << (columns - k)) - 1);
  };
  __m512i largest[4] = {};
  for (int64_t k = 0; k < whole; k += 64) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) largest[u] = _mm512_max_epi32(largest[u], magnitudes(k + 16 * u, 0xffff));
  }
  for (int64_t k = whole; k < columns; k += 16) {
    largest[0] = _mm512_max_epi32(largest[0], magnitudes(k, remaining(k)));
  }
  const __m512i two[2] = {_mm512_max_epi32(largest[0], largest[1]), _mm512_max_epi32(largest[2], largest[3])};
  const Scaling scaling = ScalingOf(_mm512_reduce_max_epi32(_mm512_max_epi32(two[0], two[1])));
  *step = scaling.step;
  *sum = 0;
  if (!scaling.usable) {
    std::memset(q, 0, static_cast<size_t>(padded));
    return;
  }
  const __m512 factor = _mm512_set1_ps(scaling.factor);
  const auto rounded = [x, factor](int64_t k, __mmask16 mask) {
    return _mm512_cvt_roundps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + k), factor),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  };
  // Packing works within 128-bit quarters, so quarters of the four vectors end up next to each other.
  const __m512i in_order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  __m512i total = _mm512_setzero_si512();
  for (int64_t k = 0; k < whole; k += 64) {
    const __m512i low = _mm512_packs_epi32(rounded(k, 0xffff), rounded(k + 16, 0xffff));
    const __m512i high = _mm512_packs_epi32(rounded(k + 32, 0xffff), rounded(k + 48, 0xffff));
    const __m512i bytes = _mm512_permutexvar_epi32(in_order, _mm512_packs_epi16(low, high));
    _mm512_storeu_si512(q + k, bytes);
    Dot(total, _mm512_set1_epi8(1), bytes);
  }
  for (int64_t k = whole; k < padded; k += 16) {
    const __m512i values = rounded(k, k < columns ? remaining(k) : 0);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + k), _mm512_cvtepi32_epi8(values));
    total = _mm512_add_epi32(total, values);
  }
  *sum = _mm512_reduce_add_epi32(total);
}

uint64_t ReadWords(const uint64_t* words, int64_t count) {
  constexpr int kSums = 8;
  __m512i sums[kSums] = {};
  for (int64_t i = 0; i + 8 * kSums <= count; i += 8 * kSums) {
#pragma GCC unroll 8
    for (int j = 0; j < kSums; ++j) sums[j] = _mm512_or_si512(sums[j], _mm512_loadu_si512(words + i + 8 * j));
  }
#pragma GCC unroll 8
  for (int j = 1; j < kSums; ++j) sums[0] = _mm512_or_si512(sums[0], sums[j]);
  return static_cast<uint64_t>(_mm512_reduce_or_epi64(sums[0]));
}

constexpr Elementwise kByHand = [] {
  Elementwise loops = kElementwise;
  loops.quantise = QuantiseRow;
  loops.read = ReadWords;
  return loops;
}();

int64_t Peak(int64_t rounds) {
  constexpr int kSums = 16;
  __m512i sums[kSums] = {};
  const __m512i one = _mm512_set1_epi8(1);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) Dot(sums[i], one, one);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) asm volatile("" ::"v"(sums[i]));  // Otherwise they are unused.
  return rounds * kSums * 64;
}

}  // namespace

extern const Path kAvx512Vnni = {
    .name = "avx512_vnni",
    .supported = CpuHasAvx512Vnni,
    .macs_per_ns = 84,
    .panel = 6,
    .dot_wide = DotWide,
    .dot_narrow = DotNarrow,
    .dot_thin = DotThin,
    .add_wide = AddWide,
    .dot_int8 = DotInt8,
    .elementwise = &kByHand,
    .peak = Peak,
};

}  // namespace trix
