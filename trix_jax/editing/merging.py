"""Merge two tiles into one by majority vote. Which two is read from their signatures."""

import jax
import jax.numpy as jnp

from trix_jax.core import signatures, tile_index
from trix_jax.editing import carving, edits, latent_weights
from trix_jax.editing.edits import Change, Params
from trix_jax.errors import InputError
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig


def compare_signatures(params: Params, config: FFNConfig) -> jax.Array:
  """Return the cosine similarity of the signatures of every two tiles, [T, T]; 0 with a signature of zeros."""
  signatures_TD = ffn.quantise_tiles(dict(params), config).signatures_TD
  return _cosines(signatures_TD, signatures_TD)


def _cosines(first_XE, second_XE):
  unit_XE, other_XE = signatures.normalise(first_XE), signatures.normalise(second_XE)
  return jnp.matmul(unit_XE, other_XE.T, precision='highest')


def find_most_alike(params: Params, config: FFNConfig) -> tuple[int, int]:
  """Return the two tiles of the most similar signatures, the lower number first."""
  T = config.tiles
  if T < 2:
    raise InputError('a layer of one tile has no two to merge')
  cosine_TT = jnp.where(jnp.tri(T, dtype=bool), -jnp.inf, compare_signatures(params, config))
  first, second = divmod(int(jnp.argmax(cosine_TT)), T)
  return first, second


def match_units(units: carving.Units, first_H: jax.Array, second_H: jax.Array) -> jax.Array:
  """Return the second tile's units in the order of the first tile's units that they are most like, int32 [H].

  Units are as alike as the cosines of their rows, of inputs and of outputs. The most similar pairs come together first.
  """
  cosine_HH = sum(_cosines(codes_FD[second_H], codes_FD[first_H]) for codes_FD in (units.up_FD, units.down_FD))
  return second_H[jnp.argsort(tile_index.balanced_assignment(cosine_HH))]


def merge(params: Params, config: FFNConfig, pair: tuple[int, int] | None = None) -> Change:
  """Make one tile of two, in the place of the lower number; the other place goes, and later tiles move up.

  Each unit of one tile meets a unit of the other. Both vote on every code. A code of 0 abstains, and opposite votes
  make 0. The scales are those with which the merged tile is nearest to both, by squares of weights.

  Args:
    params, config: of the layer.
    pair: the two tiles; by default those of the most similar signatures.
  """
  T, H = config.tiles, config.hidden
  first, second = sorted(edits.require_tile(tile, config) for tile in pair or find_most_alike(params, config))
  if first == second:
    raise InputError(f'tile {first} cannot be merged with itself; choose two tiles')
  units = carving.list_units(dict(params), config)
  of_first_H = first * H + jnp.arange(H)
  pair_2H = jnp.stack([of_first_H, match_units(units, of_first_H, second * H + jnp.arange(H))])

  # Every array has the two voters first.
  up_2HD, down_2HD = units.up_FD[pair_2H], units.down_FD[pair_2H]
  up_HD, down_HD = jnp.sign(up_2HD.sum(axis=0)), jnp.sign(down_2HD.sum(axis=0))
  up_scale_H = _fit(up_HD, up_2HD * units.up_scale_F[pair_2H][..., None], axis=1)
  down_scale_D = _fit(down_HD, down_2HD * units.down_scale_TD[jnp.array([first, second])][:, None], axis=0)
  new_up_1DH, up_step_1 = latent_weights.hold_codes(
    units.up_latent_FD[pair_2H].mean(axis=0).T[None], up_HD.T[None], config
  )
  new_down_1HD, down_step_1 = latent_weights.hold_codes(
    units.down_latent_FD[pair_2H].mean(axis=0)[None], down_HD[None], config
  )
  merged = {
    'up': new_up_1DH,
    'down': new_down_1HD,
    'up_scale': (up_scale_H / up_step_1)[None],
    'down_scale': (down_scale_D / down_step_1)[None],
  }
  order = [tile for tile in range(T) if tile != second]
  carry_TT = jnp.eye(T).at[first].set((jnp.eye(T)[first] + jnp.eye(T)[second]) / 2)
  met_2HD = (up_2HD != 0).all(axis=0)
  agreed = jnp.sum(met_2HD & (up_2HD[0] == up_2HD[1])) / jnp.maximum(jnp.sum(met_2HD), 1)
  cosine = compare_signatures(params, config)[first, second]
  return Change(
    edits.take(edits.put(params, first, merged), order),
    carry_TT[jnp.array(order)],
    f'tiles {first} and {second} became tile {first}; similarity of their signatures {float(cosine):+.2f}, of votes '
    f'that met {100 * float(agreed):.0f} % agreed',
  )


def _fit(codes_HD, weight_2HD, axis):
  """Return the scales of codes that are nearest to both weights by squares, over an axis of the codes."""
  count = jnp.sum(jnp.abs(codes_HD), axis=axis)
  return jnp.sum(codes_HD * weight_2HD.mean(axis=0), axis=axis) / jnp.where(count > 0, count, 1.0)
