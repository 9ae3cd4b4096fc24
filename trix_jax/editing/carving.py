"""Carve a densely trained model into tiles that route themselves, without training.

The hidden units of a feed-forward layer can be permuted without changing its function. So units with similar rows
become one tile, and a token computes the few tiles whose signatures match it. Mixture-of-experts layers were cut out of
dense ones before (MoEfication, arXiv 2110.01786), with a router that is trained afterwards. Here nothing is.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trix_jax.core import tile_index
from trix_jax.editing import latent_weights
from trix_jax.errors import InputError
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig, ModelConfig


class Units(NamedTuple):
  """The hidden units of a layer: codes, scales and latent weights, with F = T * H units.

  Attributes:
    up_FD, down_FD: codes in {-1, 0, 1}.
    up_scale_F: factor of each unit's pre-activation.
    down_scale_TD, tile_F: output scales of each former tile, and every unit's tile.
    up_latent_FD, down_latent_FD: latent weights, in units of the scale that their former tile's quantiser read.
  """

  up_FD: jax.Array
  down_FD: jax.Array
  up_scale_F: jax.Array
  down_scale_TD: jax.Array
  tile_F: jax.Array
  up_latent_FD: jax.Array
  down_latent_FD: jax.Array


def list_units(params: dict[str, jax.Array], config: FFNConfig) -> Units:
  """Take a layer's tiles apart."""
  T, H, D, F = config.tiles, config.hidden, config.d_model, config.d_ff
  tiles = ffn.quantise_tiles(params, config)

  def in_rows(up_TDH):
    return up_TDH.transpose(0, 2, 1).reshape(F, D)

  def in_units_of_scale(latent):
    if config.quantiser == 'threshold':
      return latent
    scale_T11 = jnp.mean(jnp.abs(latent), axis=(-2, -1), keepdims=True)
    return latent / jnp.where(scale_T11 > 0, scale_T11, 1.0)

  return Units(
    in_rows(tiles.up_TDH),
    tiles.down_THD.reshape(F, D),
    tiles.up_scale_TH.reshape(F),
    jnp.broadcast_to(tiles.down_scale_TD, (T, D)),
    jnp.repeat(jnp.arange(T), H),
    in_rows(in_units_of_scale(params['up'])),
    in_units_of_scale(params['down']).reshape(F, D),
  )


# How the units of a layer are cut into tiles: (units, number of tiles, number of the layer) -> int32 [T, H].
Partition = Callable[[Units, int, int], jax.Array]


def cluster_units(units: Units, tiles: int, layer: int = 0) -> jax.Array:
  """Gather units with similar rows into tiles of equal size, int32 [T, H]; see `gather`."""
  return gather(units.up_FD, tiles, layer)


def gather(point_FD: jax.Array, tiles: int, seed: int) -> jax.Array:
  """Gather points of similar direction into `tiles` groups of equal size: int32 [T, H].

  Balanced k-means, and then swaps of two points for as long as any makes the groups more alike. A group is as alike as
  the sum of its points, each of length 1, is long.
  """
  member_TH = np.array(_balanced_kmeans(point_FD, tiles, jax.random.key(seed)))
  unit_FD = np.asarray(point_FD, np.float64)
  unit_FD = unit_FD / np.maximum(np.linalg.norm(unit_FD, axis=1, keepdims=True), 1e-12)
  moved = True
  while moved:
    moved = _swap_once_each(unit_FD, member_TH)
  return jnp.asarray(member_TH, jnp.int32)


# Not compiled, its loops would be compiled anew in every call, and each program stays in memory.
_balanced_kmeans = jax.jit(tile_index.balanced_kmeans, static_argnums=1)


def _swap_once_each(unit_FD: np.ndarray, member_TH: np.ndarray) -> bool:
  """Swap each point, in place, with the one whose swap gains most, if any gains. Return whether any was swapped."""
  T, H = member_TH.shape
  sum_TD = unit_FD[member_TH].sum(axis=1)
  square_F = np.einsum('fd,fd->f', unit_FD, unit_FD)
  tile_F, place_F = np.empty(T * H, int), np.empty(T * H, int)
  tile_F[member_TH], place_F[member_TH] = np.arange(T)[:, None], np.arange(H)
  moved = False
  for point in range(T * H):
    tile = tile_F[point]
    length_T = np.linalg.norm(sum_TD, axis=1)
    rest_D = sum_TD[tile] - unit_FD[point]
    # Squared lengths of both sums, if this point took the place of every other one.
    of_tile_F = rest_D @ rest_D + 2 * unit_FD @ rest_D + square_F
    leaving_F = np.einsum('fd,fd->f', sum_TD[tile_F], unit_FD)
    coming_F = (sum_TD @ unit_FD[point])[tile_F] - unit_FD @ unit_FD[point]
    of_other_F = (length_T**2)[tile_F] + square_F + square_F[point] + 2 * (coming_F - leaving_F)
    gain_F = np.sqrt(np.maximum(of_tile_F, 0)) - length_T[tile] + np.sqrt(np.maximum(of_other_F, 0)) - length_T[tile_F]
    gain_F[tile_F == tile] = 0.0
    other = int(np.argmax(gain_F))
    if not gain_F[other] >= 1e-6:  # NaN gains nothing.
      continue
    its = tile_F[other]
    change_D = unit_FD[other] - unit_FD[point]
    sum_TD[tile] += change_D
    sum_TD[its] -= change_D
    member_TH[tile, place_F[point]], member_TH[its, place_F[other]] = other, point
    tile_F[[point, other]], place_F[[point, other]] = (its, tile), (place_F[other], place_F[point])
    moved = True
  return moved


def activation_power(config: FFNConfig) -> int:
  """Return the power to which a factor of a pre-activation becomes one of its activation."""
  return 2 if config.activation == 'relu_squared' else 1


def build_tiles(units: Units, member_TH: jax.Array, config: FFNConfig) -> dict[str, jax.Array]:
  """Make the parameters of a layer whose tiles have the given units. No code changes.

  The up-projection keeps a scale for each unit. The down-projection has scales for each tile and output. So a tile with
  units of several former tiles takes their mean scales, times a factor for each unit that fits best and moves into the
  up-projection.

  Args:
    units: of the former layer.
    member_TH: the units of each new tile.
    config: of the new layer.
  """
  scale_FD = units.down_scale_TD[units.tile_F]
  down_scale_THD = scale_FD[member_TH]
  mean_TD = down_scale_THD.mean(axis=1)
  square_T1 = jnp.sum(jnp.square(mean_TD), axis=-1, keepdims=True)
  factor_TH = jnp.einsum('thd,td->th', down_scale_THD, mean_TD) / jnp.where(square_T1 > 0, square_T1, 1.0)
  up_scale_TH = units.up_scale_F[member_TH] * jnp.maximum(factor_TH, 0.0) ** (1 / activation_power(config))
  up_TDH, up_step_T = latent_weights.hold_codes(
    units.up_latent_FD[member_TH].transpose(0, 2, 1), units.up_FD[member_TH].transpose(0, 2, 1), config
  )
  down_THD, down_step_T = latent_weights.hold_codes(units.down_latent_FD[member_TH], units.down_FD[member_TH], config)
  return {
    'up': up_TDH,
    'down': down_THD,
    'up_scale': up_scale_TH / up_step_T[:, None],
    'down_scale': mean_TD / down_step_T[:, None],
  }


def carve(
  params: dict[str, Any], config: ModelConfig, tiles: int, top_k: int, partition: Partition = cluster_units
) -> tuple[Any, ModelConfig]:
  """Carve every layer of a densely trained model into `tiles` tiles, of which a token computes `top_k`.

  Args:
    params: of the model; its layers compute all tiles.
    config: of the model.
    tiles, top_k: of the new one.
    partition: how units are cut into tiles.

  Returns:
    Parameters and config of a model with emergent routing and gates of 1.

  Raises:
    InputError: for a model that does not compute all tiles alike, or for numbers that do not fit its units.
  """
  own = make_config(config, tiles, top_k)
  carved = dict(params)
  for layer in range(config.layers):
    name = f'layer_{layer}'
    units = list_units(params[name]['ffn'], config.ffn)
    carved[name] = {**params[name], 'ffn': build_tiles(units, partition(units, tiles, layer), own.ffn)}
  return carved, own


def make_config(config: ModelConfig, tiles: int, top_k: int) -> ModelConfig:
  """Return the config of a carved model, from that of the dense one; see `carve`."""
  if not config.ffn.way.takes_all or config.ffn.gate != 'one_hot' or config.ffn.clusters:
    raise InputError(
      'only a model that computes all its tiles alike can be carved: one with model.routing=dense, model.gate=one_hot '
      'and model.clusters=0'
    )
  ffn = dataclasses.replace(
    config.ffn,
    tiles=tiles,
    top_k=top_k,
    routing='emergent',
    gate='one_hot',
    shared_down_scale=False,
    balance_bias=False,
  )
  return dataclasses.replace(config, ffn=ffn)
