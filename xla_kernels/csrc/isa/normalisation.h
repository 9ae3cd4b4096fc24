// Normalisation of one row. One file per instruction set includes it: see `elementwise.h`.
//
// Sums have the order of `lanes.h`, so a row gets the same bits on every path and beside any other rows.
#pragma once

#include <cstring>

#include "isa/lanes.h"

namespace trix {
namespace {

// Adds term(value) of all values, sixteen partial sums at a time. `term` changes a vector in place.
template <typename Term>
[[gnu::always_inline]] inline float SumOver(const float* values, int64_t count, const Term& term) {
  Lanes sums = {};
  int64_t i = 0;
  const auto add = [&](Lanes& lanes) __attribute__((always_inline)) {
    for (Vector& part : lanes.parts) term(part);
    Add(lanes, sums);
  };
  for (; i + kLanes <= count; i += kLanes) {
    Lanes lanes;
    Load(values + i, lanes);
    add(lanes);
  }
  float total = 0.0f;
  for (; i < count; ++i) {  // Few, and in order.
    Vector one = {values[i]};
    term(one);
    total += one[0];
  }
  return SumOf(sums) + total;
}

void Normalise(const float* x, const float* y, int64_t columns, const float* scale, const float* bias, float epsilon,
               float* sum, float* out) {
  if (y != nullptr) {
    for (int64_t i = 0; i < columns; ++i) sum[i] = x[i] + y[i];
    x = sum;
  } else if (sum != nullptr && sum != x) {
    std::memcpy(sum, x, sizeof(float) * static_cast<size_t>(columns));
  }
  const auto count = static_cast<float>(columns);
  float mean = 0.0f;
  if (bias != nullptr) mean = SumOver(x, columns, [](Vector&) __attribute__((always_inline)) {}) / count;
  const float square = SumOver(x, columns, [mean](Vector& part) __attribute__((always_inline)) {
    part -= mean;
    part *= part;
  });
  const float factor = 1.0f / __builtin_sqrtf(square / count + epsilon);
  if (bias != nullptr) {
    for (int64_t i = 0; i < columns; ++i) out[i] = (x[i] - mean) * (factor * scale[i]) + bias[i];
  } else if (scale != nullptr) {
    for (int64_t i = 0; i < columns; ++i) out[i] = x[i] * (factor * scale[i]);
  } else {
    for (int64_t i = 0; i < columns; ++i) out[i] = x[i] * factor;
  }
}

}  // namespace
}  // namespace trix
