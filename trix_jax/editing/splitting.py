"""Split a tile into two, each with the units that read alike."""

import jax
import jax.numpy as jnp

from trix_jax.editing import carving, edits
from trix_jax.editing.edits import Change, Params
from trix_jax.errors import InputError
from trix_jax.nn.model_config import FFNConfig

# Standard deviation of the relative noise on the latent weights of a unit's copy. Copies without would train alike.
NOISE = 0.1


def find_least_agreed(params: Params, config: FFNConfig) -> int:
  """Return the tile whose units agree least: the tally of their votes is shortest for the number of votes."""
  up_FD = carving.list_units(dict(params), config).up_FD
  up_THD = up_FD.reshape(config.tiles, config.hidden, -1)
  votes_T = jnp.sum(jnp.abs(up_THD), axis=(1, 2))
  square_T = jnp.sum(jnp.square(up_THD.sum(axis=1)), axis=-1)
  return int(jnp.argmin(square_T / jnp.maximum(votes_T, 1.0)))


def split(params: Params, config: FFNConfig, tile: int | None = None, seed: int = 0) -> Change:
  """Split a tile: one half of its units stays in its place, the other becomes a new last tile. No code changes.

  Balanced k-means gathers the units of similar rows. Since all tiles have H units, each unit of a half is there twice
  with half of its output. So the votes of a half are its own, and training finds no silent unit. A token of the former
  tile computes one half from then on. A gate and balance biases cannot tell the halves apart: the first one wins.

  Args:
    params, config: of the layer.
    tile: to split; by default the one whose units agree least.
    seed: of the clusters, and of noise on the copies' latent weights that changes no code.
  """
  T, H = config.tiles, config.hidden
  tile = find_least_agreed(params, config) if tile is None else edits.require_tile(tile, config)
  if H % 2:
    raise InputError(f'a tile of {H} units has no two halves; split one of an even number of units')
  units = carving.list_units(dict(params), config)
  own = slice(tile * H, (tile + 1) * H)
  half_2X = carving.gather(units.up_FD[own], 2, seed)
  factor = 0.5 ** (1 / carving.activation_power(config))

  def copied(latent_FD, key):
    noise_HD = 1 + NOISE * jax.random.normal(key, (H, latent_FD.shape[-1]))
    return jnp.concatenate([latent_FD[own], latent_FD[own] * noise_HD])

  def twice(array_F):
    return jnp.concatenate([array_F[own], array_F[own]])

  up_key, down_key = jax.random.split(jax.random.key(seed))
  doubled = carving.Units(
    twice(units.up_FD),
    twice(units.down_FD),
    twice(units.up_scale_F) * factor,
    units.down_scale_TD,
    twice(units.tile_F),
    copied(units.up_latent_FD, up_key),
    copied(units.down_latent_FD, down_key),
  )
  halves = carving.build_tiles(doubled, jnp.concatenate([half_2X, half_2X + H], axis=1), config)
  first, second = ({name: value[half : half + 1] for name, value in halves.items()} for half in (0, 1))
  order = [*range(T), tile]
  tally_2D = units.up_FD[own][half_2X].sum(axis=1)
  length_2 = jnp.maximum(jnp.linalg.norm(tally_2D, axis=-1), 1.0)
  cosine = float(tally_2D[0] @ tally_2D[1] / (length_2[0] * length_2[1]))
  return Change(
    edits.join(edits.put(params, tile, first), second),
    edits.carry_rows(order, T),
    f'tile {tile} became tiles {tile} and {T}, with {H // 2} of its units each; similarity of their votes '
    f'{cosine:+.2f}',
  )
