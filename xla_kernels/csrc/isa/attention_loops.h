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

// scores[i * slots + s] = sum_w q[i * width + w] * (key of slot s)[w], for kVectors blocks of kLanes slots.
template <int kCount, int kVectors>
[[gnu::always_inline]] inline void ScoresOf(const float* q, const float* keys, int64_t slots, int64_t width,
                                            float* scores) {
  Lanes sums[kCount][kVectors] = {};
  for (int64_t w = 0; w < width; ++w) {
    for (int v = 0; v < kVectors; ++v) {
      const Lanes& key = At(keys + (v * width + w) * kLanes);
      for (int i = 0; i < kCount; ++i) sums[i][v] += key * q[i * width + w];
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int v = 0; v < kVectors; ++v) At(scores + i * slots + v * kLanes) = sums[i][v];
  }
}

// Turns the first `length` scores into exp(score - highest), and the rest up to a multiple of kLanes into zeros.
// Returns the factor that makes them sum to 1.
inline float Softmax(float* scores, int64_t length) {
  const int64_t end = RoundUp(length, kLanes);
  for (int64_t s = length; s < end; ++s) scores[s] = -std::numeric_limits<float>::infinity();
  Lanes largest = At(scores);
  for (int64_t s = kLanes; s < end; s += kLanes) largest = At(scores + s) > largest ? At(scores + s) : largest;
  const float highest = MaxOf(largest);
  Lanes sums = {};
  for (int64_t s = 0; s < end; s += kLanes) {
    Lanes weight = At(scores + s) - highest;
    ExpOfNegative(weight);
    At(scores + s) = weight;
    sums += weight;
  }
  return 1.0f / SumOf(sums);
}

// out[i * stride ..] = factors[i] * sum_s weights[i * slots + s] * values[s * width ..], for kChunks * kLanes columns,
// or for `columns` < kLanes of them where kChunks is 0, and the first length + i slots.
template <int kCount, int kChunks>
[[gnu::always_inline]] inline void WeightedValues(const float* weights, const float* factors, int64_t length,
                                                  int64_t slots, const float* values, int64_t width, int64_t columns,
                                                  float* out, int64_t stride) {
  constexpr int kVectors = kChunks == 0 ? 1 : kChunks;
  const size_t bytes = sizeof(float) * static_cast<size_t>(columns);
  Lanes sums[kCount][kSideBySide][kVectors] = {};
  const auto row_of = [&](int64_t s, Lanes* row) __attribute__((always_inline)) {
    if constexpr (kChunks == 0) {
      std::memcpy(row, values + s * width, bytes);
    } else {
      for (int v = 0; v < kVectors; ++v) row[v] = At(values + s * width + v * kLanes);
    }
  };
  int64_t s = 0;
  for (; s + kSideBySide <= length; s += kSideBySide) {
    for (int j = 0; j < kSideBySide; ++j) {
      Lanes row[kVectors] = {};
      row_of(s + j, row);
      for (int i = 0; i < kCount; ++i) {
        for (int v = 0; v < kVectors; ++v) sums[i][j][v] += row[v] * weights[i * slots + s + j];
      }
    }
  }
  for (int i = 0; i < kCount; ++i) {
    for (int64_t rest = s; rest < length + i; ++rest) {
      Lanes row[kVectors] = {};
      row_of(rest, row);
      for (int v = 0; v < kVectors; ++v) sums[i][rest % kSideBySide][v] += row[v] * weights[i * slots + rest];
    }
    for (int v = 0; v < kVectors; ++v) {
      const Lanes total = ((sums[i][0][v] + sums[i][1][v]) + (sums[i][2][v] + sums[i][3][v])) * factors[i];
      if constexpr (kChunks == 0) {
        std::memcpy(out + i * stride, &total, bytes);
      } else {
        At(out + i * stride + v * kLanes) = total;
      }
    }
  }
}

template <int kCount>
inline void AttendSome(const float* q, const float* keys, const float* values, int64_t length, int64_t slots,
                       int64_t width, float* weights, float* out, int64_t stride) {
  // Many queries have fewer sums each, so that all sums stay in registers.
  constexpr int kVectors = kCount == 1 ? kSideBySide : 2;
  const int64_t longest = length + kCount - 1;
  int64_t s = 0;
  for (; s + kVectors * kLanes <= longest; s += kVectors * kLanes) {
    ScoresOf<kCount, kVectors>(q, keys + s * width, slots, width, weights + s);
  }
  for (; s < longest; s += kLanes) ScoresOf<kCount, 1>(q, keys + s * width, slots, width, weights + s);
  float factors[kCount];
  for (int i = 0; i < kCount; ++i) factors[i] = Softmax(weights + i * slots, length + i);
  constexpr int kChunks = kCount == 1 ? 2 : 1;
  const auto of_columns = [&]<int kChunksHere>(int64_t w) {
    WeightedValues<kCount, kChunksHere>(weights, factors, length, slots, values + w, width, width - w, out + w, stride);
  };
  int64_t w = 0;
  for (; w + kChunks * kLanes <= width; w += kChunks * kLanes) of_columns.template operator()<kChunks>(w);
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
