// The greatest of many values in order, without branches that depend on them. One file per instruction set includes
// it: see `elementwise.h`.
#pragma once

#include <cstring>

#include "path.h"

namespace trix {
namespace {

// An integer in the order of the floats. -0 becomes 0.
inline int32_t Ordered(float value) {
  value += 0.0f;
  int32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

inline int32_t CountFrom(const int32_t* __restrict values, int64_t count, int32_t least) {
  int32_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += values[i] >= least;
  return total;
}

// The greatest bound that at least `top_k` values reach: the value at that rank.
inline int32_t BoundOf(const int32_t* __restrict values, int64_t count, int64_t top_k) {
  int32_t least = values[0], most = values[0];
  for (int64_t i = 0; i < count; ++i) {
    least = values[i] < least ? values[i] : least;
    most = values[i] > most ? values[i] : most;
  }
  while (least < most) {
    const auto middle = static_cast<int32_t>(most - (int64_t{most} - least) / 2);
    const int64_t reached = CountFrom(values, count, middle);
    if (reached >= top_k) {
      least = middle;
      if (reached == top_k) break;
    } else {
      most = middle - 1;
    }
  }
  return least;
}
void FindBest(const float* values, int64_t count, int64_t top_k, int32_t* work, int32_t* place) {
  int32_t *value = work, *found = work + count;
  for (int64_t i = 0; i < count; ++i) value[i] = Ordered(values[i]);
  const int32_t bound = BoundOf(value, count, top_k);
  // Keep those above the bound, and of those that equal it the first ones. `value` is compacted in place.
  int64_t kept = 0, equal = top_k - CountFrom(value, count, bound + 1);
  for (int64_t i = 0; kept < top_k; ++i) {
    const int32_t own = value[i];
    const bool same = own == bound;
    found[kept] = static_cast<int32_t>(i);
    value[kept] = own;
    kept += (own > bound) | (same & (equal > 0));
    equal -= same;
  }
  // A value's rank is the number of greater ones and of equal ones before it.
  for (int32_t i = 0; i < top_k; ++i) {
    const int32_t own = value[i];
    int32_t rank = 0;
    for (int32_t j = 0; j < top_k; ++j) rank += (value[j] > own) | ((value[j] == own) & (j < i));
    place[rank] = found[i];
  }
}

}  // namespace
}  // namespace trix
