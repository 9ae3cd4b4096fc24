// Attention over a cache of keys and values, for tokens that follow those in the cache.
#include "ops/operations.h"
#include "ops/panels.h"

namespace trix {

void CachedAttention(const Pool& pool, const float* q, const float* k, const float* v, const int32_t* position,
                     const CacheShape& shape, float* keys, float* values, float* out) {
  const Path& path = ActivePath();
  const int64_t rows = shape.batch * shape.heads, width = shape.width, slots = shape.slots;
  const int64_t macs = 2 * rows * shape.length * slots * width;
  ParallelFor(PoolFor(pool, macs), rows, [&](int64_t row) {
    const int64_t b = row / shape.heads, head = row % shape.heads, first = position[b];
    float* own_keys = keys + row * width * slots;
    float* own_values = values + row * width * slots;
    // Token l of this head in q, k, v and out.
    const auto at = [&](int64_t l) { return ((b * shape.length + l) * shape.heads + head) * width; };
    for (int64_t l = 0; l < shape.length; ++l) {
      const int64_t slot = first + l, block = slot / kCacheMultiple;
      float* key = own_keys + block * width * kCacheMultiple + slot % kCacheMultiple;
      for (int64_t w = 0; w < width; ++w) key[w * kCacheMultiple] = k[at(l) + w];
      std::memcpy(own_values + (first + l) * width, v + at(l), static_cast<size_t>(width) * sizeof(float));
    }
    thread_local Scratch scratch;
    const int64_t floats = kQueries * (slots + width);
    float* weights = reinterpret_cast<float*>(scratch.Bytes(static_cast<size_t>(floats) * sizeof(float)));
    float* scaled = weights + kQueries * slots;
    for (int64_t l = 0; l < shape.length; l += kQueries) {
      const int count = static_cast<int>(std::min<int64_t>(kQueries, shape.length - l));
      for (int i = 0; i < count; ++i) {
        for (int64_t w = 0; w < width; ++w) scaled[i * width + w] = q[at(l + i) + w] * shape.scale;
      }
      path.elementwise->attend(scaled, count, own_keys, own_values, first + l + 1, slots, width, weights, out + at(l),
                               shape.heads * width);
    }
  });
}

}  // namespace trix
