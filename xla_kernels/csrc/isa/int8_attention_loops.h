// What attention over an int8 cache does beside its integer products. One file per instruction set includes it: see
// `elementwise.h`.
#pragma once

#include <cstring>

#include "isa/attention_loops.h"
#include "isa/quantisation.h"

namespace trix {
namespace {

// A weight has two digits of seven bits, so that each is an int8 activation of a product.
constexpr int kDigitBits = 7, kDigit = 1 << kDigitBits;

float Weigh(float* scores, const float* scale, int64_t length, int64_t end, int8_t* high, int8_t* low, int32_t* sums) {
  const float normaliser = Softmax(scores, length);
  int32_t largest = 0;
  for (int64_t s = 0; s < length; ++s) {
    scores[s] *= scale[s];
    largest = Larger(largest, Magnitude(scores[s]));
  }
  const Scaling scaling = ScalingOf<kDigit * kDigit - 1>(largest);
  const int64_t written = scaling.usable ? length : 0;
  int32_t high_sum = 0, low_sum = 0;
  for (int64_t s = 0; s < written; ++s) {
    const int32_t value = Rounded(scores[s] * scaling.factor);
    const int32_t upper = value >> kDigitBits, lower = value & (kDigit - 1);
    high[s] = static_cast<int8_t>(upper);
    low[s] = static_cast<int8_t>(lower);
    high_sum += upper;
    low_sum += lower;
  }
  for (int8_t* digits : {high, low}) std::memset(digits + written, 0, static_cast<size_t>(end - written));
  sums[0] = high_sum;
  sums[1] = low_sum;
  return scaling.step * normaliser;
}

void JoinDigits(const int32_t* high, const int32_t* low, float unit, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) {
    y[i] = (static_cast<float>(high[i]) * kDigit + static_cast<float>(low[i])) * unit;
  }
}

}  // namespace
}  // namespace trix
