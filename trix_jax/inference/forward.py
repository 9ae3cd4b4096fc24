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
from trix_jax.core import attention, layers, routing, ternary
from trix_jax.inference.unpacking import read_addresses, unpack_router, wrap_index, wrap_keys, wrap_tiles
from trix_jax.inference.weights import InferenceConfig
from trix_jax.nn import ffn, indexed_ffn, router, transformer
from trix_jax.nn.model_config import FFNConfig, ModelConfig
from trix_jax.nn.transformer import LayerCache
from xla_kernels import operations, reference

Weights = Mapping[str, Any]


class Cache(NamedTuple):
  """A model's cache of earlier tokens: one entry for each layer, and the number of tokens in each row."""

  layers: list[LayerCache]
  position_B: jax.Array


class Computation(NamedTuple):
  """Functions for the parts of a model, from packed or from trained weights.

  Attributes:
    normalise: (weights, name, config, x, y) -> h, x + y normalised; y may be None.
    prepare: (weights, name of the layer, `attention` or `ffn`, config, x_BLD, y_BLD, inputs_BWD, length_B) -> as
      `transformer.prepare`.
    attend: (config, qkv_BLE, position_B, key_values) -> out_BLD, key_values.
    apply_tiles: (weights, name of the layer, config, x_ND, Tokens, key for random routing) -> y_ND, RoutingInfo.
    empty_key_values: (batch, heads, width, slots, dtype) -> key_values, in the form that `attend` takes.
  """

  normalise: Callable[..., jax.Array]
  prepare: Callable[..., tuple[jax.Array, jax.Array, jax.Array | None]]
  attend: Callable[..., tuple[jax.Array, Any]]
  apply_tiles: Callable[..., tuple[jax.Array, routing.RoutingInfo]]
  empty_key_values: Callable[[int, int, int, int, Any], Any]


def empty_cache(computation: Computation, config: InferenceConfig, batch: int, slots: int) -> Cache:
  """Make a cache with room for at least `slots` tokens in each row."""
  model = config.model

  def layer():
    shape = batch, layers.CONVOLUTION_WIDTH - 1, model.d_model
    inputs = jnp.zeros(shape, jnp.float32) if model.form == 'modern' else None
    key_values = computation.empty_key_values(batch, model.heads, model.head_width, slots, config.key_values)
    return LayerCache(key_values, inputs, inputs)

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
  B, L = token_BL.shape
  length_B = jnp.full(B, L, jnp.int32) if length_B is None else length_B

  def apply_layer(layer, x_BLD, y_BLD, tokens, before):
    parts = _block_parts(computation, config, weights, layer, tokens, cache.position_B, length_B, key)
    return transformer.apply_block(config.model, parts, x_BLD, y_BLD, before)

  parts = transformer.ModelParts(
    vocabulary_size=config.vocabulary_size,
    embed=lambda token_BL: _rows(weights, 'embedding', token_BL),
    embed_positions=lambda: _rows(weights, 'positions', cache.position_B[:, None] + jnp.arange(L, dtype=jnp.int32)),
    apply_layer=apply_layer,
    normalise=lambda name, x_BLD, y_BLD: computation.normalise(weights, name, config.model, x_BLD, y_BLD),
  )
  x_BLD, infos, new_layers = transformer.apply_model(config.model, parts, token_BL, cache.layers)
  return x_BLD, infos, Cache(new_layers, cache.position_B + length_B)


def _block_parts(computation, config, weights, layer, tokens, position_B, length_B, key):
  model, name = config.model, f'layer_{layer}'

  def attend(h_BLD, key_values):
    return computation.attend(model, project(weights, f'{name}.attention.qkv', h_BLD), position_B, key_values)

  def apply_tiles(h_BLD):
    layer_key = None if key is None else jax.random.fold_in(key, layer)
    x_ND = h_BLD.reshape(-1, model.d_model)
    y_ND, info = computation.apply_tiles(weights, f'{name}.ffn', model.ffn, x_ND, tokens, layer_key)
    return y_ND.reshape(h_BLD.shape), info

  return transformer.BlockParts(
    prepare=lambda part, x_BLD, y_BLD, inputs_BWD: computation.prepare(
      weights, name, part, model, x_BLD, y_BLD, inputs_BWD, length_B
    ),
    attend=attend,
    project_out=lambda out_BLD: project(weights, f'{name}.attention.out', out_BLD),
    apply_tiles=apply_tiles,
  )


def logits(weights: Weights, x: jax.Array) -> jax.Array:
  """Map hidden states [..., D] to logits [..., V]."""
  return project(weights, 'head', x)


def project(weights: Weights, name: str, x: jax.Array) -> jax.Array:
  """Project [..., D] to [..., E] in any precision."""
  x_ND, matrix = x.reshape(-1, x.shape[-1]), weights[f'{name}.weights']
  bias_E = weights.get(f'{name}.bias')
  scale_E = weights.get(f'{name}.scale')
  if matrix.dtype == jnp.float32:
    y_NE = transformer.add(x_ND @ matrix if scale_E is None else layers.multiply_codes(x_ND, matrix, scale_E), bias_E)
  else:
    assert scale_E is not None
    size = scale_E.shape[0], x_ND.shape[1]
    if matrix.dtype == jnp.int8:
      y_NE = xla_kernels.int8_matmul(x_ND, xla_kernels.PackedInt8(matrix, *size), scale_E, bias_E)
    else:
      y_NE = xla_kernels.ternary_matmul(x_ND, xla_kernels.PackedTernary(matrix, *size), scale_E, bias_E)
  return y_NE.reshape(*x.shape[:-1], -1)


def _rows(weights, name, index):
  rows = jnp.take(weights[f'{name}.rows'], index, axis=0, mode='clip')
  if rows.dtype == jnp.float32:
    return rows
  return rows * jnp.take(weights[f'{name}.scale'], index, mode='clip')[..., None]


def normalise_packed(weights: Weights, name: str, model: ModelConfig, x: jax.Array, y: jax.Array | None) -> jax.Array:
  """Add and normalise in one call."""
  return _call_normalise(weights, name, x, y)[1]


def _call_normalise(weights, name, x, y):
  """Return x + y, and what it is normalised; both in the shape of x."""
  y_ND = None if y is None else y.reshape(-1, x.shape[-1])
  sum_ND, h_ND = xla_kernels.normalise(
    x.reshape(-1, x.shape[-1]), weights[f'{name}.scale'], weights.get(f'{name}.bias'), add=y_ND
  )
  return sum_ND.reshape(x.shape), h_ND.reshape(x.shape)


def prepare_packed(
  weights: Weights,
  name: str,
  part: str,
  model: ModelConfig,
  x_BLD: jax.Array,
  y_BLD: jax.Array | None,
  inputs_BWD: jax.Array | None,
  length_B: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Compute `transformer.prepare` in one call."""
  norm = f'{name}.{part}_norm'
  if inputs_BWD is None:  # The `reference` form has no convolutions.
    return *_call_normalise(weights, norm, x_BLD, y_BLD), None
  return xla_kernels.normalise_and_convolve(
    x_BLD,
    weights[f'{norm}.scale'],
    weights.get(f'{norm}.bias'),
    weights[f'{name}.{part}_convolution'],
    inputs_BWD,
    length_B,
    add=y_BLD,
  )


def attend_packed(
  model: ModelConfig, qkv_BLE: jax.Array, position_B: jax.Array, key_values: Any
) -> tuple[jax.Array, Any]:
  """Turn queries and keys and attend, in one call."""
  if model.form == 'reference':
    return xla_kernels.cached_attention(qkv_BLE, position_B, key_values)
  rotary = xla_kernels.RotaryTables(*attention.rotary_tables(model.context, model.head_width))
  return xla_kernels.cached_attention(qkv_BLE, position_B, key_values, rotary=rotary, normalise_heads=True)


def apply_packed_tiles(
  weights: Weights, name: str, config: FFNConfig, x_ND: jax.Array, tokens: ffn.Tokens | None, key: jax.Array | None
) -> tuple[jax.Array, routing.RoutingInfo]:
  """Compute a layer of packed tiles, under any routing.

  A routing and a gate that the kernel has are one kernel call. Addresses that the context does not change are read
  from their table. XLA computes the rest of `RoutingInfo` beyond tiles and gates, and only when a caller uses it.
  """
  if config.clusters:
    x_ND = indexed_ffn.normalise(x_ND, weights[f'{name}.norm.scale'])
  up, down = wrap_tiles(weights, name, config)
  tiles = up, weights[f'{name}.up_scale'], down, weights[f'{name}.down_scale']
  asked = ffn.choose_asked(config, router.Asked(x_ND, *ternary.quantise_int8(x_ND)), tokens)
  info = router.route(unpack_router(weights, name, config), config, asked, key)
  if config.has_fixed_addresses:
    assert tokens is not None
    tile_NK, gate_NK = read_addresses(weights, name, tokens.number.reshape(-1))
    info = dataclasses.replace(info, tile_NK=tile_NK, gate_NK=gate_NK)
  if config.has_fixed_addresses or not config.way.in_kernel or config.gate not in operations.GATES:
    y_ND = xla_kernels.routed_tile_ffn(x_ND, *tiles, info.tile_NK, info.gate_NK, config.activation)
    return y_ND, info
  y_ND, tile_NK, gate_NK = xla_kernels.routed_ffn(
    x_ND,
    wrap_keys(weights, name, config),
    *tiles,
    scale_T=weights[f'{name}.signature_scale'],
    bias_T=weights[f'{name}.balance_bias'] if config.balance_bias else None,  # In the order of the signatures.
    top_k=config.top_k,
    index=wrap_index(weights, name, config),
    gate=config.gate,
    keep_margin=config.keep_margin,
    activation=config.activation,
  )
  return y_ND, dataclasses.replace(info, tile_NK=tile_NK, gate_NK=gate_NK)


def apply_trained_tiles(
  weights: Weights, name: str, config: FFNConfig, x_ND: jax.Array, tokens: ffn.Tokens | None, key: jax.Array | None
) -> tuple[jax.Array, routing.RoutingInfo]:
  """Compute a layer of tiles as trained, like the Flax layers."""
  layer = weights[name]
  if 'norm' in layer:
    x_ND = indexed_ffn.normalise(x_ND, layer['norm']['scale'])
  return ffn.apply_tiles(
    config, layer['tiles'], x_ND, tokens, lambda asked: router.route(layer['router'], config, asked, key)
  )


def normalise_trained(weights: Weights, name: str, model: ModelConfig, x: jax.Array, y: jax.Array | None) -> jax.Array:
  """Add, and normalise like the Flax layers."""
  params = {key: weights[f'{name}.{key}'] for key in ('scale', 'bias') if f'{name}.{key}' in weights}
  normalised: Any = transformer.norm(model).apply({'params': params}, transformer.add(x, y))
  return normalised


def prepare_trained(
  weights: Weights,
  name: str,
  part: str,
  model: ModelConfig,
  x_BLD: jax.Array,
  y_BLD: jax.Array | None,
  inputs_BWD: jax.Array | None,
  length_B: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Compute `transformer.prepare` like the Flax layers."""
  return transformer.prepare(
    model,
    lambda x_BLD: normalise_trained(weights, f'{name}.{part}_norm', model, x_BLD, None),
    lambda x_BPD: layers.short_convolution(x_BPD, weights[f'{name}.{part}_convolution']),
    x_BLD,
    y_BLD,
    inputs_BWD,
    length_B,
  )


def split_heads(
  model: ModelConfig, qkv_BLE: jax.Array, position_B: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Return queries, keys and values, [B, L, heads, W] each, turned by their positions."""
  B, L, _ = qkv_BLE.shape
  q_BLHW, k_BLHW, v_BLHW = (part.reshape(B, L, model.heads, -1) for part in jnp.split(qkv_BLE, 3, axis=-1))
  position_BL = position_B[:, None] + jnp.arange(L, dtype=jnp.int32)
  return *transformer.turn_heads(model, q_BLHW, k_BLHW, position_BL), v_BLHW


def attend_trained(
  model: ModelConfig, qkv_BLE: jax.Array, position_B: jax.Array, key_values: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Attend by XLA; keys and values are [B, H, S, W]."""
  out_BLHW, keys_BHSW, values_BHSW = reference.plain_cached_attention(
    *split_heads(model, qkv_BLE, position_B), position_B, *key_values, scale=model.head_width**-0.5
  )
  return out_BLHW.reshape(*qkv_BLE.shape[:2], -1), (keys_BHSW, values_BHSW)


def xla_key_values(batch: int, heads: int, width: int, slots: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
  """Make an empty cache for `attend_trained`, of float32."""
  shape = batch, heads, slots, width
  return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


PACKED = Computation(normalise_packed, prepare_packed, attend_packed, apply_packed_tiles, xla_kernels.empty_cache)
XLA = Computation(normalise_trained, prepare_trained, attend_trained, apply_trained_tiles, xla_key_values)


@functools.partial(jax.jit, static_argnums=(0, 1))
def whole_text(
  computation: Computation, config: InferenceConfig, weights: Weights, token_BL: jax.Array, key: jax.Array | None = None
) -> tuple[jax.Array, list[routing.RoutingInfo]]:
  """Compute logits [B, L, V] and each layer's RoutingInfo of whole texts; `key` is for random routing."""
  x_BLD, infos, _ = forward(
    computation, config, weights, token_BL, empty_cache(computation, config, *token_BL.shape), key=key
  )
  return logits(weights, x_BLD), infos
