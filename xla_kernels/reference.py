"""The operations in plain jnp. Every kernel must equal them, and they run where there is no kernel.

Where it is exact they hold integers in float32, because XLA multiplies float32 fast on every backend.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xla_kernels import packing

INT8_MAX = 127.0
TINY = 2.0**-100
# An operand without numbers stands for one that the caller left out, since a kernel takes all of its operands.
LEFT_OUT = np.zeros(0, np.float32)
EPSILON = 1e-6  # Added to mean squares, as in Flax.
# Of attention over an int8 cache, in two digits of seven bits.
WEIGHT_MAX = 2.0**14 - 1
INVERSE_INT8_MAX = np.float32(1.0) / np.float32(127.0)


def quantise(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Quantise to symmetric int8 by the largest magnitude a of each row: q = rint(x * (127 / a)).

  The step is a * float32(1 / 127).

  A row with a < 2**-100 counts as zero (q = 0, step 0). A row that holds a NaN or an infinity gets q = 0 and step NaN,
  so that all its results are NaN.

  Args:
    x: float32 [..., K].

  Returns:
    q int8 [..., K] in [-127, 127], and step float32 [..., 1].
  """
  a = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
  finite = jnp.isfinite(a)
  usable = finite & (a >= TINY)
  factor = INT8_MAX / jnp.where(usable, a, 1.0)
  q = jnp.where(usable, jnp.round(jnp.where(usable, x, 0.0) * factor), 0.0)
  step = jnp.where(usable, a * INVERSE_INT8_MAX, jnp.where(finite, 0.0, jnp.nan))
  return q.astype(jnp.int8), step


def accumulate(q: jax.Array, packed: packing.PackedTernary) -> jax.Array:
  """int32 [N, M], exact: 128 * MAX_COLUMNS < 2**24."""
  return _product(q, packing.unpack(packed)).astype(jnp.int32)


def ternary_matmul(
  x: jax.Array, packed: packing.PackedTernary, scales: jax.Array, bias: jax.Array | np.ndarray = LEFT_OUT
) -> jax.Array:
  """float32 [N, M]."""
  q, step = quantise(x)
  return _add((_product(q, packing.unpack(packed)) * step) * scales, bias)


def int8_matmul(
  x: jax.Array, packed: packing.PackedInt8, scales: jax.Array, bias: jax.Array | np.ndarray = LEFT_OUT
) -> jax.Array:
  """float32 [N, M]."""
  q, step = quantise(x)
  return _add((_int8_product(q, packing.unpack(packed)) * step) * scales, bias)


def _add(x, y):
  return x + y if y.size else x


def normalise(
  x_ND: jax.Array, y_ND: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float = EPSILON
) -> list[jax.Array]:
  """Return the sums and what they are normalised; y and bias without numbers were left out."""
  x_ND = _add(x_ND, y_ND)
  centred_ND = x_ND - x_ND.mean(axis=-1, keepdims=True) if bias_D.size else x_ND
  return [x_ND, _add(centred_ND * (_inverse_rms(centred_ND, epsilon) * scale_D), bias_D)]


def _inverse_rms(x, epsilon=EPSILON):
  return jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)


def normalise_and_convolve(
  x_BLD: jax.Array,
  y_BLD: jax.Array,
  scale_D: jax.Array,
  bias_D: jax.Array,
  taps_KD: jax.Array,
  inputs_BJD: jax.Array,
  valid_B: jax.Array,
  epsilon: float = EPSILON,
) -> list[jax.Array]:
  """Return the sums, what they are normalised and mixed, and the latest inputs of the convolution."""
  x_BLD, h_BLD = normalise(x_BLD, y_BLD, scale_D, bias_D, epsilon)
  padded_BPD = jnp.concatenate([inputs_BJD, h_BLD], axis=1)
  L, before = h_BLD.shape[1], inputs_BJD.shape[1]
  mixed_BLD = sum(taps_KD[lag] * padded_BPD[:, before - lag : before - lag + L] for lag in range(before + 1))
  latest_BJ = valid_B[:, None] + jnp.arange(before)
  return [x_BLD, h_BLD + mixed_BLD, jnp.take_along_axis(padded_BPD, latest_BJ[..., None], axis=1)]


def draw(logits_BV: jax.Array, uniform_B: jax.Array, temperature_B: jax.Array, top_k_B: jax.Array) -> jax.Array:
  """int32 [B]."""
  V = logits_BV.shape[1]
  place_B1 = (V - jnp.minimum(top_k_B, V))[:, None]
  least_B1 = jnp.take_along_axis(jnp.sort(logits_BV, axis=-1), place_B1, axis=-1)
  warm_B1 = jnp.where(temperature_B > 0, temperature_B, 1.0)[:, None]
  below_BV = logits_BV - logits_BV.max(axis=-1, keepdims=True)
  share_BV = jnp.where(logits_BV >= least_B1, jnp.exp(below_BV / warm_B1), 0.0)
  sum_BV = jnp.cumsum(share_BV, axis=-1)
  drawn_B = jnp.argmax(sum_BV > uniform_B[:, None] * sum_BV[:, -1:], axis=-1)
  return jnp.where(temperature_B > 0, drawn_B, jnp.argmax(logits_BV, axis=-1)).astype(jnp.int32)


# Packed keys, scales and offsets of tiles; with an index also those of clusters, and their members.
Keys = tuple[Any, ...]


def route(x: jax.Array, keys: Keys, top_k: int, probes: int) -> tuple[jax.Array, jax.Array]:
  """Return tiles int32 [N, top_k] and scores float32 [N, top_k]; `probes` is 0 without an index."""
  tile_NK, place_NK, score_NJ, _ = _route_all(x, keys, top_k, probes)
  return tile_NK, jnp.take_along_axis(score_NJ, place_NK, axis=-1)


def _route_all(x, keys, top_k, probes):
  """Return tiles, their places among the candidates, the candidates' scores, and the activations' step."""
  q, step = quantise(x)
  signatures, scale, offset, *index = keys
  # This computes all products even with an index, and then removes those that a kernel leaves out.
  dot_NJ = _dots(q, packing.unpack(signatures), isinstance(signatures, packing.PackedTernary))
  scale_J, offset_J = scale.reshape(1, -1), offset.reshape(1, -1)
  if not probes:
    place_NK, score_NJ = _best(dot_NJ, scale_J, offset_J, step, top_k)
    return place_NK, place_NK, score_NJ, step
  clusters, cluster_scale, cluster_offset, member_CM = index
  cluster_dot_NC = _dots(q, packing.unpack(clusters), isinstance(clusters, packing.PackedTernary))
  cluster_NP = jnp.sort(_best(cluster_dot_NC, cluster_scale, cluster_offset, step, probes)[0], axis=-1)
  M = member_CM.shape[1]
  candidate_NJ = (cluster_NP[..., None] * M + jnp.arange(M)).reshape(x.shape[0], probes * M)

  def of_candidates(x_NT):
    return jnp.take_along_axis(jnp.broadcast_to(x_NT, dot_NJ.shape), candidate_NJ, axis=-1)

  place_NK, score_NJ = _best(of_candidates(dot_NJ), of_candidates(scale_J), of_candidates(offset_J), step, top_k)
  tile_NK = member_CM.reshape(-1)[jnp.take_along_axis(candidate_NJ, place_NK, axis=-1)]
  return tile_NK, place_NK, score_NJ, step


def _dots(q_NK, keys, ternary):
  """Compute products with keys [..., K], whose leading axes become one."""
  return (_product if ternary else _int8_product)(q_NK, keys.reshape(-1, keys.shape[-1]))


def _best(dot_NJ, scale, offset, step, top_k):
  """Return the `top_k` best columns, int32, and the scores of all."""
  finite_N1 = ~jnp.isnan(step)
  selection_NJ = jnp.where(finite_N1, (dot_NJ + offset) * scale, 0.0)
  # `top_k` ranks -0 below 0, and NaN above everything.
  selection_NJ = jnp.where(jnp.isnan(selection_NJ), -jnp.inf, jnp.where(selection_NJ == 0, 0.0, selection_NJ))
  return (jax.lax.top_k(selection_NJ, top_k)[1].astype(jnp.int32), jnp.where(finite_N1, dot_NJ * scale, jnp.nan))


def routed_ffn(
  x: jax.Array,
  keys: Keys,
  tiles: tuple[packing.PackedTernary, jax.Array, packing.PackedTernary, jax.Array],
  top_k: int,
  probes: int,
  probability: bool,
  squared: bool,
  temperature: float,
  margin: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """float32 [N, D], tiles int32 [N, top_k] and their gates float32 [N, top_k]."""
  tile_NK, place_NK, score_NJ, step_N1 = _route_all(x, keys, top_k, probes)
  if probability:
    gate_NK = jnp.take_along_axis(jax.nn.softmax((score_NJ * step_N1) * temperature), place_NK, axis=-1)
  else:
    gate_NK = jnp.ones(tile_NK.shape, jnp.float32)
  score_NK = jnp.take_along_axis(score_NJ, place_NK, axis=-1)
  gate_NK = jnp.where((score_NK[:, :1] - score_NK) * step_N1 > margin, 0.0, gate_NK)
  return routed_tile_ffn(x, *tiles, tile_NK, gate_NK, squared), tile_NK, gate_NK


def routed_tile_ffn(
  x: jax.Array,
  up: packing.PackedTernary,
  up_scale_TH: jax.Array,
  down: packing.PackedTernary,
  down_scale_TD: jax.Array,
  tile_NK: jax.Array,
  gate_NK: jax.Array,
  squared: bool,
) -> jax.Array:
  """float32 [N, D]; NaN for tokens with a tile out of range."""
  T = up_scale_TH.shape[0]
  top_k = tile_NK.shape[1]
  tile_A = tile_NK.reshape(-1)
  valid_A = (tile_A >= 0) & (tile_A < T)
  tile_A = jnp.where(valid_A, tile_A, 0)
  # After sorting by tile, every product is a ragged one.
  order_A = jnp.argsort(tile_A, stable=True)
  sorted_A = tile_A[order_A]
  count_T = jnp.sum(tile_A[:, None] == jnp.arange(T), axis=0, dtype=jnp.int32)

  def rescaled(q_AX, step_A1, weights, scale_TY):
    codes_TXY = packing.unpack(weights).astype(jnp.float32).swapaxes(-1, -2)
    acc_AY = _ragged_product(q_AX.astype(jnp.float32), codes_TXY, count_T)
    return (acc_AY * step_A1) * scale_TY[sorted_A]

  q_ND, step_N1 = quantise(x)
  hidden_AH = jax.nn.relu(rescaled(q_ND[order_A // top_k], step_N1[order_A // top_k], up, up_scale_TH))
  q_AH, step_A1 = quantise(hidden_AH * hidden_AH if squared else hidden_AH)
  y_AD = rescaled(q_AH, step_A1, down, down_scale_TD)[jnp.argsort(order_A)]
  y_AD = jnp.where(valid_A[:, None], y_AD * gate_NK.reshape(-1, 1), jnp.nan)
  return y_AD.reshape(x.shape[0], top_k, x.shape[1]).sum(axis=1)


@jax.custom_batching.sequential_vmap  # JAX cannot batch ragged products over every axis.
def _ragged_product(q_AX, codes_TXY, count_T):
  return jax.lax.ragged_dot(q_AX, codes_TXY, count_T, precision='highest')


def _int8_product(q_NK, weights_MK):
  """Compute the exact product, then round it once to float32."""
  product = jax.lax.dot_general(q_NK, weights_MK, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)
  return product.astype(jnp.float32)


def _product(q_NK, codes_MK):
  return jnp.matmul(q_NK.astype(jnp.float32), codes_MK.astype(jnp.float32).T, precision='highest')


def cached_attention(
  qkv_BLE: jax.Array,
  position_B: jax.Array,
  cos_PU: jax.Array,
  sin_PU: jax.Array,
  keys_BHGWK: jax.Array,
  values_BHSW: jax.Array,
  scale: float,
  normalise: bool,
) -> list[jax.Array]:
  """Return float32 [B, L, heads * W], keys and values; NaN for rows without room for their tokens."""
  q_BLHW, k_BLHW, v_BLHW = split_heads(
    qkv_BLE, position_B, cos_PU, sin_PU, values_BHSW.shape[1], values_BHSW.shape[3], normalise
  )
  keys_BHSW = keys_BHGWK.swapaxes(3, 4).reshape(values_BHSW.shape)
  out_BLHW, keys_BHSW, values_BHSW = plain_cached_attention(
    q_BLHW, k_BLHW, v_BLHW, position_B, keys_BHSW, values_BHSW, scale
  )
  return [
    _join_heads(out_BLHW),
    keys_BHSW.reshape(keys_BHGWK.swapaxes(3, 4).shape).swapaxes(3, 4),
    values_BHSW,
  ]


def split_heads(
  qkv_BLE: jax.Array,
  position_B: jax.Array,
  cos_PU: jax.Array,
  sin_PU: jax.Array,
  kv_heads: int,
  width: int,
  normalise: bool,
) -> list[jax.Array]:
  """Return queries, keys and values, [B, L, heads, W] each, with queries and keys normalised and rotated."""
  B, L, E = qkv_BLE.shape
  heads = E // width - 2 * kv_heads
  heads_BLHW = qkv_BLE.reshape(B, L, E // width, width)
  q_BLHW, k_BLHW, v_BLHW = jnp.split(heads_BLHW, [heads, heads + kv_heads], axis=2)

  def turn(x_BLHW):
    if normalise:
      x_BLHW = x_BLHW * _inverse_rms(x_BLHW)
    if not cos_PU.size:
      return x_BLHW
    position_BL = position_B[:, None] + jnp.arange(L)
    cos_BL1U, sin_BL1U = (jnp.take(table, position_BL, axis=0, mode='clip')[:, :, None] for table in (cos_PU, sin_PU))
    first, second = jnp.split(x_BLHW, 2, axis=-1)
    return jnp.concatenate([first * cos_BL1U - second * sin_BL1U, second * cos_BL1U + first * sin_BL1U], axis=-1)

  return [turn(q_BLHW), turn(k_BLHW), v_BLHW]


def plain_cached_attention(
  q_BLHW: jax.Array,
  k_BLHW: jax.Array,
  v_BLHW: jax.Array,
  position_B: jax.Array,
  keys_BHSW: jax.Array,
  values_BHSW: jax.Array,
  scale: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Compute `cached_attention` on keys in the layout of values, which XLA need not rearrange."""
  keys_BHSW, values_BHSW = (_write(old, new, position_B) for old, new in ((keys_BHSW, k_BLHW), (values_BHSW, v_BLHW)))
  group = q_BLHW.shape[2] // keys_BHSW.shape[1]
  many_keys, many_values = (jnp.repeat(x, group, axis=1) if group > 1 else x for x in (keys_BHSW, values_BHSW))
  score_BHLS = jnp.einsum('blhw,bhsw->bhls', q_BLHW * scale, many_keys, precision='highest')
  weight_BHLS = jax.nn.softmax(jnp.where(_visible(score_BHLS, position_B), score_BHLS, -jnp.inf))
  out_BLHW = jnp.einsum('bhls,bhsw->blhw', weight_BHLS, many_values, precision='highest')
  return _where_room(out_BLHW, position_B, keys_BHSW.shape[2]), keys_BHSW, values_BHSW


def _join_heads(x_BLHW):
  B, L, H, W = x_BLHW.shape
  return x_BLHW.reshape(B, L, H * W)


def _write(cache_BHSX, new_BLHX, position_B):
  write = jax.vmap(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1))
  return write(cache_BHSX, new_BLHX.swapaxes(1, 2), position_B)


def _visible(score_BHLS, position_B):
  """Return which slots each token sees, [B, 1, L, S]."""
  L, S = score_BHLS.shape[2:]
  return (jnp.arange(S) <= (position_B[:, None] + jnp.arange(L))[..., None])[:, None]


def _where_room(out_BLHW, position_B, slots):
  room_B = (position_B >= 0) & (position_B + out_BLHW.shape[1] <= slots)
  return jnp.where(room_B[:, None, None, None], out_BLHW, jnp.nan)


def int8_cached_attention(
  qkv_BLE: jax.Array,
  position_B: jax.Array,
  cos_PU: jax.Array,
  sin_PU: jax.Array,
  keys_BHP: jax.Array,
  key_scale_BHS: jax.Array,
  values_BHP: jax.Array,
  value_scale_BHS: jax.Array,
  width: int,
  scale: float,
  normalise: bool,
) -> list[jax.Array]:
  """Return float32 [B, L, heads * W] and the four parts of the new cache; NaN for rows without room."""
  kv_heads, S = key_scale_BHS.shape[1:]
  q_BLHW, k_BLHW, v_BLHW = split_heads(qkv_BLE, position_B, cos_PU, sin_PU, kv_heads, width, normalise)

  def add(matrix_BHSW, scale_BHS, new_BLHW):
    q_BLHW, step_BLH1 = quantise(new_BLHW)
    return _write(matrix_BHSW, q_BLHW, position_B), _write(scale_BHS, step_BLH1[..., 0], position_B)

  keys_BHSW, key_scale_BHS = add(packing.unpack(packing.PackedInt8(keys_BHP, S, width)), key_scale_BHS, k_BLHW)
  values_BHWS = packing.unpack(packing.PackedInt8(values_BHP, width, S))
  values_BHSW, value_scale_BHS = add(values_BHWS.swapaxes(2, 3), value_scale_BHS, v_BLHW)
  group = q_BLHW.shape[2] // kv_heads

  def product(pattern, a, b):
    b = jnp.repeat(b, group, axis=1)
    return jnp.einsum(pattern, a.astype(jnp.int32), b.astype(jnp.int32)).astype(jnp.float32)

  def of_queries(scale_BHS):
    return jnp.repeat(scale_BHS, group, axis=1)[:, :, None]

  q_BHLW, step_BHL1 = quantise(q_BLHW.swapaxes(1, 2))
  score_BHLS = product('bhlw,bhsw->bhls', q_BHLW, keys_BHSW) * step_BHL1 * of_queries(key_scale_BHS) * scale
  visible_B1LS = _visible(score_BHLS, position_B)
  weight_BHLS = jax.nn.softmax(jnp.where(visible_B1LS, score_BHLS, -jnp.inf))
  weight_BHLS = jnp.where(visible_B1LS, weight_BHLS * of_queries(value_scale_BHS), 0.0)
  most_BHL1 = weight_BHLS.max(axis=-1, keepdims=True)
  usable_BHL1 = most_BHL1 >= TINY
  units_BHLS = jnp.where(usable_BHL1, weight_BHLS * (WEIGHT_MAX / jnp.where(usable_BHL1, most_BHL1, 1.0)), 0.0)
  # Two digits, like the kernel, so that int32 holds the sums of any cache.
  units_BHLS = jnp.round(units_BHLS).astype(jnp.int32)
  high_BHLW, low_BHLW = (
    product('bhls,bhsw->bhlw', digit, values_BHSW) for digit in (units_BHLS >> 7, units_BHLS & 127)
  )
  out_BHLW = (high_BHLW * 128 + low_BHLW) * (most_BHL1 / WEIGHT_MAX)
  return [
    _join_heads(_where_room(out_BHLW.swapaxes(1, 2), position_B, S)),
    packing.pack_int8(keys_BHSW).data,
    key_scale_BHS,
    packing.pack_int8(values_BHSW.swapaxes(2, 3)).data,
    value_scale_BHS,
  ]
