// The operations, on plain row-major arrays. They are independent of XLA and of the instruction set.
#pragma once

#include <cstdint>

#include "layout.h"
#include "ops/parallel.h"

namespace trix {

// acc[n, m] = sum_k q[n, k] * w[m, k]
void Accumulate(const Pool& pool, const int8_t* q, int64_t n, int64_t k, const uint8_t* packed, int64_t m,
                int32_t* acc);

// y[n, m] = (acc[n, m] * step[n]) * scales[m] + bias[m], acc and step of the rows of x quantised to int8. `bias` may be
// null.
void TernaryMatmul(const Pool& pool, const float* x, int64_t n, int64_t k, const uint8_t* packed, int64_t m,
                   const float* scales, const float* bias, float* y);

// The same with int8 weights.
void Int8Matmul(const Pool& pool, const float* x, int64_t n, int64_t k, const int8_t* packed, int64_t m,
                const float* scales, const float* bias, float* y);

// How rows of a residual stream are normalised.
struct Normalisation {
  int64_t d;
  const float* scale;  // [d]
  const float* bias;   // [d], or null: see `Elementwise::normalise`
  float epsilon;       // Added to the mean square.
};

// sum[n] = x[n] + y[n], or x[n] without y (null), and out[n] = sum[n] normalised.
void Normalise(const Pool& pool, const float* x, const float* y, int64_t n, const Normalisation& how, float* sum,
               float* out);

// The same for `length` tokens of every row of a batch, and then a convolution over time with kTaps taps a feature:
// out_t = h_t + sum_i taps[i] * h_{t - i}, where h_t is normalised. `inputs` has h of the kTaps - 1 tokens before, and
// `latest` gets those that precede the token `valid` of a row.
//   x, y, sum, out  [batch, length, d]
//   taps            [kTaps, d]
//   inputs, latest  [batch, kTaps - 1, d]
//   valid           [batch], from 0 to length
constexpr int kTaps = 4;
void NormaliseAndConvolve(const Pool& pool, const float* x, const float* y, int64_t batch, int64_t length,
                          const Normalisation& how, const float* taps, const float* inputs, const int32_t* valid,
                          float* sum, float* out, float* latest);

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
  int64_t batch, length;    // `length` new tokens a row
  int64_t heads, kv_heads;  // heads of queries, a multiple of those of keys and values
  int64_t width, slots;     // of a head; and the room for tokens, see kCacheMultiple
};

// What becomes of queries and keys.
struct Turning {
  float scale;     // of the scores
  bool normalise;  // by the root mean square of each head, first
  // Tables of rotary positions, [angles, width / 2] for every `rows` rows of the batch. Positions after the last one
  // get the last one. There are none where `angles` is 0.
  int64_t angles, rows;
  const float *cos, *sin;
};

// Causal attention of new tokens. Adds their keys and values to the cache, which holds position[b] tokens of row b.
// Each token sees itself and all tokens before it. There must be room: position[b] + length <= slots.
//   qkv     [batch, length, (heads + 2 * kv_heads) * width]: queries, keys, values
//   out     [batch, length, heads * width]
//   keys    [batch, kv_heads, slots / kCacheMultiple, width, kCacheMultiple], to compute so many scores together
//   values  [batch, kv_heads, slots, width]
void CachedAttention(const Pool& pool, const float* qkv, const int32_t* position, const CacheShape& shape,
                     const Turning& turning, float* keys, float* values, float* out);

// The same, with keys and values as int8 of a scale for each token and head, and weights of 14 bits.
//   keys, values            [batch, kv_heads, PackedInt8Bytes(slots, width)], matrices of slots x width, width x slots
//   key_scale, value_scale  [batch, kv_heads, slots]
struct Int8Cache {
  int8_t* keys;
  float* key_scale;
  int8_t* values;
  float* value_scale;
};

void Int8CachedAttention(const Pool& pool, const float* qkv, const int32_t* position, const CacheShape& shape,
                         const Turning& turning, const Int8Cache& cache, float* out);

// How a token of each row is drawn: by a number from 0 to 1 (exclusive), among the `top_k` (at least 1) highest logits
// and those that equal the last of them. Temperature 0 takes the first of the highest.
struct Choice {
  const float *uniform, *temperature;  // [batch]
  const int32_t* top_k;                // [batch]
};

// Draws a token of each row of logits [batch, vocabulary] with the probabilities softmax(logits / temperature).
void Draw(const Pool& pool, const float* logits, int64_t batch, int64_t vocabulary, const Choice& choice,
          int32_t* token);

// Position of the first index outside [0, tiles), or -1.
int64_t FirstBadTile(const int32_t* tile, int64_t count, int64_t tiles);

}  // namespace trix
