"""Causal attention over a cache of keys and values, the costliest part of generating text.

For one token that sees 256 others in a layer of width 128, XLA on CPU spends more time on attention than on all of the
layer's products. The kernel visits filled slots only. It adds in one order on every instruction set, so its bits are
the same on all of them. A token also gets the same bits alone and among others.

A cache of int8 takes a quarter of the memory, which many rows read at the speed of memory. Each key and each value of a
head has a scale of its own. Scores are integer products of int8 queries and keys, and weights have 14 bits.

Letters: B rows of a batch, L new tokens, H heads, W width of a head, S slots of the cache, G groups of K slots, P
bytes of a packed matrix.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xla_kernels import calls, packing, reference

SLOT_MULTIPLE = 16


class KeyValueCache(NamedTuple):
  """Keys and values of earlier tokens, and room for more.

  Attributes:
    keys_BHGWK: float32, in groups of K = SLOT_MULTIPLE slots; the kernel computes a group's scores together. S = G * K.
    values_BHSW: float32.
  """

  keys_BHGWK: jax.Array
  values_BHSW: jax.Array


_INT8_PARTS = ['keys_BHP', 'key_scale_BHS', 'values_BHP', 'value_scale_BHS']


@functools.partial(jax.tree_util.register_dataclass, data_fields=_INT8_PARTS, meta_fields=['width'])
@dataclasses.dataclass(frozen=True, eq=False)
class Int8KeyValueCache:
  """Keys and values as int8, each with a scale: by the largest magnitude of a token and head, as for activations.

  Attributes:
    keys_BHP: int8, `PackedInt8` matrices of S rows and W columns.
    key_scale_BHS: float32.
    values_BHP: int8, `PackedInt8` matrices of W rows and S columns.
    value_scale_BHS: float32.
    width: W.
  """

  keys_BHP: jax.Array
  key_scale_BHS: jax.Array
  values_BHP: jax.Array
  value_scale_BHS: jax.Array
  width: int


Cache = KeyValueCache | Int8KeyValueCache


def empty_cache(batch: int, heads: int, width: int, slots: int, dtype: jax.typing.DTypeLike = jnp.float32) -> Cache:
  """Make a cache of float32 or int8 with room for `slots` tokens a row, rounded up to a multiple of SLOT_MULTIPLE.

  Raises:
    ValueError: for another dtype, without slots or width, and for more than an int8 matrix has columns.
  """
  dtype = jnp.dtype(dtype)
  if slots < 1 or width < 1:
    raise ValueError(f'empty_cache: {slots} slots and width {width}; there must be at least one of each')
  groups = -(-slots // SLOT_MULTIPLE)
  slots = groups * SLOT_MULTIPLE
  if dtype == jnp.float32:
    return KeyValueCache(
      jnp.zeros((batch, heads, groups, width, SLOT_MULTIPLE), jnp.float32),
      jnp.zeros((batch, heads, slots, width), jnp.float32),
    )
  if dtype != jnp.int8:
    raise ValueError(f'empty_cache: dtype is {dtype.name}; choose float32 or int8')
  if max(slots, width) > packing.MAX_INT8_COLUMNS:
    raise ValueError(
      f'empty_cache: {slots} slots and width {width}; an int8 cache has at most {packing.MAX_INT8_COLUMNS} of each'
    )
  packed, scale = (batch, heads, packing.packed_int8_bytes(slots, width)), (batch, heads, slots)
  return Int8KeyValueCache(
    jnp.zeros(packed, jnp.int8),
    jnp.zeros(scale, jnp.float32),
    jnp.zeros(packed, jnp.int8),
    jnp.zeros(scale, jnp.float32),
    width,
  )


class RotaryTables(NamedTuple):
  """Cosines and sines of rotary positions (RoFormer, arXiv 2104.09864), float32 [positions, W / 2].

  A head's first half is turned with its second half. Later positions are turned like the last one.
  """

  cos_PU: jax.Array | np.ndarray
  sin_PU: jax.Array | np.ndarray


_NO_TABLES = RotaryTables(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))


def cached_attention(
  qkv_BLE: jax.Array,
  position_B: jax.Array,
  cache: Cache,
  *,
  rotary: RotaryTables | None = None,
  normalise_heads: bool = False,
) -> tuple[jax.Array, Cache]:
  """Compute softmax(q k^T / sqrt(W)) v for new tokens, which see the cache, earlier new tokens, and themselves.

  Args:
    qkv_BLE: float32, the heads of queries, then those of keys, then those of values: E = (heads + 2 H) * W. There may
      be more heads of queries than H; as many neighbours as it takes share one of keys and values.
    position_B: int32, how many tokens of each row the cache holds; position + L <= S. The content of later slots does
      not matter.
    cache: see `empty_cache`. With an int8 cache the new keys and values are rounded too, and so are the queries.
    rotary: turns queries and keys by their positions.
    normalise_heads: divides each head of queries and keys by its root mean square, before it is turned.

  Returns:
    float32 [B, L, heads * W], and the cache with the new tokens in it. XLA updates it in place where nothing else needs
    the old one.

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
    jax.errors.JaxRuntimeError, ValueError: from the kernel, when there is no room; JAX decides which of the two. The
      reference gives NaN for that row.
  """
  name = 'cached_attention'
  calls.check_array(name, 'qkv', qkv_BLE, 'B L E', (jnp.float32,))
  B, L, E = qkv_BLE.shape
  calls.check_array(name, 'position', position_B, 'B', (jnp.int32,), (B,))
  H, S, W = (_check_int8_cache if isinstance(cache, Int8KeyValueCache) else _check_cache)(name, cache, B)
  if L > S:
    raise ValueError(f'{name}: {L} tokens for a cache of {S} slots; make it larger with empty_cache')
  heads, rest = divmod(E - 2 * H * W, W)
  if rest or heads < 1 or heads % H:
    raise ValueError(
      f'{name}: qkv has {E} columns for {H} heads of keys and values of width {W}; it must have '
      f'(heads + {2 * H}) * {W}, with heads a multiple of {H}'
    )
  for which, table in zip(('cos', 'sin'), rotary or (), strict=False):
    calls.check_array(name, which, table, 'P U', (jnp.float32,), (None, W // 2))
  if rotary and (W % 2 or rotary.cos_PU.shape != rotary.sin_PU.shape or not rotary.cos_PU.size):
    raise ValueError(
      f'{name}: rotary tables {list(rotary.cos_PU.shape)} and {list(rotary.sin_PU.shape)} for heads of width {W}; both '
      'must be [P, W / 2], with P at least 1 and W even'
    )
  call = _int8_cached_attention if isinstance(cache, Int8KeyValueCache) else _cached_attention
  return call(qkv_BLE, position_B, rotary or _NO_TABLES, cache, normalise_heads)


def _check_cache(name, cache, B):
  """Return heads, slots and the width of a head."""
  calls.check_array(name, 'values', cache.values_BHSW, 'B H S W', (jnp.float32,), (B,))
  _, H, S, W = cache.values_BHSW.shape
  if not H or not W:
    raise ValueError(f'{name}: {H} heads of width {W}; there must be at least one of each')
  calls.check_array(
    name, 'keys', cache.keys_BHGWK, 'B H G W K', (jnp.float32,), (B, H, -(-S // SLOT_MULTIPLE), W, SLOT_MULTIPLE)
  )
  if S % SLOT_MULTIPLE:
    raise ValueError(f'{name}: values have {S} slots; they must be a multiple of {SLOT_MULTIPLE}')
  return H, S, W


def _check_int8_cache(name, cache, B):
  """Return heads, slots and the width of a head."""
  calls.check_array(name, 'key_scale', cache.key_scale_BHS, 'B H S', (jnp.float32,), (B,))
  _, H, S = cache.key_scale_BHS.shape
  W = cache.width
  if not H or W < 1 or S % SLOT_MULTIPLE or max(S, W) > packing.MAX_INT8_COLUMNS:
    raise ValueError(
      f'{name}: an int8 cache of {S} slots for {H} heads of width {W}; there must be at least one head, slots are a '
      f'multiple of {SLOT_MULTIPLE}, and slots and width are at most {packing.MAX_INT8_COLUMNS}'
    )
  calls.check_array(name, 'value_scale', cache.value_scale_BHS, 'B H S', (jnp.float32,), (B, H, S))
  for which, array in (('keys', cache.keys_BHP), ('values', cache.values_BHP)):
    calls.check_array(name, which, array, 'B H P', (jnp.int8,), (B, H, packing.packed_int8_bytes(S, W)))
  return H, S, W


@calls.inference_only(static=(4,))
def _cached_attention(qkv_BLE, position_B, tables, cache, normalise):
  W = cache.values_BHSW.shape[3]
  out_BLE, *parts = _call(
    'trix_cached_attention', reference.cached_attention, qkv_BLE, position_B, tables, cache, W, normalise
  )
  return out_BLE, KeyValueCache(*parts)


@calls.inference_only(static=(4,))
def _int8_cached_attention(qkv_BLE, position_B, tables, cache, normalise):
  out_BLE, *parts = _call(
    'trix_int8_cached_attention',
    functools.partial(reference.int8_cached_attention, width=cache.width),
    qkv_BLE,
    position_B,
    tables,
    jax.tree.leaves(cache),
    cache.width,
    normalise,
    width=np.int64(cache.width),
  )
  return out_BLE, dataclasses.replace(cache, **dict(zip(_INT8_PARTS, parts, strict=True)))


def _call(target, otherwise, qkv_BLE, position_B, tables, parts, W, normalise, **attributes):
  """Return the output, and the parts of the new cache, which replace those of the old one."""
  scale = W**-0.5
  return calls.on_cpu(
    target,
    functools.partial(otherwise, scale=scale, normalise=normalise),
    qkv_BLE,
    position_B,
    *tables,
    *parts,
    in_place={4 + part: 1 + part for part in range(len(parts))},
    scale=np.float32(scale),
    normalise=normalise,
    **attributes,
  )
