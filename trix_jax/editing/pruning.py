"""Prune hidden units: each tile keeps those whose votes matter most, which is read from the weights."""

import jax
import jax.numpy as jnp

from trix_jax.core import signatures
from trix_jax.editing import carving
from trix_jax.editing.edits import Change, Params
from trix_jax.errors import InputError
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig


def weigh_by_votes(params: Params, config: FFNConfig) -> jax.Array:
  """Return how much each unit's votes matter, [T, H].

  A token that chooses a tile looks like the tile's tally of votes. A unit that votes with the tally is active on such a
  token, and one that votes against it is silent. So a unit weighs as much as its pre-activation on the tally, times the
  size of its output as a factor of that pre-activation. A unit without any output weighs least.
  """
  tiles = ffn.quantise_tiles(dict(params), config)
  unit_TD = signatures.normalise(tiles.up_TDH.sum(axis=-1))
  active_TH = jnp.einsum('tdh,td->th', tiles.up_TDH, unit_TD) * tiles.up_scale_TH
  size_TH = ffn.measure_outputs(tiles)
  weight_TH = active_TH * size_TH ** (1 / carving.activation_power(config))
  return jnp.where(size_TH > 0, weight_TH, -jnp.inf)


def weigh_tiles(params: Params, config: FFNConfig) -> jax.Array:
  """Return how much the votes of each tile matter, the sum over its units that count, [T]."""
  return jnp.maximum(weigh_by_votes(params, config), 0.0).sum(axis=-1)


def prune(params: Params, config: FFNConfig, units: int, weight_TH: jax.Array | None = None) -> Change:
  """Keep `units` hidden units of every tile, in their order. No code of a kept unit changes.

  Args:
    params, config: of the layer.
    units: of each tile, as many in all tiles and layers.
    weight_TH: what units matter; by default `weigh_by_votes`.

  Raises:
    InputError: for a number that a tile does not have.
  """
  T, H = config.tiles, config.hidden
  if not 1 <= units <= H:
    raise InputError(f'{units} units to keep; choose a number from 1 to {H}, the units of a tile')
  if weight_TH is None:
    weight_TH = weigh_by_votes(params, config)
  kept_TX = jnp.sort(jnp.argsort(-weight_TH, axis=-1, stable=True)[:, :units], axis=-1)
  member_TX = jnp.arange(T)[:, None] * H + kept_TX
  counted_TH = jnp.maximum(weight_TH, 0.0)
  share = jnp.take_along_axis(counted_TH, kept_TX, axis=-1).sum() / jnp.maximum(counted_TH.sum(), 1e-30)
  return Change(
    carving.build_tiles(carving.list_units(dict(params), config), member_TX, config),
    jnp.eye(T),
    f'each tile keeps {units} of {H} units, which have {100 * float(share):.0f} % of the weight of all',
  )
