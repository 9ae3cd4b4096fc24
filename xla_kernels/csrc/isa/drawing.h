// A draw from the softmax of one row. One file per instruction set includes it: see `elementwise.h`.
#pragma once

#include <cmath>

#include "isa/lanes.h"
#include "isa/selection.h"

namespace trix {
namespace {

static_assert(kDrawMultiple % kLanes == 0);

int32_t FirstOfHighest(const float* values, int64_t count) {
  int32_t best = 0;
  for (int64_t i = 1; i < count; ++i) best = values[i] > values[best] ? static_cast<int32_t>(i) : best;
  return best;
}

int32_t Draw(const float* logits, int64_t count, float uniform, float temperature, int64_t top_k, void* work) {
  const int32_t best = FirstOfHighest(logits, count);
  if (temperature == 0.0f) return best;
  int32_t bound = INT32_MIN;
  if (top_k < count) {
    auto* ordered = static_cast<int32_t*>(work);
    for (int64_t i = 0; i < count; ++i) ordered[i] = Ordered(logits[i]);
    bound = BoundOf(ordered, count, top_k);
  }
  auto* weights = static_cast<float*>(work);
  const int64_t padded = RoundUp(count, kDrawMultiple);
  for (int64_t i = 0; i < padded; ++i) {
    const bool kept = i < count && Ordered(logits[i]) >= bound;
    weights[i] = kept ? (logits[i] - logits[best]) / temperature : -INFINITY;
  }
  Exponentials(0.0f, padded, weights);
  // In double, and both times in one order: in float32 the many small weights of a large vocabulary would be lost.
  double total = 0.0, sum = 0.0;
  for (int64_t i = 0; i < count; ++i) total += weights[i];
  const double target = uniform * total;
  int32_t drawn = best;
  for (int64_t i = 0; i < count; ++i) {
    if (weights[i] > 0.0f) drawn = static_cast<int32_t>(i);
    sum += weights[i];
    if (sum > target) break;
  }
  return drawn;
}

}  // namespace
}  // namespace trix
