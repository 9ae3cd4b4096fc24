// The operations, on plain row-major arrays. They are independent of XLA and of the instruction set.
#pragma once

#include <cstdint>

#include "layout.h"
#include "ops/parallel.h"

namespace trix {

// acc[n, m] = sum_k q[n, k] * w[m, k]
void Accumulate(const Pool& pool, const int8_t* q, int64_t n, int64_t k, const uint8_t* packed, int64_t m,
                int32_t* acc);

// y[n, m] = (acc[n, m] * step[n]) * scales[m], acc and step of the rows of x quantised to int8.
void TernaryMatmul(const Pool& pool, const float* x, int64_t n, int64_t k, const uint8_t* packed, int64_t m,
                   const float* scales, float* y);

// The same with int8 weights.
void Int8Matmul(const Pool& pool, const float* x, int64_t n, int64_t k, const int8_t* packed, int64_t m,
                const float* scales, float* y);

struct Signatures {
  const uint8_t* packed;  // Ternary, or null
  const int8_t* tally;    // Packed int8, or null
  int64_t tiles, d;
  const float* scale;   // [tiles]
  const float* offset;  // [tiles], the balance bias in units of dot products
};

// An index over tiles. Each row scores only its candidates, the tiles of its best `probes` clusters.
struct Index {
  Signatures clusters;    // Keys of clusters; `tiles` is their number.
  const int32_t* member;  // [clusters, tiles of a cluster], the tiles that the signatures are of
  int64_t probes;
};

// The gate of a chosen tile's output. With `probability` it is the tile's part of
// softmax((dot * scale) * step * temperature) over all tiles, or over all candidates; otherwise it is 1. It is 0 where
// (first - own) * step > margin; `first` and `own` are scores dot * scale of the first tile and of this one.
struct Gating {
  bool probability;
  float temperature, margin;
};

// Finds the best `top_k` tiles of every row by (dot + offset) * scale, best first, lowest place among equals. If the
// pointers are not null, it also gives the scores dot * scale and the gates. A selection that is NaN counts as the
// least. A row that is not finite gets the first tiles and scores NaN.
//
// With an index, signatures are [clusters, tiles of a cluster] matrices, and `signatures.tiles` counts the tiles of a
// cluster. A place is then the position among the candidates in that order. Without an index (null) it is the tile.
void Route(const Pool& pool, const float* x, int64_t n, const Signatures& signatures, const Index* index, int64_t top_k,
           const Gating& gating, int32_t* tile, float* score, float* gate);

struct Tiles {
  int64_t tiles, d, h;
  const uint8_t* up;        // [tiles, PackedBytes(h, d)]
  const float* up_scale;    // [tiles, h]
  const uint8_t* down;      // [tiles, PackedBytes(d, h)]
  const float* down_scale;  // [tiles, d]
  bool squared;             // relu(x)^2 instead of relu(x)
};

// y[n] = sum_k gate[n, k] * tile_{tile[n, k]}(x[n]). It skips tiles with gate 0, except a row's first. Every tile index
// must be in range: see `FirstBadTile`.
void RoutedTileFfn(const Pool& pool, const float* x, int64_t n, const Tiles& tiles, const int32_t* tile,
                   const float* gate, int64_t top_k, float* y);

struct CacheShape {
  int64_t batch, length, heads, width, slots;  // `length` new tokens a row; room for `slots`, see kCacheMultiple.
  float scale;                                 // of the queries
};

// Causal attention of new tokens. Adds their keys and values to the cache, which holds position[b] tokens of row b.
// Each token sees itself and all tokens before it. There must be room: position[b] + length <= slots.
//   q, k, v, out  [batch, length, heads, width]
//   keys          [batch, heads, slots / kCacheMultiple, width, kCacheMultiple], to compute so many scores together
//   values        [batch, heads, slots, width]
void CachedAttention(const Pool& pool, const float* q, const float* k, const float* v, const int32_t* position,
                     const CacheShape& shape, float* keys, float* values, float* out);

// Position of the first index outside [0, tiles), or -1.
int64_t FirstBadTile(const int32_t* tile, int64_t count, int64_t tiles);

}  // namespace trix
