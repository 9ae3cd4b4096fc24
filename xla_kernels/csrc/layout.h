// The packed layout, one for every instruction set. `packing.py` writes it and states it for users.
//
// One byte holds the ternary codes w_p in {-1, 0, 1} of one column in four rows, the planes p = 0..3. The lower three
// are stored as c = w + 1 in {0, 1, 2}, the top one signed: as an int8, byte = c_0 + 4 c_1 + 16 c_2 + 64 w_3. (So a
// signed dot product takes the byte as it is, and adding 64 makes it unsigned.) Four consecutive bytes hold four
// consecutive columns, a *lane*: what one 32-bit lane of a dot product instruction takes. Lanes come in two block
// shapes:
//
//   wide block    64 rows: 16 lanes (64 bytes) for each group of four columns, one group after the other
//   narrow block  16 rows:  4 lanes (16 bytes) for each group of four columns
//
// A matrix is as many wide blocks as fit, then up to three narrow ones. Row r of a block of R rows is plane
// r / (R / 4), lane r % (R / 4), so that a vector of lanes is a vector of consecutive rows. Columns are padded to a
// multiple of 16 and rows to a multiple of 16; padding holds w = 0.
//
// Matrices of int8 come in lanes as well: blocks of 16 rows, 16 lanes of four columns for each group of four columns,
// the same padding, with zeros.
//
// Why this shape: masks 3, 15 and 63, and no mask, leave planes 0..p, so that four dot products on masked copies of the
// same vector advance four rows a lane without unpacking; the planes come apart after the loop, by subtraction.
#pragma once

#include <cstdint>

namespace trix {

constexpr int kWideRows = 64;
constexpr int kNarrowRows = 16;
constexpr int64_t kColumnMultiple = 16;
constexpr int8_t kZeroByte = 0x15;  // Four times w = 0.

// An unsigned prefix of all planes is at most 2 * (1 + 4 + 16 + 64) = 170, so an int32 sum is safe to this many
// columns.
constexpr int64_t kMaxColumns = INT32_MAX / (170 * 128);

// The same for matrices of int8, where one side is taken as unsigned.
constexpr int kInt8Rows = 16;
constexpr int64_t kMaxInt8Columns = INT32_MAX / (255 * 128);

// Not of weights: a cache of keys and values has room for a multiple of so many tokens.
constexpr int64_t kCacheMultiple = 16;

constexpr int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

constexpr int64_t PaddedColumns(int64_t columns) { return RoundUp(columns, kColumnMultiple); }
constexpr int64_t PaddedRows(int64_t rows) { return RoundUp(rows, kNarrowRows); }
constexpr int64_t PackedBytes(int64_t rows, int64_t columns) { return PaddedRows(rows) / 4 * PaddedColumns(columns); }
constexpr int64_t PackedInt8Bytes(int64_t rows, int64_t columns) { return PaddedRows(rows) * PaddedColumns(columns); }

}  // namespace trix
