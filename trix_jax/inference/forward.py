"""The language model at inference: one jitted pass over new tokens, with a cache of earlier tokens.

The same function, `forward`, computes a whole text, a prompt that fills the cache, and a single new token. The kernels
of `xla_kernels` compute arrays from `weights.pack`. XLA alone computes arrays from `weights.as_trained`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import xla_kernels
from trix_jax.core import attention, routing, ternary
from trix_jax.inference.weights import (
  InferenceConfig,
  in_tile_order,
  index_of,
  keys_of,
  packed_tiles,
  signatures_of,
  tile_index_of,
)
from trix_jax.nn import ffn, indexed_ffn, transformer
from xla_kernels import reference

Weights = Mapping[str, Any]


class LayerCache(NamedTuple):
  """One layer's cache of earlier tokens.

  Attributes:
    key_values: keys and values of all earlier tokens, for `Computation.attend`.
    attention_inputs_BWD, ffn_inputs_BWD: latest inputs of the short convolutions; None in models without them.
  """

  key_values: Any
  attention_inputs_BWD: jax.Array | None
  ffn_inputs_BWD: jax.Array | None


class Cache(NamedTuple):
  """A model's cache of earlier tokens: one entry for each layer, and the number of tokens in each row."""

  layers: list[LayerCache]
  position_B: jax.Array


class Computation(NamedTuple):
  """Functions for the two costly parts of a layer; XLA always computes the rest.

  Attributes:
    ffn: (weights, name of the layer, config, x_ND, key for random routing) -> y_ND, RoutingInfo.
    attend: (q_BLHW, k_BLHW, v_BLHW, position_B, key_values) -> out_BLHW, key_values.
    empty_key_values: (batch, heads, width, slots) -> key_values, in the form that `attend` takes.
  """

  ffn: Callable[..., tuple[jax.Array, routing.RoutingInfo]]
  attend: Callable[..., tuple[jax.Array, Any]]
  empty_key_values: Callable[[int, int, int, int], Any]


def empty_cache(computation: Computation, config: InferenceConfig, batch: int, slots: int) -> Cache:
  """Make a cache with room for at least `slots` tokens in each row."""
  model = config.model

  def layer():
    inputs = jnp.zeros((batch, transformer.CONVOLUTION_WIDTH - 1, model.d_model)) if model.form == 'modern' else None
    return LayerCache(
      computation.empty_key_values(batch, model.heads, model.d_model // model.heads, slots), inputs, inputs
    )

  return Cache([layer() for _ in range(model.layers)], jnp.zeros(batch, jnp.int32))


def forward(
  computation: Computation,
  config: InferenceConfig,
  weights: Weights,
  token_BL: jax.Array,
  cache: Cache,
  length_B: jax.Array | None = None,
  key: jax.Array | None = None,
) -> tuple[jax.Array, list[routing.RoutingInfo], Cache]:
  """Compute new tokens that follow those of the cache.

  Args:
    computation: `PACKED` or `XLA`, whichever fits the weights.
    config, weights: see `weights.layout`.
    token_BL: int32. Only positions up to the model's context are valid; the cache must have room for L more tokens.
    cache: of the earlier tokens.
    length_B: number of valid tokens in each row, by default all. Tokens after them do not change earlier results.
    key: for random routing.

  Returns:
    Hidden states [B, L, D] for `logits`, each layer's RoutingInfo of all B * L tokens, and the new cache.
  """
  model = config.model
  B, L = token_BL.shape
  length_B = jnp.full(B, L, jnp.int32) if length_B is None else length_B
  position_BL = cache.position_B[:, None] + jnp.arange(L, dtype=jnp.int32)
  x_BLD = _rows(weights, 'embedding', token_BL)
  if model.form == 'reference':
    x_BLD += _rows(weights, 'positions', position_BL)
  infos, layers = [], []
  for layer, before in enumerate(cache.layers):
    name = f'layer_{layer}'

    def prepared(x_BLD, part, inputs_BWD, name=name):
      x_BLD = _norm(weights, f'{name}.{part}_norm', model, x_BLD)
      if inputs_BWD is None:
        return x_BLD, None
      padded_BPD = jnp.concatenate([inputs_BWD, x_BLD], axis=1)
      return (
        transformer.short_convolution(padded_BPD, weights[f'{name}.{part}_convolution']),
        _last_inputs(padded_BPD, length_B, L),
      )

    h_BLD, attention_inputs = prepared(x_BLD, 'attention', before.attention_inputs_BWD)
    qkv_BLD = project(weights, f'{name}.attention.qkv', h_BLD)
    q_BLHW, k_BLHW, v_BLHW = (part.reshape(B, L, model.heads, -1) for part in jnp.split(qkv_BLD, 3, axis=-1))
    if model.form == 'modern':
      q_BLHW, k_BLHW = (
        attention.rotary(transformer.head_norm(x), position_BL, model.context) for x in (q_BLHW, k_BLHW)
      )
    out_BLHW, key_values = computation.attend(q_BLHW, k_BLHW, v_BLHW, cache.position_B, before.key_values)
    x_BLD += project(weights, f'{name}.attention.out', out_BLHW.reshape(B, L, -1))

    h_BLD, ffn_inputs = prepared(x_BLD, 'ffn', before.ffn_inputs_BWD)
    layer_key = None if key is None else jax.random.fold_in(key, layer)
    y_ND, info = computation.ffn(weights, f'{name}.ffn', model.ffn, h_BLD.reshape(B * L, -1), layer_key)
    x_BLD += y_ND.reshape(x_BLD.shape)
    infos.append(info)
    layers.append(LayerCache(key_values, attention_inputs, ffn_inputs))
  return _norm(weights, 'final_norm', model, x_BLD), infos, Cache(layers, cache.position_B + length_B)


def logits(weights: Weights, x: jax.Array) -> jax.Array:
  """Map hidden states [..., D] to logits [..., V]."""
  return project(weights, 'head', x)


def project(weights: Weights, name: str, x: jax.Array) -> jax.Array:
  """Project [..., D] to [..., E] in any precision."""
  x_ND, matrix = x.reshape(-1, x.shape[-1]), weights[f'{name}.weights']
  if matrix.dtype == jnp.float32:
    y_NE = x_ND @ matrix
  else:
    scale_E = weights[f'{name}.scale']
    size = scale_E.shape[0], x_ND.shape[1]
    if matrix.dtype == jnp.int8:
      y_NE = xla_kernels.int8_matmul(x_ND, xla_kernels.PackedInt8(matrix, *size), scale_E)
    else:
      y_NE = xla_kernels.ternary_matmul(x_ND, xla_kernels.PackedTernary(matrix, *size), scale_E)
  if f'{name}.bias' in weights:
    y_NE += weights[f'{name}.bias']
  return y_NE.reshape(*x.shape[:-1], -1)


def _rows(weights, name, index):
  rows = jnp.take(weights[f'{name}.rows'], index, axis=0, mode='clip')
  if rows.dtype == jnp.float32:
    return rows
  return rows * jnp.take(weights[f'{name}.scale'], index, mode='clip')[..., None]


def _norm(weights, name, model, x):
  params = {key: weights[f'{name}.{key}'] for key in ('scale', 'bias') if f'{name}.{key}' in weights}
  return transformer.norm(model).apply({'params': params}, x)


def _last_inputs(padded_BPD, length_B, L):
  """Return the last valid inputs of a convolution, [B, W - 1, D]."""
  count = padded_BPD.shape[1] - L
  if L == 1:
    return padded_BPD[:, 1:]
  index_BW = length_B[:, None] + jnp.arange(count)
  return jnp.take_along_axis(padded_BPD, index_BW[..., None], axis=1)


def packed_ffn(
  weights: Weights, name: str, config: ffn.FFNConfig, x_ND: jax.Array, key: jax.Array | None
) -> tuple[jax.Array, routing.RoutingInfo]:
  """Compute a layer of packed tiles, under any routing.

  Emergent routing is one kernel call. XLA computes the rest of `RoutingInfo` beyond tiles and gates, and only when a
  caller uses it.
  """
  if config.clusters:
    x_ND = indexed_ffn.normed(x_ND, weights[f'{name}.norm.scale'])
  gate, bias = weights.get(f'{name}.gate.weights'), weights.get(f'{name}.balance_bias')
  bias = bias if config.balance_bias else None  # The bias is in the order of the signatures.
  bias_T = None if bias is None else in_tile_order(weights, name, config, bias)
  up, down = packed_tiles(weights, name, config)
  tiles = up, weights[f'{name}.up_scale'], down, weights[f'{name}.down_scale']
  q_ND, step_N1 = ternary.quantise_int8(x_ND)
  if config.routing == 'emergent':
    y_ND, tile_NK, gate_NK = xla_kernels.routed_ffn(
      x_ND,
      signatures_of(weights, name, config),
      *tiles,
      scale_T=weights[f'{name}.signature_scale'],
      bias_T=bias,
      top_k=config.top_k,
      index=tile_index_of(weights, name, config),
      gate=config.gate,
      keep_margin=config.keep_margin,
      activation=config.activation,
    )
    if config.clusters:
      cluster_bias_C = weights[f'{name}.cluster_bias'] if config.balance_bias else None
      info = indexed_ffn.route_through_index(
        q_ND, step_N1, index_of(weights, name, config), config, bias_T, cluster_bias_C
      )
    else:
      info = ffn.route_tokens(q_ND, step_N1, *keys_of(weights, name, config), config, None, bias_T)
    return y_ND, dataclasses.replace(info, tile_NK=tile_NK, gate_NK=gate_NK)
  logits_NT = None if gate is None else x_ND @ gate + weights[f'{name}.gate.bias']
  info = ffn.route_tokens(q_ND, step_N1, *keys_of(weights, name, config), config, logits_NT, bias_T, key)
  y_ND = xla_kernels.routed_tile_ffn(x_ND, *tiles, info.tile_NK, info.gate_NK, config.activation)
  return y_ND, info


def xla_ffn(
  weights: Weights, name: str, config: ffn.FFNConfig, x_ND: jax.Array, key: jax.Array | None
) -> tuple[jax.Array, routing.RoutingInfo]:
  """Compute a layer of tiles as trained, like `ffn.TriXFFN` and `ffn.SparseTriXFFN`."""
  layer, index = weights[name], weights[name].get('index')
  if index:
    x_ND = indexed_ffn.normed(x_ND, layer['norm']['scale'])
  q_ND, step_N1 = ternary.quantise_activations(x_ND, config.int8_activations)
  tiles = layer['tiles']
  bias_T, cluster_bias_C = (
    layer[kind] if config.balance_bias and kind in layer else None for kind in ('balance_bias', 'cluster_bias')
  )
  logits_NT = None
  if 'gate' in layer and config.routing != 'emergent':
    logits_NT = x_ND @ layer['gate']['kernel'] + layer['gate']['bias']
  if index and config.routing == 'emergent':
    info = indexed_ffn.route_through_index(q_ND, step_N1, index, config, bias_T, cluster_bias_C)
  else:
    keys = (index.key_TD, index.scale_T) if index else (tiles.signatures_TD, tiles.signature_scale_T)
    info = ffn.route_tokens(q_ND, step_N1, *keys, config, logits_NT, bias_T, key)
  if config.routing == 'dense':
    return ffn.compute_dense(q_ND, step_N1, info.gate_NK, tiles, config), info
  return ffn.compute_sparse(q_ND, step_N1, info.tile_NK, info.gate_NK, tiles, config), info


def xla_attention(
  q_BLHW: jax.Array,
  k_BLHW: jax.Array,
  v_BLHW: jax.Array,
  position_B: jax.Array,
  key_values: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Compute `xla_kernels.cached_attention` by XLA; keys and values are [B, H, S, W]."""
  out_BLHW, keys_BHSW, values_BHSW = reference.plain_cached_attention(
    q_BLHW, k_BLHW, v_BLHW, position_B, *key_values, scale=q_BLHW.shape[3] ** -0.5
  )
  return out_BLHW, (keys_BHSW, values_BHSW)


def xla_key_values(batch: int, heads: int, width: int, slots: int) -> tuple[jax.Array, jax.Array]:
  """Make an empty cache for `xla_attention`."""
  return jnp.zeros((batch, heads, slots, width)), jnp.zeros((batch, heads, slots, width))


PACKED = Computation(packed_ffn, xla_kernels.cached_attention, xla_kernels.empty_cache)
XLA = Computation(xla_ffn, xla_attention, xla_key_values)


@functools.partial(jax.jit, static_argnums=(0, 1))
def whole_text(
  computation: Computation, config: InferenceConfig, weights: Weights, token_BL: jax.Array, key: jax.Array | None = None
) -> tuple[jax.Array, list[routing.RoutingInfo]]:
  """Compute logits [B, L, V] and each layer's RoutingInfo of whole texts; `key` is for random routing."""
  x_BLD, infos, _ = forward(
    computation, config, weights, token_BL, empty_cache(computation, config, *token_BL.shape), key=key
  )
  return logits(weights, x_BLD), infos
