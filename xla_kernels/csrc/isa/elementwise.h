// Element-wise loops, included by one file per instruction set and vectorised by the compiler for it. Everything is in
// an anonymous namespace: a function compiled for AVX-512 must never be the one copy that the linker keeps.
#pragma once

#include "isa/attention_loops.h"
#include "isa/drawing.h"
#include "isa/int8_attention_loops.h"
#include "isa/normalisation.h"
#include "isa/quantisation.h"
#include "isa/selection.h"
#include "path.h"

namespace trix {
namespace {

void Quantise(const float* __restrict x, int64_t columns, int64_t padded, int8_t* __restrict q, float* step,
              int32_t* sum) {
  int32_t largest = 0;
  for (int64_t k = 0; k < columns; ++k) largest = Larger(largest, Magnitude(x[k]));
  const Scaling scaling = ScalingOf(largest);
  *step = scaling.step;
  int32_t total = 0;
  if (scaling.usable) {
    for (int64_t k = 0; k < columns; ++k) {
      const int32_t value = Rounded(x[k] * scaling.factor);
      q[k] = static_cast<int8_t>(value);
      total += value;
    }
  }
  *sum = total;
  const int64_t written = scaling.usable ? columns : 0;
  if (written != padded) std::memset(q + written, 0, static_cast<size_t>(padded - written));
}

inline float Rescaled(int32_t acc, float step, float scale) { return (static_cast<float>(acc) * step) * scale; }

inline float Relu(float value) { return value < 0.0f ? 0.0f : value; }  // NaN stays NaN.

// The loops are separate from the functions, so that the constant count of most blocks unrolls them.
[[gnu::always_inline]] inline void RescaleLoop(const int32_t* __restrict acc, float step, const float* __restrict scale,
                                               float gate, int64_t count, float* __restrict y) {
  for (int64_t i = 0; i < count; ++i) y[i] = Rescaled(acc[i], step, scale[i]) * gate;
}

[[gnu::always_inline]] inline void RescaleAddLoop(const int32_t* __restrict acc, float step,
                                                  const float* __restrict scale, float gate, int64_t count,
                                                  float* __restrict y) {
  for (int64_t i = 0; i < count; ++i) y[i] += Rescaled(acc[i], step, scale[i]) * gate;
}

template <bool kSquared>
[[gnu::always_inline]] inline void RescaleReluLoop(const int32_t* __restrict acc, float step,
                                                   const float* __restrict scale, int64_t count, float* __restrict y) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = Relu(Rescaled(acc[i], step, scale[i]));
    y[i] = kSquared ? value * value : value;
  }
}

void Rescale(const int32_t* acc, float step, const float* scale, float gate, int64_t count, float* y) {
  if (count == kWideRows) return RescaleLoop(acc, step, scale, gate, kWideRows, y);
  RescaleLoop(acc, step, scale, gate, count, y);
}

void RescaleAdd(const int32_t* acc, float step, const float* scale, float gate, int64_t count, float* y) {
  if (count == kWideRows) return RescaleAddLoop(acc, step, scale, gate, kWideRows, y);
  RescaleAddLoop(acc, step, scale, gate, count, y);
}

void RescaleRelu(const int32_t* acc, float step, const float* scale, bool squared, int64_t count, float* y) {
  if (squared) {
    if (count == kWideRows) return RescaleReluLoop<true>(acc, step, scale, kWideRows, y);
    return RescaleReluLoop<true>(acc, step, scale, count, y);
  }
  RescaleReluLoop<false>(acc, step, scale, count, y);
}

// Four hidden units of a tile. The compiler would not find that a tile's few units fill a vector.
typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t IntQuad __attribute__((vector_size(16), aligned(4), may_alias));
typedef int8_t ByteQuad __attribute__((vector_size(4)));

inline int32_t MaxOf(const IntQuad& quad) {
  const IntQuad swapped = __builtin_shufflevector(quad, quad, 2, 3, 0, 1);
  const IntQuad two = quad > swapped ? quad : swapped;
  return two[0] > two[1] ? two[0] : two[1];
}

// Turns the sums of some tiles into hidden units in place, with zeros from h on, and finds the largest of each tile.
template <bool kSquared>
[[gnu::always_inline]] inline void HiddenLoop(int32_t* acc, float step, const float* scale, int64_t h, int64_t count,
                                              const Part* parts, int32_t* largest) {
  for (int64_t i = 0; i < count; ++i) {
    const float* own_scale = scale + parts[i].tile * h;
    IntQuad most = {};
    for (int64_t j = 0; j < h; j += 4, acc += 4) {
      Quad scales = {};
      if (j + 4 <= h) {
        scales = *reinterpret_cast<const Quad*>(own_scale + j);
      } else {
        std::memcpy(&scales, own_scale + j, static_cast<size_t>(h - j) * sizeof(float));
      }
      Quad value = (__builtin_convertvector(*reinterpret_cast<const IntQuad*>(acc), Quad) * step) * scales;
      value = value < 0.0f ? Quad{} : value;
      if (kSquared) value = value * value;
      *reinterpret_cast<Quad*>(acc) = value;
      const IntQuad magnitude = reinterpret_cast<const IntQuad&>(value) & 0x7fffffff;
      most = magnitude > most ? magnitude : most;
    }
    largest[i] = MaxOf(most);
  }
}

// `ScalingOf` of many rows, without branches. `factors` is 0 where a row's activations are all 0.
inline void ScalingsOf(const int32_t* __restrict largest, int64_t count, float* __restrict factors,
                       float* __restrict steps) {
  for (int64_t i = 0; i < count; ++i) {
    float a;
    std::memcpy(&a, largest + i, sizeof(a));
    const bool finite = largest[i] < 0x7f800000, usable = finite && a >= kTiny;
    const float factor = kInt8Max / a, step = a * (1.0f / kInt8Max);
    factors[i] = usable ? factor : 0.0f;
    steps[i] = usable ? step : finite ? 0.0f : __builtin_nanf("");
  }
}

void QuantiseTiles(int32_t* acc, float step, const float* scale, bool squared, int64_t h, int64_t count, int8_t* q,
                   int32_t* work, Part* parts) {
  int32_t* largest = work;
  float *factors = reinterpret_cast<float*>(work + count), *steps = factors + count;
  if (squared) {
    HiddenLoop<true>(acc, step, scale, h, count, parts, largest);
  } else {
    HiddenLoop<false>(acc, step, scale, h, count, parts, largest);
  }
  ScalingsOf(largest, count, factors, steps);
  const int64_t stride = PaddedInt8(h);
  for (int64_t i = 0; i < count; ++i) {
    int8_t* row = q + i * stride;
    std::memset(row + stride - kInt8Rows, 0, kInt8Rows);
    const int32_t usable = factors[i] > 0.0f ? -1 : 0;
    IntQuad total = {};
    for (int64_t j = 0; j < h; j += 4, acc += 4) {
      const Quad rounded = *reinterpret_cast<const Quad*>(acc) * factors[i] + kRounder;
      const IntQuad value = (reinterpret_cast<const IntQuad&>(rounded) - kRounderBits) & usable;
      const ByteQuad bytes = __builtin_convertvector(value, ByteQuad);
      std::memcpy(row + j, &bytes, sizeof(bytes));
      total += value;
    }
    parts[i].q = row;
    parts[i].step = steps[i];
    parts[i].sum = (total[0] + total[1]) + (total[2] + total[3]);
  }
}

uint64_t Read(const uint64_t* words, int64_t count) {
  constexpr int kSums = 64;  // Enough independent sums for the vectors of any instruction set.
  uint64_t sums[kSums] = {};
  for (int64_t i = 0; i + kSums <= count; i += kSums) {
    for (int j = 0; j < kSums; ++j) sums[j] |= words[i + j];
  }
  uint64_t all = 0;
  for (uint64_t sum : sums) all |= sum;
  return all;
}

constexpr Elementwise kElementwise = {
    .quantise = Quantise,
    .quantise_tiles = QuantiseTiles,
    .rescale = Rescale,
    .rescale_add = RescaleAdd,
    .rescale_relu = RescaleRelu,
    .normalise = Normalise,
    .attend = Attend,
    .weigh = Weigh,
    .join_digits = JoinDigits,
    .find_best = FindBest,
    .draw = Draw,
    .read = Read,
};

}  // namespace
}  // namespace trix
