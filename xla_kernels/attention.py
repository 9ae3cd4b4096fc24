"""Causal attention over a cache of keys and values, the costliest part of generating text.

For one token that sees 256 others in a layer of width 128, XLA on CPU spends more time on attention than on all of the
layer's products. The kernel visits filled slots only. It adds in one order on every instruction set, so its bits are
the same on all of them. A token also gets the same bits alone and among others.

Letters: B rows of a batch, L new tokens, H heads, W width of a head, S slots of the cache, G groups of K slots.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xla_kernels import calls, reference

SLOT_MULTIPLE = 16


class KeyValueCache(NamedTuple):
  """Keys and values of earlier tokens, and room for more.

  Attributes:
    keys_BHGWK: float32, in groups of K = SLOT_MULTIPLE slots; the kernel computes a group's scores together. S = G * K.
    values_BHSW: float32.
  """

  keys_BHGWK: jax.Array
  values_BHSW: jax.Array


def empty_cache(batch: int, heads: int, width: int, slots: int) -> KeyValueCache:
  """Make a cache with room for `slots` tokens a row, rounded up to a multiple of SLOT_MULTIPLE."""
  groups = -(-slots // SLOT_MULTIPLE)
  return KeyValueCache(
    jnp.zeros((batch, heads, groups, width, SLOT_MULTIPLE), jnp.float32),
    jnp.zeros((batch, heads, groups * SLOT_MULTIPLE, width), jnp.float32),
  )


def cached_attention(
  q_BLHW: jax.Array, k_BLHW: jax.Array, v_BLHW: jax.Array, position_B: jax.Array, cache: KeyValueCache
) -> tuple[jax.Array, KeyValueCache]:
  """Compute softmax(q k^T / sqrt(W)) v for new tokens, which see the cache, earlier new tokens, and themselves.

  Args:
    q_BLHW, k_BLHW, v_BLHW: float32.
    position_B: int32, how many tokens of each row the cache holds; position + L <= S. The content of later slots does
      not matter.
    cache: see `empty_cache`.

  Returns:
    float32 [B, L, H, W], and the cache with the new tokens in it. XLA updates it in place where nothing else needs the
    old one.

  Raises:
    TypeError, ValueError: for other dtypes, ranks or sizes.
    jax.errors.JaxRuntimeError, ValueError: from the kernel, when there is no room; JAX decides which of the two. The
      reference gives NaN for that row.
  """
  name = 'cached_attention'
  for which, array in (('q', q_BLHW), ('k', k_BLHW), ('v', v_BLHW)):
    calls.check_array(name, which, array, 'B L H W', (jnp.float32,), q_BLHW.shape)
  B, _, H, W = q_BLHW.shape
  calls.check_array(name, 'position', position_B, 'B', (jnp.int32,), (B,))
  calls.check_array(name, 'keys', cache.keys_BHGWK, 'B H G W K', (jnp.float32,), (B, H, None, W, SLOT_MULTIPLE))
  slots = cache.keys_BHGWK.shape[2] * SLOT_MULTIPLE
  calls.check_array(name, 'values', cache.values_BHSW, 'B H S W', (jnp.float32,), (B, H, slots, W))
  if not W:
    raise ValueError(f'{name}: heads of width 0')
  return _cached_attention(q_BLHW, k_BLHW, v_BLHW, position_B, cache)


@calls.inference_only
def _cached_attention(q_BLHW, k_BLHW, v_BLHW, position_B, cache):
  scale = q_BLHW.shape[3] ** -0.5
  out_BLHW, keys, values = calls.on_cpu(
    'trix_cached_attention',
    functools.partial(reference.cached_attention, scale=scale),
    q_BLHW,
    k_BLHW,
    v_BLHW,
    position_B,
    *cache,
    in_place={4: 1, 5: 2},
    scale=np.float32(scale),
  )
  return out_BLHW, KeyValueCache(keys, values)
