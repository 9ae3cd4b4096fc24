// Attention of some queries of one head over a cache. One file per instruction set includes it: see `elementwise.h`.
//
// A query's result depends on its own tokens alone. Its sums are added in one order, whatever other queries there are.
#pragma once

#include <cstring>
#include <limits>

#include "isa/lanes.h"
#include "path.h"

namespace trix {
namespace {

static_assert(kLanes == kCacheMultiple);

// Independent sums of one query. They run side by side, because each addition to a sum waits for the one before.
constexpr int kSideBySide = 4;

// scores[i * slots + s] = sum_w q[i * width + w] * (key of slot s)[w], for kBlocks blocks of kLanes slots.
template <int kCount, int kBlocks>
[[gnu::always_inline]] inline void ScoresOf(const float* q, const float* keys, int64_t slots, int64_t width,
                                            float* scores) {
  Lanes sums[kCount][kBlocks] = {};
  for (int64_t w = 0; w < width; ++w) {
    for (int b = 0; b < kBlocks; ++b) {
      Lanes key;
      Load(keys + (b * width + w) * kLanes, key);
      for (int i = 0; i < kCount; ++i) AddProduct(key, q[i * width + w], sums[i][b]);
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int b = 0; b < kBlocks; ++b) Store(sums[i][b], scores + i * slots + b * kLanes);
  }
}

// Turns the first `length` scores into exp(score - highest), and the rest up to a multiple of kLanes into zeros.
// Returns the factor that makes them sum to 1.
inline float Softmax(float* scores, int64_t length) {
  const int64_t end = RoundUp(length, kLanes);
  for (int64_t s = length; s < end; ++s) scores[s] = -std::numeric_limits<float>::infinity();
  Lanes largest;
  Load(scores, largest);
  for (int64_t s = kLanes; s < end; s += kLanes) {
    Lanes lanes;
    Load(scores + s, lanes);
    Max(lanes, largest);
  }
  return 1.0f / Exponentials(MaxOf(largest), end, scores);
}

// out[i * stride ..] = factors[i] * sum_s weights[i * slots + s] * values[s * width ..], for kBlocks * kLanes columns,
// or for `columns` < kLanes of them where kBlocks is 0, and the first length + i slots.
template <int kCount, int kBlocks>
[[gnu::always_inline]] inline void WeightedValues(const float* weights, const float* factors, int64_t length,
                                                  int64_t slots, const float* values, int64_t width, int64_t columns,
                                                  float* out, int64_t stride) {
  constexpr int kRow = kBlocks == 0 ? 1 : kBlocks;
  const size_t bytes = sizeof(float) * static_cast<size_t>(columns);
  Lanes sums[kCount][kSideBySide][kRow] = {};
  const auto row_of = [&](int64_t s, Lanes* row) __attribute__((always_inline)) {
    if constexpr (kBlocks == 0) {
      *row = {};
      std::memcpy(row, values + s * width, bytes);
    } else {
      for (int b = 0; b < kBlocks; ++b) Load(values + s * width + b * kLanes, row[b]);
    }
  };
  int64_t s = 0;
  for (; s + kSideBySide <= length; s += kSideBySide) {
    for (int j = 0; j < kSideBySide; ++j) {
      Lanes row[kRow];
      row_of(s + j, row);
      for (int i = 0; i < kCount; ++i) {
        for (int b = 0; b < kRow; ++b) AddProduct(row[b], weights[i * slots + s + j], sums[i][j][b]);
      }
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int64_t rest = s; rest < length + i; ++rest) {
      Lanes row[kRow];
      row_of(rest, row);
      for (int b = 0; b < kRow; ++b) AddProduct(row[b], weights[i * slots + rest], sums[i][rest % kSideBySide][b]);
    }
    for (int b = 0; b < kRow; ++b) {
      auto& own = sums[i];
      Add(own[1][b], own[0][b]);
      Add(own[3][b], own[2][b]);
      Add(own[2][b], own[0][b]);
      Scale(factors[i], own[0][b]);
      if constexpr (kBlocks == 0) {
        std::memcpy(out + i * stride, &own[0][b], bytes);
      } else {
        Store(own[0][b], out + i * stride + b * kLanes);
      }
    }
  }
}

template <int kCount>
inline void AttendSome(const float* q, const float* keys, const float* values, int64_t length, int64_t slots,
                       int64_t width, float* weights, float* out, int64_t stride) {
  // Many queries have fewer sums each, so that all sums stay in registers.
  constexpr int kBlocks = kCount == 1 ? kSideBySide : 2;
  const int64_t longest = length + kCount - 1;
  int64_t s = 0;
  for (; s + kBlocks * kLanes <= longest; s += kBlocks * kLanes) {
    ScoresOf<kCount, kBlocks>(q, keys + s * width, slots, width, weights + s);
  }
  for (; s < longest; s += kLanes) ScoresOf<kCount, 1>(q, keys + s * width, slots, width, weights + s);
  float factors[kCount];
  for (int i = 0; i < kCount; ++i) factors[i] = Softmax(weights + i * slots, length + i);
  constexpr int kColumns = kCount == 1 ? 2 : 1;
  const auto of_columns = [&]<int kColumnsHere>(int64_t w) {
    WeightedValues<kCount, kColumnsHere>(weights, factors, length, slots, values + w, width, width - w, out + w,
                                         stride);
  };
  int64_t w = 0;
  for (; w + kColumns * kLanes <= width; w += kColumns * kLanes) of_columns.template operator()<kColumns>(w);
  for (; w + kLanes <= width; w += kLanes) of_columns.template operator()<1>(w);
  if (w < width) of_columns.template operator()<0>(w);
}

void Attend(const float* q, int count, const float* keys, const float* values, int64_t length, int64_t slots,
            int64_t width, float* weights, float* out, int64_t stride) {
  int i = 0;
  for (; i + kQueries <= count; i += kQueries) {
    AttendSome<kQueries>(q + i * width, keys, values, length + i, slots, width, weights, out + i * stride, stride);
  }
  for (; i < count; ++i) {
    AttendSome<1>(q + i * width, keys, values, length + i, slots, width, weights, out + i * stride, stride);
  }
}

}  // namespace
}  // namespace trix
