// The packed layout, the same for every instruction set. `packing.py` writes it and documents it for users.
//
// One byte holds the ternary codes w_p in {-1, 0, 1} of one column in four rows, the planes p = 0..3. The lower three
// are stored as c = w + 1 in {0, 1, 2}, and the top one is signed. As an int8, byte = c_0 + 4 c_1 + 16 c_2 + 64 w_3. So
// a signed dot product takes the byte unchanged, and adding 64 makes it unsigned. Four consecutive bytes hold four
// consecutive columns, a *lane*, which fills one 32-bit lane of a dot product instruction. Lanes come in three block
// shapes:
//
//   wide block    64 rows: 16 lanes (64 bytes) for each group of four columns, one group after the other
//   narrow block  16 rows:  4 lanes (16 bytes) for each group of four columns
//   thin block     4 rows:  1 lane  (4 bytes) for each group of four columns, so that byte c is column c
//
// A matrix consists of as many wide blocks as fit, then up to three narrow ones, then up to three thin ones. Row r of a
// block of R rows is plane r / (R / 4), lane r % (R / 4), so a vector of lanes is a vector of consecutive rows. Rows
// and columns are padded to multiples of four; padding holds w = 0.
//
// Matrices of int8 also come in lanes: blocks of 16 rows, 16 lanes of four columns for each group of four columns. Rows
// and columns are padded to multiples of 16 with zeros.
//
// Activations are padded with zeros to a multiple of 16 columns, so that any path may load 16 of them.
//
// This shape needs no unpacking. Masks 3, 15 and 63, and no mask, leave planes 0..p. So four dot products on masked
// copies of the same vector advance four rows a lane. After the loop, subtraction separates the planes.
#pragma once

#include <cstdint>

namespace trix {

constexpr int kWideRows = 64;
constexpr int kNarrowRows = 16;
constexpr int kThinRows = 4;
constexpr int8_t kZeroByte = 0x15;  // Four times w = 0.

// An unsigned prefix of all planes is at most 2 * (1 + 4 + 16 + 64) = 170, so an int32 sum is safe to this many
// columns.
constexpr int64_t kMaxColumns = INT32_MAX / (170 * 128);

// The same limit for int8 matrices, where one side counts as unsigned.
constexpr int kInt8Rows = 16;
constexpr int64_t kMaxInt8Columns = INT32_MAX / (255 * 128);

// A cache of keys and values has room for a multiple of so many tokens. Weights do not use this number.
constexpr int64_t kCacheMultiple = 16;

constexpr int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Of ternary matrices.
constexpr int64_t PaddedColumns(int64_t columns) { return RoundUp(columns, 4); }
constexpr int64_t PaddedRows(int64_t rows) { return RoundUp(rows, kThinRows); }
constexpr int64_t PackedBytes(int64_t rows, int64_t columns) { return PaddedRows(rows) / 4 * PaddedColumns(columns); }

// Of int8 matrices, and of activations.
constexpr int64_t PaddedInt8(int64_t length) { return RoundUp(length, kInt8Rows); }
constexpr int64_t PackedInt8Bytes(int64_t rows, int64_t columns) { return PaddedInt8(rows) * PaddedInt8(columns); }

}  // namespace trix
