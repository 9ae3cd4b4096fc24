"""Ternary matrices packed to two bits a weight, and int8 matrices, in the one layout that every path reads.

A byte holds one column of four rows, the *planes* p = 0..3. The lower three planes are stored as w + 1 in {0, 1, 2},
and the top plane is signed. As an int8 the byte is (w_0 + 1) + 4 (w_1 + 1) + 16 (w_2 + 1) + 64 w_3. Four consecutive
bytes hold four consecutive columns of the same rows, a *lane*.

For each group of four columns, a *wide block* of 64 rows has 16 lanes, a *narrow block* of 16 rows has 4, and a *thin
block* of 4 rows has one. Row r of a block of R rows is plane r // (R / 4), lane r % (R / 4). A matrix consists of as
many wide blocks as fit, then up to three narrow ones, then up to three thin ones. Padding with w = 0 brings rows and
columns to multiples of four. An int8 matrix also has lanes, in blocks of 16 rows, a lane for each row. Padding with
zeros brings its rows and columns to multiples of 16.

The first layout had no thin blocks, and padded ternary rows and columns to multiples of 16. `repack` reads it.

`csrc/layout.h` says why this shape is fast. The same bytes serve every instruction set and every byte order.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

WIDE_ROWS, NARROW_ROWS, THIN_ROWS = 64, 16, 4
# Of ternary matrices, of those in the first layout, and of int8 matrices.
MULTIPLE, FIRST_MULTIPLE, INT8_MULTIPLE = 4, 16, 16

# 170 * 128 * MAX_COLUMNS < 2**31, so the accumulators of all planes together stay inside int32.
MAX_COLUMNS = (2**31 - 1) // (170 * 128)
# The same limit for int8 matrices, where one side counts as unsigned.
MAX_INT8_COLUMNS = (2**31 - 1) // (255 * 128)


@dataclasses.dataclass(frozen=True, eq=False)
class _Packed:
  """Base class of both kinds of packed matrices."""

  data: jax.Array
  rows: int
  columns: int

  @property
  def shape(self) -> tuple[int, ...]:
    """Return the shape of the codes or weights, [..., M, K]."""
    return (*self.data.shape[:-1], self.rows, self.columns)


_register = functools.partial(jax.tree_util.register_dataclass, data_fields=['data'], meta_fields=['rows', 'columns'])


@_register
class PackedTernary(_Packed):
  """One or more ternary matrices of the same size, packed; a pytree.

  Attributes:
    data: uint8 [..., packed_bytes(rows, columns)]; leading axes are those of the codes, such as tiles.
    rows: M, outputs.
    columns: K, inputs.
  """


@_register
class PackedInt8(_Packed):
  """One or more int8 matrices of the same size, packed; a pytree like `PackedTernary`.

  Attributes:
    data: int8 [..., packed_int8_bytes(rows, columns)].
    rows: M, outputs.
    columns: K, inputs.
  """


def packed_int8_bytes(rows: int, columns: int) -> int:
  """Return the bytes of one packed int8 matrix: its padded size."""
  return _round_up(rows, INT8_MULTIPLE) * _round_up(columns, INT8_MULTIPLE)


def packed_bytes(rows: int, columns: int, multiple: int = MULTIPLE) -> int:
  """Return the bytes of one packed ternary matrix: a quarter of its padded size."""
  return _round_up(rows, multiple) // 4 * _round_up(columns, multiple)


def pack(codes: jax.Array | np.ndarray) -> PackedTernary:
  """Pack ternary codes.

  Args:
    codes: integers [..., M, K] in {-1, 0, 1}, 1 <= K <= MAX_COLUMNS. Under `jit` values cannot be checked, and other
      values count as the nearest of the three.

  Raises:
    TypeError: when `codes` are not integers.
    ValueError: for a matrix without rows or columns or with too many columns, or for values that are not ternary.
  """
  if not hasattr(codes, 'dtype') or not jnp.issubdtype(codes.dtype, jnp.integer):
    raise TypeError(f'pack takes an array of integer codes, not {getattr(codes, "dtype", type(codes).__name__)}')
  _check_size('pack', codes, MAX_COLUMNS)
  if not isinstance(codes, jax.core.Tracer) and codes.size:
    low, high = int(codes.min()), int(codes.max())
    if low < -1 or high > 1:
      raise ValueError(f'pack takes codes in {{-1, 0, 1}}; these go from {low} to {high}')
  rows, columns = codes.shape[-2:]
  return PackedTernary(_pack(jnp.asarray(codes)), rows, columns)


def pack_int8(weights: jax.Array | np.ndarray) -> PackedInt8:
  """Pack int8 weights.

  Args:
    weights: int8 [..., M, K], 1 <= K <= MAX_INT8_COLUMNS.

  Raises:
    TypeError, ValueError: for another dtype, or a matrix without rows or columns or with too many columns.
  """
  if getattr(weights, 'dtype', None) != jnp.int8:
    raise TypeError(f'pack_int8 takes an array of int8, not {getattr(weights, "dtype", type(weights).__name__)}')
  _check_size('pack_int8', weights, MAX_INT8_COLUMNS)
  rows, columns = weights.shape[-2:]
  return PackedInt8(_pack_int8(jnp.asarray(weights)), rows, columns)


def _check_size(operation, matrix, most_columns):
  if matrix.ndim < 2 or not matrix.shape[-2] or not 1 <= matrix.shape[-1] <= most_columns:
    raise ValueError(
      f'{operation} takes an array of shape [..., M, K] with M >= 1 and 1 <= K <= {most_columns}, '
      f'not {tuple(matrix.shape)}'
    )


@jax.jit
def _pack_int8(weights):
  padded = _padded(weights, INT8_MULTIPLE)
  *lead, rows, columns = padded.shape
  # [..., blocks, lanes, groups, 4] -> [..., blocks, groups, lanes, 4]
  lanes = padded.reshape(*lead, rows // INT8_MULTIPLE, INT8_MULTIPLE, columns // 4, 4)
  return jnp.swapaxes(lanes, -2, -3).reshape(*lead, rows * columns)


def _padded(matrix, multiple):
  *lead, rows, columns = matrix.shape
  return jnp.pad(matrix, [(0, 0)] * len(lead) + [(0, -rows % multiple), (0, -columns % multiple)])


def _blocks(padded_rows):
  """List the shapes of blocks of a matrix: (rows of a block, first row, last row)."""
  narrow, thin = padded_rows // WIDE_ROWS * WIDE_ROWS, padded_rows // NARROW_ROWS * NARROW_ROWS
  return (WIDE_ROWS, 0, narrow), (NARROW_ROWS, narrow, thin), (THIN_ROWS, thin, padded_rows)


@functools.partial(jax.jit, static_argnames='multiple')
def _pack(codes, multiple=MULTIPLE):
  *lead, _, _ = codes.shape
  # Widen before clipping, because an unsigned type has no -1 and a very small type has no 2.
  codes = _padded(jnp.clip(codes.astype(jnp.int32), -1, 1).astype(jnp.int8), multiple)
  parts = []
  for block, first, last in _blocks(codes.shape[-2]):
    part = codes[..., first:last, :]
    # [..., blocks, planes, lanes, groups, 4] -> [..., blocks, groups, lanes, 4, planes]
    planes = part.reshape(*lead, part.shape[-2] // block, 4, block // 4, part.shape[-1] // 4, 4)
    planes = jnp.moveaxis(jnp.swapaxes(planes, -2, -3), -4, -1).astype(jnp.int32)
    value = jnp.sum(planes * np.array([1, 4, 16, 64]), axis=-1) + (1 + 4 + 16)
    parts.append((value & 255).astype(jnp.uint8).reshape(*lead, part.shape[-2] // 4 * part.shape[-1]))
  return jnp.concatenate(parts, axis=-1)


def unpack(packed: PackedTernary | PackedInt8) -> jax.Array:
  """Return the codes or weights of packed matrices, int8 [..., M, K]. Raise TypeError or ValueError for other input."""
  check_packed('unpack', packed, (PackedTernary, PackedInt8))
  return _unpack(packed) if isinstance(packed, PackedTernary) else _unpack_int8(packed)


def repack(data: jax.Array | np.ndarray, rows: int, columns: int) -> jax.Array | np.ndarray:
  """Bring bytes of ternary matrices from the first layout to the present one. Without padding both are the same."""
  if data.shape[-1] != packed_bytes(rows, columns, FIRST_MULTIPLE):
    raise ValueError(f'repack: {rows} x {columns} codes of the first layout do not have {data.shape[-1]} bytes')
  if rows % FIRST_MULTIPLE == columns % FIRST_MULTIPLE == 0:
    return data
  return _pack(_unpack(PackedTernary(jnp.asarray(data), rows, columns), FIRST_MULTIPLE))


@jax.jit
def _unpack_int8(packed):
  *lead, rows, columns = packed.shape
  padded_rows, padded_columns = _round_up(rows, INT8_MULTIPLE), _round_up(columns, INT8_MULTIPLE)
  lanes = packed.data.reshape(*lead, padded_rows // INT8_MULTIPLE, padded_columns // 4, INT8_MULTIPLE, 4)
  return jnp.swapaxes(lanes, -2, -3).reshape(*lead, padded_rows, padded_columns)[..., :rows, :columns]


@functools.partial(jax.jit, static_argnames='multiple')
def _unpack(packed, multiple=MULTIPLE):
  *lead, rows, columns = packed.shape
  padded_columns = _round_up(columns, multiple)
  parts = []
  for block, first, last in _blocks(_round_up(rows, multiple)):
    # This inverts `_pack`. Adding 64 first makes the top plane unsigned.
    part = packed.data[..., first // 4 * padded_columns : last // 4 * padded_columns]
    lanes = part.astype(jnp.int32) + 64 & 255
    lanes = lanes.reshape(*lead, (last - first) // block, padded_columns // 4, block // 4, 4)
    planes = (lanes[..., None] >> np.array([0, 2, 4, 6]) & 3) - 1
    codes = jnp.swapaxes(jnp.moveaxis(planes, -1, -4), -2, -3)
    parts.append(codes.reshape(*lead, last - first, padded_columns))
  return jnp.concatenate(parts, axis=-2)[..., :rows, :columns].astype(jnp.int8)


def check_packed(
  operation: str, packed: PackedTernary | PackedInt8, kinds: tuple[type, ...] = (PackedTernary,)
) -> None:
  """Raise TypeError or ValueError for a matrix of another kind, or one whose data do not fit its size."""
  if not isinstance(packed, kinds):
    sources = ' or '.join(f'xla_kernels.{"pack" if kind is PackedTernary else "pack_int8"}' for kind in kinds)
    raise TypeError(f'{operation} takes weights from {sources}, not {type(packed).__name__}')
  ternary = isinstance(packed, PackedTernary)
  most = MAX_COLUMNS if ternary else MAX_INT8_COLUMNS
  if packed.rows < 1 or not 1 <= packed.columns <= most:
    raise ValueError(
      f'{operation}: packed weights of {packed.rows} x {packed.columns}; they have at least one row and '
      f'1 to {most} columns'
    )
  dtype = jnp.uint8 if ternary else jnp.int8
  bytes_ = (packed_bytes if ternary else packed_int8_bytes)(packed.rows, packed.columns)
  kind = getattr(packed.data, 'dtype', type(packed.data).__name__)
  if kind != dtype or packed.data.ndim < 1 or packed.data.shape[-1] != bytes_:
    raise ValueError(
      f'{operation}: packed weights of {packed.rows} x {packed.columns} are {jnp.dtype(dtype).name} '
      f'[..., {bytes_}], not {kind} {np.shape(packed.data)}'
    )


def _round_up(value, multiple):
  return -(-value // multiple) * multiple
