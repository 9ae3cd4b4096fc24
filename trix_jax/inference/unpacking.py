"""Read a packed layer: as the kernels take it, or unpacked for XLA, from the arrays of `weights.layout`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import xla_kernels
from trix_jax.core import tile_index
from trix_jax.nn import ffn, router
from trix_jax.nn.model_config import FFNConfig


def unpack_tiles(arrays: Mapping[str, Any], name: str, config: FFNConfig) -> ffn.TernaryTiles:
  """Unpack the tiles of a layer of packed arrays into the form for XLA."""
  up_THD, down_TDH = map(xla_kernels.unpack, wrap_tiles(arrays, name, config))
  return ffn.TernaryTiles(
    up_THD.swapaxes(1, 2).astype(jnp.float32),
    down_TDH.swapaxes(1, 2).astype(jnp.float32),
    arrays[f'{name}.up_scale'],
    arrays[f'{name}.down_scale'],
    *unpack_keys(arrays, name, config),
  )


def wrap_tiles(
  arrays: Mapping[str, Any], name: str, config: FFNConfig
) -> tuple[xla_kernels.PackedTernary, xla_kernels.PackedTernary]:
  """Return the up- and down-projections of a layer of packed arrays."""
  D, H = config.d_model, config.hidden
  return (
    xla_kernels.PackedTernary(arrays[f'{name}.up'], H, D),
    xla_kernels.PackedTernary(arrays[f'{name}.down'], D, H),
  )


def wrap_keys(
  arrays: Mapping[str, Any], name: str, config: FFNConfig
) -> xla_kernels.PackedTernary | xla_kernels.PackedInt8:
  """Return the packed routing addresses of a layer, for all tiles, or for the tiles of each cluster."""
  return _kind(config)(arrays[f'{name}.signatures'], config.tiles // (config.clusters or 1), config.d_model)


def wrap_index(arrays: Mapping[str, Any], name: str, config: FFNConfig) -> xla_kernels.TileIndex | None:
  """Return the clusters of a layer of packed arrays; None without an index."""
  if not config.clusters:
    return None
  clusters = _kind(config)(arrays[f'{name}.clusters'], config.clusters, config.d_model)
  bias_C = arrays[f'{name}.cluster_bias'] if config.balance_bias else None
  return xla_kernels.TileIndex(
    clusters, arrays[f'{name}.cluster_scale'], bias_C, arrays[f'{name}.members'], config.probes
  )


def order_by_tile(arrays: Mapping[str, Any], name: str, config: FFNConfig, x: jax.Array) -> jax.Array:
  """Bring routing's numbers for every tile, [T, ...] or in the order of clusters [C, M, ...], to [T, ...]."""
  if not config.clusters:
    return x
  return x.reshape(config.tiles, *x.shape[2:])[jnp.argsort(arrays[f'{name}.members'].reshape(-1))]


def unpack_router(arrays: Mapping[str, Any], name: str, config: FFNConfig) -> router.Router:
  """Unpack what a layer of packed arrays routes by, with the tiles in their order."""

  def in_order(key):
    return order_by_tile(arrays, name, config, arrays[f'{name}.{key}'])

  key_TD, scale_T = unpack_keys(arrays, name, config)
  packed = wrap_index(arrays, name, config)
  index = None
  if packed is not None:
    assert packed.scale_C is not None
    cluster_key_CD = xla_kernels.unpack(packed.clusters).astype(jnp.float32)
    index = tile_index.Index(key_TD, scale_T, packed.member_CM, cluster_key_CD, packed.scale_C)
  bias_T = in_order('balance_bias') if config.balance_bias else None
  gate = None
  if f'{name}.gate.weights' in arrays:
    gate = arrays[f'{name}.gate.weights'], arrays[f'{name}.gate.bias']
  return router.Router(key_TD, scale_T, index, bias_T, None if packed is None else packed.bias_C, gate)


def unpack_keys(arrays: Mapping[str, Any], name: str, config: FFNConfig) -> tuple[jax.Array, jax.Array]:
  """Unpack the routing addresses of all tiles, float32 [T, D], and their scales [T]."""
  keys = xla_kernels.unpack(wrap_keys(arrays, name, config)).astype(jnp.float32)
  return (
    order_by_tile(arrays, name, config, keys),
    order_by_tile(arrays, name, config, arrays[f'{name}.signature_scale']),
  )


def read_addresses(arrays: Mapping[str, Any], name: str, token_N: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Look up the tiles and the gates of tokens in a layer's table, [N, K] each."""
  tile_NK = jnp.take(arrays[f'{name}.address.tiles'], token_N, axis=0, mode='clip').astype(jnp.int32)
  if f'{name}.address.gates' not in arrays:
    return tile_NK, jnp.ones(tile_NK.shape, jnp.float32)
  return tile_NK, jnp.take(arrays[f'{name}.address.gates'], token_N, axis=0, mode='clip')


def _kind(config):
  return xla_kernels.PackedTernary if config.signature == 'sign' else xla_kernels.PackedInt8
