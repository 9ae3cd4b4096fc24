// Shared parts of the operations: quantised rows, and one packed matrix times a panel of rows.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "layout.h"
#include "ops/scratch.h"
#include "path.h"

namespace trix {

// Rows of int8 activations with their steps and sums.
struct Rows {
  int8_t* q;
  int64_t stride;
  float* step;
  int32_t* sum;

  // A stride that is a multiple of a page would put all rows into the same cache sets.
  static int64_t Stride(int64_t columns) {
    const int64_t padded = PaddedInt8(columns);
    return padded % 1024 == 0 ? padded + 64 : padded;
  }

  static Rows Carve(Carver& carver, int64_t count, int64_t columns) {
    const int64_t stride = Stride(columns);
    return {carver.Take<int8_t>(count * stride), stride, carver.Take<float>(count), carver.Take<int32_t>(count)};
  }

  void Quantise(const Path& path, int64_t row, const float* x, int64_t columns) const {
    path.elementwise->quantise(x, columns, PaddedInt8(columns), q + row * stride, step + row, sum + row);
  }

  Rows From(int64_t row) const { return {q + row * stride, stride, step + row, sum + row}; }
};

// Tokens of the next panel. Panels are as equal as possible, so that none has only one or two tokens.
inline int PanelSize(int64_t left, int panel) {
  const int64_t panels = (left + panel - 1) / panel;
  return static_cast<int>((left + panels - 1) / panels);
}

// Blocks of output rows for a product: ternary codes use their packed blocks, and int8 uses blocks of so many rows.
template <typename Code>
constexpr int64_t BlockCount(int64_t rows) {
  if constexpr (std::is_same_v<Code, int8_t>) return (rows + kWideRows - 1) / kWideRows;
  const int64_t padded = PaddedRows(rows);
  return padded / kWideRows + padded % kWideRows / kNarrowRows + padded % kNarrowRows / kThinRows;
}

// A block of a packed ternary matrix, and how many of its rows are no padding.
struct Block {
  int64_t row, count;
  decltype(Path::dot_wide) dot;
};

inline Block BlockAt(const Path& path, int64_t rows, int64_t block) {
  const int64_t padded = PaddedRows(rows), wide = padded / kWideRows, narrow = padded % kWideRows / kNarrowRows;
  const auto of = [&](int64_t row, int64_t most, decltype(Path::dot_wide) dot) {
    return Block{row, std::min(rows - row, most), dot};
  };
  if (block < wide) return of(block * kWideRows, kWideRows, path.dot_wide);
  block -= wide;
  if (block < narrow) return of(wide * kWideRows + block * kNarrowRows, kNarrowRows, path.dot_narrow);
  return of(wide * kWideRows + narrow * kNarrowRows + (block - narrow) * kThinRows, kThinRows, path.dot_thin);
}

// One block times some tokens, a panel at a time: dot(from, panel, acc), then sink(token, accumulators).
template <typename Dot, typename Sink>
inline void DotPanels(const Path& path, const Rows& rows, int64_t tokens, const Dot& dot, const Sink& sink) {
  alignas(64) int32_t acc[kMaxPanel * kWideRows];
  for (int64_t t = 0; t < tokens;) {
    const int panel = PanelSize(tokens - t, path.panel);
    dot(rows.From(t), panel, acc);
    for (int i = 0; i < panel; ++i) sink(t + i, acc + i * kWideRows);
    t += panel;
  }
}

// Calls sink(token, first row, row count, accumulators) for some blocks of a packed matrix and some tokens.
template <typename Sink>
inline void DotBlocks(const Path& path, const uint8_t* packed, int64_t m, int64_t columns, int64_t first_block,
                      int64_t last_block, const Rows& rows, int64_t tokens, const Sink& sink) {
  const int64_t padded = PaddedColumns(columns);
  for (int64_t i = first_block; i < last_block; ++i) {
    const Block block = BlockAt(path, m, i);
    DotPanels(
        path, rows, tokens,
        [&](const Rows& from, int panel, int32_t* acc) {
          block.dot(packed + block.row / 4 * padded, padded, from.q, from.stride, from.sum, panel, acc);
        },
        [&](int64_t t, const int32_t* acc) { sink(t, block.row, block.count, acc); });
  }
}

// The same for a matrix of int8.
template <typename Sink>
inline void DotBlocks(const Path& path, const int8_t* packed, int64_t m, int64_t columns, int64_t first_block,
                      int64_t last_block, const Rows& rows, int64_t tokens, const Sink& sink) {
  const int64_t padded = PaddedInt8(columns);
  for (int64_t row = first_block * kWideRows; row < std::min(m, last_block * kWideRows); row += kWideRows) {
    const int64_t count = std::min<int64_t>(m - row, kWideRows);
    DotPanels(
        path, rows, tokens,
        [&](const Rows& from, int panel, int32_t* acc) {
          path.dot_int8(packed + row * padded, static_cast<int>(PaddedInt8(count) / kInt8Rows), padded, from.q,
                        from.stride, from.sum, panel, acc);
        },
        [&](int64_t t, const int32_t* acc) { sink(t, row, count, acc); });
  }
}

}  // namespace trix
