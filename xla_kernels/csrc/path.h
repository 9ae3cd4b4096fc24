// The functions of one instruction set. Each set has its own file, compiled for that set; `paths.cc` chooses one.
#pragma once

#include <cstdint>

#include "layout.h"

namespace trix {

// The most tokens that one call of `dot` takes, on any path.
constexpr int kMaxPanel = 32;

// Working memory of `draw` is a multiple of so many numbers.
constexpr int64_t kDrawMultiple = 16;

// Queries that `attend` computes together; a call may have any number.
constexpr int kQueries = 4;

// What one of a token's tiles adds to its output.
struct Part {
  int32_t tile;
  float gate;
  const int8_t* q;  // Its hidden activations, from 0 to 127; with their step and their sum.
  float step;
  int32_t sum;
};

// Loops over single rows of floats. Every instruction set compiles them from `elementwise.h`, with the same results.
struct Elementwise {
  // int8 by the largest magnitude: q = rint(x * (127 / a)), step = a * float(1/127), and sum = sum of q. `q` is padded
  // with zeros to `padded` columns. a < 2^-100 counts as zero. A row with a NaN or an infinity gets q = 0, step = NaN.
  void (*quantise)(const float* x, int64_t columns, int64_t padded, int8_t* q, float* step, int32_t* sum);
  // `rescale_relu` and then `quantise` for the hidden units of some tiles of one token, which fill in q, step and sum
  // of `parts`. acc has PaddedRows(h) entries a tile and q has PaddedInt8(h), one tile after the other. The units
  // replace the sums in `acc`. `work` has room for 3 * `count` numbers.
  void (*quantise_tiles)(int32_t* acc, float step, const float* scale, bool squared, int64_t h, int64_t count,
                         int8_t* q, int32_t* work, Part* parts);
  // y = ((acc * step) * scale) * gate
  void (*rescale)(const int32_t* acc, float step, const float* scale, float gate, int64_t count, float* y);
  // y += ((acc * step) * scale) * gate
  void (*rescale_add)(const int32_t* acc, float step, const float* scale, float gate, int64_t count, float* y);
  // y = relu((acc * step) * scale), or its square
  void (*rescale_relu)(const int32_t* acc, float step, const float* scale, bool squared, int64_t count, float* y);
  // sum = x + y, and out = sum normalised, times `scale`: by its root mean square; with a bias by mean and standard
  // deviation, plus the bias. `epsilon` is added to the mean square. Without y (null) the sum is x, and `sum` may be
  // null. `scale` may be null too, for ones.
  void (*normalise)(const float* x, const float* y, int64_t columns, const float* scale, const float* bias,
                    float epsilon, float* sum, float* out);
  // out[w] = sum_s softmax_s(sum_w q[w] * key_s[w]) * value_s[w] for `count` queries, query i at q + i * width and its
  // result at out + i * stride. Query i sees the first length + i of `slots` slots; keys and values lie as
  // `CachedAttention` says. `weights` is working memory for kQueries * slots floats.
  void (*attend)(const float* q, int count, const float* keys, const float* values, int64_t length, int64_t slots,
                 int64_t width, float* weights, float* out, int64_t stride);
  // Turns the first `length` scores of one query into integers of two digits, 128 * high + low, that are in proportion
  // to softmax(scores) * scale. Both digits are from 0 to 127, and 0 from `length` to `end`, a multiple of
  // kCacheMultiple. Returns what one unit is worth, NaN if a score or a scale is no number. It overwrites `scores` up
  // to `end`. `sums` gets the sums of high and of low digits.
  float (*weigh)(float* scores, const float* scale, int64_t length, int64_t end, int8_t* high, int8_t* low,
                 int32_t* sums);
  // y = (128 * high + low) * unit
  void (*join_digits)(const int32_t* high, const int32_t* low, float unit, int64_t count, float* y);
  // The places of the `top_k` greatest of `count` values, greatest first, the lowest place first among equals. No value
  // is a NaN. `work` has room for 2 * `count` numbers.
  void (*find_best)(const float* values, int64_t count, int64_t top_k, int32_t* work, int32_t* place);
  // The first of `count` logits whose part of softmax(logits / temperature), with the parts before it, is beyond
  // `uniform`. Only the `top_k` highest logits have parts, with those that equal the last of them. With temperature 0
  // it is the first of the highest. `work` has room for a multiple of kDrawMultiple numbers of 32 bits.
  int32_t (*draw)(const float* logits, int64_t count, float uniform, float temperature, int64_t top_k, void* work);
  // For the benchmark: reads memory as fast as possible.
  uint64_t (*read)(const uint64_t* words, int64_t count);
};

struct Path {
  const char* name;
  // Whether this CPU and its operating system can run the path.
  bool (*supported)();
  // Multiply-accumulates of a product in a nanosecond, roughly. It tells for how much work threads pay.
  double macs_per_ns;
  // The number of tokens at which `dot` is fastest, and the most that a call of it takes.
  int panel;
  // Exact dot products of one block with some tokens.
  //   block    kWideRows, kNarrowRows or kThinRows rows, `columns` columns (a multiple of four)
  //   q        int8 activations in [-127, 127], token t at q + t * stride; zeros from `columns` to a multiple of 16
  //   sums     sum of each token's activations
  //   acc      row r of token t goes to acc[t * kWideRows + r]
  void (*dot_wide)(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                   int tokens, int32_t* acc);
  void (*dot_narrow)(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                     int tokens, int32_t* acc);
  void (*dot_thin)(const uint8_t* block, int64_t columns, const int8_t* q, int64_t stride, const int32_t* sums,
                   int tokens, int32_t* acc);
  // Adds the parts of one token, in order, to 64 rows of its output: y[r] += ((acc * step) * scale[r]) * gate. Tile i
  // has the wide block at down + i * bytes, and its scales at scale + i * d. Optional: without it `dot_wide` and
  // `rescale_add` do the same.
  void (*add_wide)(const Part* parts, int64_t count, const uint8_t* down, int64_t bytes, const float* scale, int64_t d,
                   int64_t columns, float* y);
  // The same as `dot_wide` for `blocks` consecutive blocks of int8, up to kWideRows / kInt8Rows of them.
  void (*dot_int8)(const int8_t* block, int blocks, int64_t columns, const int8_t* q, int64_t stride,
                   const int32_t* sums, int tokens, int32_t* acc);
  const Elementwise* elementwise;
  // For the benchmark: does as many dot products from registers as the instruction set can. Returns the number of
  // multiply-accumulates in `rounds` rounds.
  int64_t (*peak)(int64_t rounds);
};

// The paths that this build has for the architecture, best first. The last is `portable`.
extern const Path* const kPaths[];
extern const int kPathCount;

// The path in use: the best supported one, or the one forced. Never null.
const Path& ActivePath();
// Forces a path by name. Returns false if the name is unknown or the CPU cannot run the path. Null restores the best.
bool ForcePath(const char* name);

}  // namespace trix
