// Plain C++, for any CPU. Every path with the baseline instruction set also uses its element-wise loops.
#include "isa/portable.h"

#include <algorithm>

#include "isa/elementwise.h"

namespace trix {

const Elementwise kBaselineElementwise = kElementwise;

namespace {

template <int kRows>
void Dot(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums, int tokens,
         int32_t* acc) {
  constexpr int kLanes = kRows / 4;
  for (int t = 0; t < tokens; ++t) {
    const int8_t* x = q + t * stride;
    int32_t* out = acc + t * kWideRows;
    for (int r = 0; r < kRows; ++r) out[r] = -sums[t];
    for (int64_t k = 0; k < columns; ++k) {
      const uint8_t* lane = block + (k / 4) * kRows + k % 4;
      const int32_t activation = x[k];
      for (int l = 0; l < kLanes; ++l) {
        const int32_t byte = lane[4 * l] + 64;  // Makes the top plane unsigned, like the others.
        for (int p = 0; p < 4; ++p) out[p * kLanes + l] += (byte >> (2 * p) & 3) * activation;
      }
    }
  }
}

void DotInt8(const int8_t* block, int blocks, int64_t columns, const int8_t* q, int64_t stride, const int32_t*,
             int tokens, int32_t* acc) {
  for (int t = 0; t < tokens; ++t) {
    for (int b = 0; b < blocks; ++b) {
      int32_t* out = acc + t * kWideRows + b * kInt8Rows;
      std::fill(out, out + kInt8Rows, 0);
      for (int64_t k = 0; k < columns; ++k) {
        const int8_t* lane = block + b * columns * kInt8Rows + (k / 4) * 4 * kInt8Rows + k % 4;
        const int32_t activation = q[t * stride + k];
        for (int l = 0; l < kInt8Rows; ++l) out[l] += lane[4 * l] * activation;
      }
    }
  }
}

int64_t Peak(int64_t rounds) {
  constexpr int kSums = 64;
  int32_t sums[kSums] = {}, factors[kSums];
  for (int i = 0; i < kSums; ++i) factors[i] = i;
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kSums; ++i) sums[i] += factors[i] * static_cast<int8_t>(r);
  }
  for (int sum : sums) asm volatile("" ::"r"(sum));
  return rounds * kSums;
}

}  // namespace

extern const Path kPortable = {
    .name = "portable",
    .supported = [] { return true; },
    .macs_per_ns = 2,
    .panel = 8,
    .dot_wide = Dot<kWideRows>,
    .dot_narrow = Dot<kNarrowRows>,
    .dot_thin = Dot<kThinRows>,
    .add_wide = nullptr,
    .dot_int8 = DotInt8,
    .elementwise = &kBaselineElementwise,
    .peak = Peak,
};

}  // namespace trix
