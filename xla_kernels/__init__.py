"""Packed ternary operations for `jax.jit`: 2-bit weights, int8 activations, exact integer accumulators.

  packed = xla_kernels.pack(codes_MK)                       # codes in {-1, 0, 1}, four to a byte
  y_NM = xla_kernels.ternary_matmul(x_NK, packed, scales_M)

On CPU the operations are XLA custom calls into C++ kernels. The CPU (`available_paths`) or the environment variable
TRIX_KERNEL decides which kernel runs. On GPU and TPU, and where no kernel was built, the same functions run in plain
jnp (`reference`). All give the same integers. They are for inference and have no gradient.

Letters: N tokens, K columns (inputs), M rows (outputs), D model width, T tiles, H hidden units of a tile.
"""

from xla_kernels.attention import Int8KeyValueCache, KeyValueCache, RotaryTables, cached_attention, empty_cache
from xla_kernels.drawing import draw
from xla_kernels.native import active_path, available_paths, register
from xla_kernels.normalisation import normalise, normalise_and_convolve
from xla_kernels.operations import (
  TileIndex,
  accumulate,
  int8_matmul,
  route,
  routed_ffn,
  routed_tile_ffn,
  ternary_matmul,
)
from xla_kernels.packing import (
  MAX_COLUMNS,
  MAX_INT8_COLUMNS,
  PackedInt8,
  PackedTernary,
  pack,
  pack_int8,
  unpack,
)

__all__ = [
  'MAX_COLUMNS',
  'MAX_INT8_COLUMNS',
  'Int8KeyValueCache',
  'KeyValueCache',
  'PackedInt8',
  'PackedTernary',
  'RotaryTables',
  'TileIndex',
  'accumulate',
  'active_path',
  'available_paths',
  'cached_attention',
  'draw',
  'empty_cache',
  'int8_matmul',
  'normalise',
  'normalise_and_convolve',
  'pack',
  'pack_int8',
  'register',
  'route',
  'routed_ffn',
  'routed_tile_ffn',
  'ternary_matmul',
  'unpack',
]
