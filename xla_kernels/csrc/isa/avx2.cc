// AVX2, for x86 without VNNI. `vpmaddubsw` sums pairs of products in 16 bits and saturates. The prefix of all four
// planes (170 * 127 * 2) would saturate, so each byte is split into two nibbles of two planes. Their sums are at most
// 10 * 127 * 2 = 2540. Twelve of them fit before they must be widened.
#include <immintrin.h>

#include "cpu.h"
#include "isa/elementwise.h"

namespace trix {
namespace {

constexpr int64_t kColumnsBetweenWidening = 48;  // Twelve groups of four.

// acc16[0..3]: plane 0, planes 0-1, plane 2, planes 2-3.
inline void DotNibbles(__m256i* acc16, __m256i packed, __m256i x) {
  const __m256i w = _mm256_add_epi8(packed, _mm256_set1_epi8(64));
  const __m256i low = _mm256_and_si256(w, _mm256_set1_epi8(15));
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 4), _mm256_set1_epi8(15));
  const __m256i three = _mm256_set1_epi8(3);
  acc16[0] = _mm256_add_epi16(acc16[0], _mm256_maddubs_epi16(_mm256_and_si256(low, three), x));
  acc16[1] = _mm256_add_epi16(acc16[1], _mm256_maddubs_epi16(low, x));
  acc16[2] = _mm256_add_epi16(acc16[2], _mm256_maddubs_epi16(_mm256_and_si256(high, three), x));
  acc16[3] = _mm256_add_epi16(acc16[3], _mm256_maddubs_epi16(high, x));
}

inline void Widen(__m256i* acc32, const __m256i* acc16) {
  for (int p = 0; p < 4; ++p) {
    acc32[p] = _mm256_add_epi32(acc32[p], _mm256_madd_epi16(acc16[p], _mm256_set1_epi16(1)));
  }
}

// Sums of planes 0..3 from the four accumulators, minus the zero point.
template <typename Store>
inline void Unprefix(const __m256i* acc32, int32_t sum, Store store) {
  const __m256i zero_point = _mm256_set1_epi32(sum);
  for (int p = 0; p < 4; p += 2) {
    const __m256i upper = _mm256_srai_epi32(_mm256_sub_epi32(acc32[p + 1], acc32[p]), 2);
    store(p, _mm256_sub_epi32(acc32[p], zero_point));
    store(p + 1, _mm256_sub_epi32(upper, zero_point));
  }
}

inline void DotHalf(const uint8_t* half, int64_t columns, const int8_t* x, int32_t sum, int32_t* rows) {
  __m256i acc32[4] = {};
  for (int64_t k = 0; k < columns;) {
    const int64_t end = k + kColumnsBetweenWidening < columns ? k + kColumnsBetweenWidening : columns;
    __m256i acc16[4] = {};
    for (; k < end; k += 4) {
      int32_t four;
      std::memcpy(&four, x + k, 4);
      DotNibbles(acc16, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(half + k * 16)), _mm256_set1_epi32(four));
    }
    Widen(acc32, acc16);
  }
  Unprefix(acc32, sum,
           [rows](int p, __m256i plane) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows + 16 * p), plane); });
}

void DotWide(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums, int tokens,
             int32_t* acc) {
  for (int half = 0; half < 2; ++half) {
    for (int t = 0; t < tokens; ++t) {
      DotHalf(block + 32 * half, columns, q + t * stride, sums[t], acc + t * kWideRows + 8 * half);
    }
  }
}

// A vector holds two groups of columns of the four lanes.
void DotNarrow(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums, int tokens,
               int32_t* acc) {
  const __m256i halves = _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0);
  for (int t = 0; t < tokens; ++t) {
    const int8_t* x = q + t * stride;
    __m256i acc32[4] = {};
    for (int64_t k = 0; k < columns;) {
      const int64_t end = k + kColumnsBetweenWidening < columns ? k + kColumnsBetweenWidening : columns;
      __m256i acc16[4] = {};
      for (; k < end; k += 8) {
        const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x + k));
        const auto* lanes = reinterpret_cast<const __m128i*>(block + k * 4);
        // A group of columns that has no neighbour gets zeros as its neighbour, as do the activations.
        const __m128i second = k + 4 < columns ? _mm_loadu_si128(lanes + 1) : _mm_setzero_si128();
        DotNibbles(acc16, _mm256_set_m128i(second, _mm_loadu_si128(lanes)),
                   _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(eight), halves));
      }
      Widen(acc32, acc16);
    }
    for (auto& half : acc32) half = _mm256_add_epi32(half, _mm256_permute2x128_si256(half, half, 1));
    Unprefix(acc32, sums[t], [rows = acc + t * kWideRows](int p, __m256i plane) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(rows + 4 * p), _mm256_castsi256_si128(plane));
    });
  }
}

// A vector holds eight groups of columns of the one lane.
void DotThin(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums, int tokens,
             int32_t* acc) {
  constexpr int64_t kVector = 32;
  constexpr int64_t kBetweenWidening = 8 * kColumnsBetweenWidening;
  for (int t = 0; t < tokens; ++t) {
    const int8_t* x = q + t * stride;
    __m256i acc32[4] = {};
    for (int64_t k = 0; k < columns;) {
      const int64_t end = k + kBetweenWidening < columns ? k + kBetweenWidening : columns;
      __m256i acc16[4] = {};
      for (; k + kVector <= end; k += kVector) {
        DotNibbles(acc16, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + k)),
                   _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + k)));
      }
      if (k < end) {
        const __m256i lanes = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
        const __m256i some = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>((end - k) / 4)), lanes);
        DotNibbles(acc16, _mm256_maskload_epi32(reinterpret_cast<const int*>(block + k), some),
                   _mm256_maskload_epi32(reinterpret_cast<const int*>(x + k), some));
        k = end;
      }
      Widen(acc32, acc16);
    }
    // The sums of all lanes, for each plane.
    const __m256i planes =
        _mm256_hadd_epi32(_mm256_hadd_epi32(acc32[0], acc32[1]), _mm256_hadd_epi32(acc32[2], acc32[3]));
    const __m128i prefix = _mm_add_epi32(_mm256_castsi256_si128(planes), _mm256_extracti128_si256(planes, 1));
    // Planes 1 and 3 are what is beyond planes 0 and 2, times four.
    const __m128i below = _mm_and_si128(_mm_slli_si128(prefix, 4), _mm_set_epi32(-1, 0, -1, 0));
    const __m128i rows = _mm_srav_epi32(_mm_sub_epi32(prefix, below), _mm_set_epi32(2, 0, 2, 0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(acc + t * kWideRows), _mm_sub_epi32(rows, _mm_set1_epi32(sums[t])));
  }
}

// `vpmaddubsw` multiplies unsigned by signed numbers, so the weights give their signs to the activations, of which none
// is -128. A pair of products is at most 2 * 128 * 127 = 32512, and is widened at once.
// The tokens share one reading of the weights.
template <int kTokens, int kVectors>
inline void DotInt8Some(const int8_t* block, int64_t stride_of_blocks, int64_t columns, const int8_t* x, int64_t stride,
                        int32_t* acc) {
  constexpr int kOfBlock = kInt8Rows / 8;
  __m256i sums[kTokens][kVectors] = {};
  for (int64_t k = 0; k < columns; k += 4) {
    __m256i values[kTokens];
#pragma GCC unroll 2
    for (int t = 0; t < kTokens; ++t) {
      int32_t four;
      std::memcpy(&four, x + t * stride + k, 4);
      values[t] = _mm256_set1_epi32(four);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const int8_t* lanes = block + v / kOfBlock * stride_of_blocks + k * kInt8Rows + v % kOfBlock * 32;
      const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes));
      const __m256i size = _mm256_abs_epi8(weights);
#pragma GCC unroll 2
      for (int t = 0; t < kTokens; ++t) {
        const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(values[t], weights));
        sums[t][v] = _mm256_add_epi32(sums[t][v], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + t * kWideRows + 8 * v), sums[t][v]);
    }
  }
}

template <int kTokens>
inline void DotInt8Tokens(const int8_t* block, int blocks, int64_t columns, const int8_t* x, int64_t stride,
                          int32_t* acc) {
  const int64_t size = columns * kInt8Rows;
  int b = 0;
  for (; b + 2 <= blocks; b += 2) {
    DotInt8Some<kTokens, 4>(block + b * size, size, columns, x, stride, acc + b * kInt8Rows);
  }
  if (b < blocks) DotInt8Some<kTokens, 2>(block + b * size, size, columns, x, stride, acc + b * kInt8Rows);
}

void DotInt8(const int8_t* block, int blocks, int64_t columns, const int8_t* q, int64_t stride, const int32_t*,
             int tokens, int32_t* acc) {
  int t = 0;
  for (; t + 2 <= tokens; t += 2) {
    DotInt8Tokens<2>(block, blocks, columns, q + t * stride, stride, acc + t * kWideRows);
  }
  if (t < tokens) DotInt8Tokens<1>(block, blocks, columns, q + t * stride, stride, acc + t * kWideRows);
}

// The instructions to multiply and to widen, without splitting nibbles.
int64_t Peak(int64_t rounds) {
  constexpr int kSums = 8;
  __m256i sums[kSums] = {};
  __m256i one = _mm256_set1_epi8(1);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) {
      asm("" : "+x"(one));  // This keeps the compiler from hoisting the product out of the loop.
      sums[i] = _mm256_add_epi16(sums[i], _mm256_maddubs_epi16(one, one));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kSums; ++i) asm volatile("" ::"x"(sums[i]));
  return rounds * kSums * 32;
}

}  // namespace

extern const Path kAvx2 = {
    .name = "avx2",
    .supported = CpuHasAvx2,
    .macs_per_ns = 20,
    .panel = 8,
    .dot_wide = DotWide,
    .dot_narrow = DotNarrow,
    .dot_thin = DotThin,
    .add_wide = nullptr,
    .dot_int8 = DotInt8,
    .elementwise = &kElementwise,
    .peak = Peak,
};

}  // namespace trix
