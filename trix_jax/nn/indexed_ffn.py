"""Ternary tiles behind a two-level index: a content-addressable memory whose values are small programs.

The index is state that no gradient trains: running averages of the tiles' signatures, clusters over them, and balance
biases. It is in the collection `routing`. It routes in training and inference alike. `routing_state.update` changes it
after each training step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, final

import jax
import jax.numpy as jnp
from flax import linen as nn

from trix_jax.core import routing, tile_index
from trix_jax.errors import InputError
from trix_jax.nn import ffn, router
from trix_jax.nn.ffn import TernaryTiles
from trix_jax.nn.model_config import FFNConfig

TILE_PARAMETERS = ('up', 'down', 'up_scale', 'down_scale', 'output_scale')


def name_tile_parameters(params: Mapping[str, Any], config: FFNConfig) -> tuple[str, ...]:
  """Name those of a layer's parameters that belong to single tiles, with tiles as their first axis."""
  shared = ('down_scale',) if config.shared_down_scale else ()
  return tuple(name for name in TILE_PARAMETERS if name in params and name not in shared)


def scale_keys(state: Mapping[str, jax.Array], config: FFNConfig) -> jax.Array:
  """Return the points that a layer clusters: its tiles' keys at root mean square 1 (`votes`), [T, D]."""
  index = read_index(state, config)
  return index.key_TD * index.scale_T[:, None]


def read_index(
  state: Mapping[str, jax.Array], config: FFNConfig, signatures_TD: jax.Array | None = None
) -> tile_index.Index:
  """Make the index from a layer's state. Gradients pass to the current `signatures_TD`, unless routing is frozen."""
  if signatures_TD is not None:
    signatures_TD = signatures_TD * (1 - state['frozen'])
  scores_are_means = carries_biases(config)
  return tile_index.make_index(state['average'], state['member'], config.signature, signatures_TD, scores_are_means)


def carries_biases(config: FFNConfig) -> bool:
  """Return whether the scores of clusters carry the biases of their tiles."""
  return config.balance_bias and config.cluster_bias != 'own'


def read_cluster_bias(state: Mapping[str, jax.Array], config: FFNConfig) -> jax.Array | None:
  """Return what the clusters' scores carry, see `FFNConfig.cluster_bias`, [C]; None without balance biases."""
  if not config.balance_bias:
    return None
  if config.cluster_bias == 'own':
    return state['cluster_bias']
  return tile_index.bias_of_members(state['balance_bias'], state['member'], config.cluster_bias)


def configure_one_tile(config: FFNConfig) -> FFNConfig:
  """Return the config of a single tile of a layer."""
  return dataclasses.replace(
    config,
    d_ff=config.hidden,
    tiles=1,
    top_k=1,
    routing='first',
    address='stream',
    gate='one_hot',
    clusters=0,
    probes=1,
    keep_ratio=0.0,
    balance_bias=False,
  )


def take_tile(params: Mapping[str, jax.Array], tile: int, config: FFNConfig) -> dict[str, jax.Array]:
  """Return the parameters of one tile of an `IndexedFFN`, for `TriXTile`."""
  own = name_tile_parameters(params, config)
  return {name: params[name][tile : tile + 1] if name in own else params[name] for name in TILE_PARAMETERS}


def normalise(x_ND: jax.Array, scale_D: jax.Array) -> jax.Array:
  """Normalise a layer's input for its tiles with the `scale` of its norm."""
  result: Any = nn.RMSNorm(parent=None).apply({'params': {'scale': scale_D}}, x_ND)
  return result


def route_by_index(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Route through the index, or by all tiles' averages where the routing does not use it.

  The layer's state in the collection `routing`:
    average: [T, D], running averages of the signatures.
    member: int32 [C, T / C], the clusters.
    load: [T], running averages of the shares of assignments.
    frozen: [], 1 when routing no longer learns.
    balance_bias: [T], with `config.balance_bias`.
    cluster_bias: [C], with `config.balance_bias` for clusters with their own biases.
  """
  config: FFNConfig = layer.config
  if not config.clusters:
    raise InputError(
      'a layer behind an index finds its tiles through clusters: set model.clusters to a number that '
      f'divides model.tiles = {config.tiles}, or use SparseTriXFFN'
    )
  state = _index_state(layer, given.tiles)
  index = read_index(state, config, given.tiles.signatures_TD)
  cluster_bias_C = read_cluster_bias(state, config) if config.way.uses_index else None
  by = router.Router(index.key_TD, index.scale_T, index, state.get('balance_bias'), cluster_bias_C)
  return router.route(by, config, given.asked, ffn.draw_routing_key(layer))


def _index_state(layer: nn.Module, tiles: TernaryTiles) -> dict[str, jax.Array]:
  config: FFNConfig = layer.config
  signatures_TD = jax.lax.stop_gradient(tiles.signatures_TD)

  def first_clusters():
    points_TD = signatures_TD * tiles.signature_scale_T[:, None]
    return tile_index.balanced_kmeans(points_TD, config.clusters, jax.random.key(0))

  def first_load():  # The dtype is explicit, because a weak type would compile the training step twice.
    return jnp.full(config.tiles, 1 / config.tiles, jnp.float32)

  state = {
    'average': layer.variable('routing', 'average', lambda: signatures_TD).value,
    'member': layer.variable('routing', 'member', first_clusters).value,
    'load': layer.variable('routing', 'load', first_load).value,
    'frozen': layer.variable('routing', 'frozen', jnp.zeros, ()).value,
  }
  if config.balance_bias:
    if config.cluster_bias == 'own' and config.way.uses_index:
      state['cluster_bias'] = layer.variable('routing', 'cluster_bias', jnp.zeros, (config.clusters,)).value
    state['balance_bias'] = ffn.read_balance_bias(layer)
  return state


@final
class IndexedFFN(nn.Module):
  """Many tiles behind an index: y = the sum of gate * output_scale * tile(norm(x)) over a token's tiles.

  Attributes:
    config: of the layer.
    route: how tokens choose tiles.
    execute: how chosen tiles are computed.
    normalise: whether the tiles read norm(x), or x itself.
    scale_outputs: whether every tile has an output scale.
  """

  config: FFNConfig
  route: ffn.Route = route_by_index
  execute: ffn.Execute = ffn.compute
  normalise: bool = True
  scale_outputs: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, tokens: ffn.Tokens | None = None) -> tuple[jax.Array, routing.RoutingInfo]:
    x_ND = ffn.flatten_tokens(self, x)
    if self.normalise:
      x_ND = nn.RMSNorm(name='norm')(x_ND)
    scales = (
      {'output_scale': self.param('output_scale', nn.initializers.ones, (self.config.tiles,))}
      if self.scale_outputs
      else {}
    )
    params = {**ffn.make_parameters(self), **scales}
    y_ND, info = ffn.apply_layer(self, x_ND, params, tokens)
    return y_ND.reshape(x.shape), info


HierarchicalTriXFFN = IndexedFFN


def TriXTile(config: FFNConfig, **settings: Any) -> IndexedFFN:
  """Make one ternary tile with its output scale, without a router. `configure_one_tile` gives its config."""
  return IndexedFFN(config, ffn.route_by_signatures, ffn.compute_all, normalise=False, **settings)


class HierarchicalTriXBlock(nn.Module):
  """The layer with its residual: y = x + output_scale * tile(norm(x))."""

  config: FFNConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, routing.RoutingInfo]:
    y, info = IndexedFFN(self.config, name='ffn')(x)
    return x + y, info
