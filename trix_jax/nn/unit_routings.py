"""Routings that look at the hidden units of every tile, and so know more than its signature: for experiments only.

Each says what could be known of a tile before it is computed, and at what cost. See `controls.TABLE`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from trix_jax.core import routing
from trix_jax.nn import ffn, router
from trix_jax.nn.model_config import ACTIVATIONS, FFNConfig

# Groups of hidden units in a layer. So many keys a routing of coarse tiles may score; see `count_groups`.
GROUPS = 128
# Shares of what votes read that tokens may hold; see `route_by_share`.
SHARES = (0.95, 0.98, 0.99, 0.995, 0.998)
# Correlation of votes with a tile's odd part; see `route_by_energy`.
ENERGY_RATIO = 0.8


def send(layer: nn.Module, given: ffn.RouteInput, tile_NK: jax.Array) -> routing.RoutingInfo:
  """Send every token to the given tiles, with gates of 1. Scores are those of the signatures, for the statistics."""
  info = ffn.route_by_signatures(layer, given)
  return dataclasses.replace(info, tile_NK=tile_NK, gate_NK=jnp.ones(tile_NK.shape, jnp.float32))


def route_by_activity(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Route by what all hidden units would put out, the most that a routing can know from their pre-activations."""
  unit_NTH, norm_TH = weigh_units(given.asked, given.tiles)
  active_NTH = ACTIVATIONS[layer.config.activation](unit_NTH)
  score_NT = jnp.einsum('nth,th->nt', active_NTH, norm_TH)
  return send(layer, given, routing.select(score_NT, layer.config.top_k))


def route_by_remainder(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Choose tiles one by one, each the one that leaves the least of all tiles' output: an oracle of the layer."""
  unit_NTH, _ = weigh_units(given.asked, given.tiles)
  down_THD = given.tiles.down_THD * given.tiles.down_scale_TD[:, None]
  part_NTD = jnp.einsum('nth,thd->ntd', ACTIVATIONS[layer.config.activation](unit_NTH), down_THD)
  product_NTT = jnp.einsum('ntd,nsd->nts', part_NTD, part_NTD)

  def choose(gain_NT, _):
    tile_N = jnp.argmax(gain_NT, axis=-1).astype(jnp.int32)
    gain_NT -= 2 * jnp.take_along_axis(product_NTT, tile_N[:, None, None], axis=1)[:, 0]
    chosen_NT = tile_N[:, None] == jnp.arange(layer.config.tiles)
    return jnp.where(chosen_NT, -jnp.inf, gain_NT), tile_N

  # By what a tile shortens the square of what is left, 2 left . part - part . part; first all is left.
  gain_NT = 2 * product_NTT.sum(axis=-1) - jnp.diagonal(product_NTT, axis1=1, axis2=2)
  _, tile_KN = jax.lax.scan(choose, gain_NT, length=layer.config.top_k)
  return send(layer, given, tile_KN.T)


def route_by_squared_gate(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Route by a learned gate that reads what is asked and its squares."""
  x_NE = add_squares(given.asked.x_ND)
  gate = ffn.Gate(x_NE.shape[1], layer.config.tiles, name='squared_gate')()
  keys = given.tiles.signatures_TD, given.tiles.signature_scale_T
  return ffn.route_by_keys(layer, given._replace(asked=given.asked._replace(x_ND=x_NE)), *keys, gate)


def add_squares(x_ND: jax.Array) -> jax.Array:
  """Return a vector's elements and their squares, [N, 2 * D]."""
  return jnp.concatenate([x_ND, jnp.square(x_ND)], axis=-1)


def route_by_energy(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Route by votes a and energy e: e + 0.8 a sqrt(e / H), which is near the sum of relu^2 of all units.

  relu^2 of a unit is (u^2 + u |u|) / 2: votes read the odd part of a tile, its energy the even part. Units count by the
  norm of their outputs.
  """
  score_NT = score_by_energy(given.asked, given.tiles)
  return send(layer, given, routing.select(score_NT, layer.config.top_k))


def score_by_energy(asked: router.Asked, tiles: ffn.TernaryTiles) -> jax.Array:
  """Return the scores of `route_by_energy`, [N, T]."""
  unit_NTH, norm_TH = weigh_units(asked, tiles)
  energy_NT = jnp.einsum('nth,th->nt', jnp.square(unit_NTH), norm_TH)
  vote_NT = jnp.einsum('nth,th->nt', unit_NTH, jnp.sqrt(norm_TH))
  return add_votes(energy_NT, vote_NT, norm_TH.shape[1])


def add_votes(energy_NT: jax.Array, vote_NT: jax.Array, hidden: int) -> jax.Array:
  """Return what energy and votes of tiles with H units say together; see `route_by_energy`."""
  return energy_NT + ENERGY_RATIO * vote_NT * jnp.sqrt(energy_NT / hidden)


def count_groups(config: FFNConfig) -> int:
  """Return the number of groups of each tile's units: a layer has `GROUPS`, or one a tile if it has more tiles.

  Units next to one another in a tile form a group. So a tile needs its units in such an order.
  """
  return math.gcd(max(1, GROUPS // config.tiles), config.hidden)


def route_by_grouped_votes(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Route by the votes of groups of units: a tile's score is the sum of relu^2 of their mean votes.

  A group counts by the mean norm of its units' outputs. See `count_groups`.
  """
  unit_NTH, norm_TH = weigh_units(given.asked, given.tiles)
  mean_NTG, norm_TG = (_in_groups(of, layer.config).mean(axis=-1) for of in (unit_NTH, norm_TH))
  score_NT = jnp.einsum('ntg,tg->nt', jnp.square(jnp.maximum(mean_NTG, 0)), norm_TG)
  return send(layer, given, routing.select(score_NT, layer.config.top_k))


def route_by_witnesses(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Route by some of a tile's own units: from each group the one whose codes are most like those of all.

  What it would put out, see `route_by_activity`, stands for its group. See `count_groups`.
  """
  unit_NTH, norm_TH = weigh_units(given.asked, given.tiles)
  unit_NTGU, norm_TGU = (_in_groups(of, layer.config) for of in (unit_NTH, norm_TH))
  up_TGUD = _in_groups(jnp.moveaxis(given.tiles.up_TDH, 1, 0), layer.config).transpose(1, 2, 3, 0)
  like_TGU = jnp.einsum('tgud,tgd->tgu', up_TGUD, up_TGUD.mean(axis=2))
  witness_TG1 = jnp.argmax(like_TGU, axis=-1, keepdims=True)
  witness_NTG = jnp.take_along_axis(unit_NTGU, witness_TG1[None], axis=-1)[..., 0]
  active_NTG = ACTIVATIONS[layer.config.activation](witness_NTG)
  score_NT = jnp.einsum('ntg,tg->nt', active_NTG, norm_TGU.sum(axis=-1))
  return send(layer, given, routing.select(score_NT, layer.config.top_k))


def _in_groups(of_XH: jax.Array, config: FFNConfig) -> jax.Array:
  return of_XH.reshape(*of_XH.shape[:-1], count_groups(config), -1)


def route_by_low_rank_energy(layer: nn.Module, given: ffn.RouteInput) -> routing.RoutingInfo:
  """Route as `route_by_energy` does, with the energy along a tile's largest directions alone.

  Votes and directions are as many keys as there are groups. The other directions add what they have in the mean.
  """
  x_ND, tiles, config = given.asked.q_ND * given.asked.step_N1, given.tiles, layer.config
  norm_TH = ffn.measure_outputs(tiles)
  row_THD = jnp.swapaxes(tiles.up_TDH * tiles.up_scale_TH[:, None], 1, 2)
  weighted_THD = row_THD * jnp.sqrt(norm_TH)[..., None]
  # The squares along all eigenvectors of the rows' products sum to the energy; they come in rising order.
  energy_TH, vector_THH = jnp.linalg.eigh(jnp.einsum('thd,tgd->thg', weighted_THD, weighted_THD))
  rank = max(0, GROUPS // config.tiles - 1)
  left_out = config.hidden - min(rank, config.hidden)
  direction_TRD = jnp.einsum('thr,thd->trd', vector_THH[..., left_out:], weighted_THD)
  rest_T = energy_TH[:, :left_out].sum(axis=-1) / config.d_model
  energy_NT = jnp.einsum('nd,trd->ntr', x_ND, direction_TRD, precision='highest')
  energy_NT = jnp.sum(jnp.square(energy_NT), axis=-1) + rest_T * jnp.sum(jnp.square(x_ND), axis=-1, keepdims=True)
  vote_NT = jnp.einsum('nd,td->nt', x_ND, weighted_THD.sum(axis=1))
  return send(layer, given, routing.select(add_votes(energy_NT, vote_NT, config.hidden), config.top_k))


def route_by_share(layer: nn.Module, given: ffn.RouteInput, share: float) -> routing.RoutingInfo:
  """Give each token its best tiles until they hold a share of what its votes read.

  A tile's part is relu^2 of its votes. The number of tiles is a token's own, whatever `top_k` is.
  """
  info = ffn.route_by_signatures(layer, given)
  tile_NT = routing.select(info.score_NJ, layer.config.tiles)
  part_NT = jnp.square(jnp.maximum(jnp.take_along_axis(info.score_NJ, tile_NT, axis=-1), 0))
  before_NT = jnp.cumsum(part_NT, axis=-1) - part_NT
  kept_NT = before_NT < share * part_NT.sum(axis=-1, keepdims=True)
  kept_NT = kept_NT.at[:, 0].set(True)  # Where no tile has votes, the best one is computed all the same.
  return dataclasses.replace(info, tile_NK=tile_NT, gate_NK=kept_NT.astype(jnp.float32))


def weigh_units(asked: router.Asked, tiles: ffn.TernaryTiles) -> tuple[jax.Array, jax.Array]:
  """Return the pre-activations of all hidden units, [N, T, H], and the norms of their outputs, [T, H]."""
  unit_NTH = jnp.einsum('nd,tdh->nth', asked.q_ND, tiles.up_TDH)
  return unit_NTH * (asked.step_N1[..., None] * tiles.up_scale_TH), ffn.measure_outputs(tiles)
