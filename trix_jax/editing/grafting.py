"""Graft tiles that were trained elsewhere into a trained model, without training: their signatures are their addresses.

A donor has the model around the tiles in common with the host, and was trained with every token forced through its own
tiles. The host routes to them as to its own, because a signature is read from the weights of its tile alone.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from trix_jax.editing import edits
from trix_jax.errors import InputError
from trix_jax.nn import model_config
from trix_jax.nn.model_config import NO_CONTROL, ModelConfig

# Settings in which a donor may differ from its host: how many tiles it has, and how its tokens found them.
OF_DONORS = (*model_config.MAY_DIFFER, 'tiles', 'd_ff')


class Donor(NamedTuple):
  """A model whose tiles are to be grafted: its name in messages, its parameters and its config."""

  name: str
  params: Any
  config: ModelConfig


def graft(params: Any, config: ModelConfig, donors: Sequence[Donor]) -> tuple[Any, ModelConfig]:
  """Add the tiles of donors to those of a host, in every layer, after the host's own and in the order of the donors.

  Args:
    params, config: of the host. Its gates are 1, so they mean the same among more tiles.
    donors: models that have all but the tiles in common with the host.

  Returns:
    Parameters and config of a model that routes each token to the best of all these tiles.

  Raises:
    InputError: for a host that does not route by reading with gates of 1, or a donor of another host or form.
  """
  require_host(config)
  if not donors:
    raise InputError('there are no donors; give one or more')
  for donor in donors:
    _require_donor(donor, params, config)
  models = [(params, config), *((donor.params, donor.config) for donor in donors)]
  tiles = sum(model.ffn.tiles for _, model in models)
  own = dataclasses.replace(config.ffn, tiles=tiles, d_ff=tiles * config.ffn.hidden, shared_down_scale=False)
  grafted = dict(params)
  for layer in range(config.layers):
    name = f'layer_{layer}'
    parts = [edits.own_scales(of_model[name]['ffn']) for of_model, _ in models]
    grafted[name] = {**params[name], 'ffn': functools.reduce(edits.join, parts)}
  return grafted, dataclasses.replace(config, ffn=own)


def require_host(config: ModelConfig) -> None:
  """Raise InputError unless tiles may be grafted into a model with this config."""
  ffn = config.ffn
  reads = ffn.way.by_scores and not ffn.way.has_gate and not ffn.clusters and config.control == NO_CONTROL
  if not reads or ffn.gate != 'one_hot' or ffn.balance_bias:
    raise InputError(
      'tiles can be grafted only into a model that reads signatures and gives every tile the factor 1: one with '
      'model.routing=emergent, model.gate=one_hot, model.clusters=0, and no balance bias or control'
    )


def _require_donor(donor: Donor, params: Any, config: ModelConfig) -> None:
  ours, theirs = (
    {**model_config.flatten_model(model), 'd_ff / tiles': model.ffn.hidden} for model in (config, donor.config)
  )
  if other := [
    f'{key} {ours[key]!r} -> {theirs[key]!r}' for key in ours if key not in OF_DONORS and ours[key] != theirs[key]
  ]:
    raise InputError(
      f'donor {donor.name} is of another form than the host ({"; ".join(other)}); train it with the same settings, and '
      f'model.d_ff = {config.ffn.hidden} times its model.tiles'
    )
  ffn = donor.config.ffn
  computed = ffn.tiles if ffn.way.takes_all else ffn.top_k
  if ffn.gate != 'one_hot' or ffn.clusters or computed != config.ffn.top_k:
    raise InputError(
      f'donor {donor.name} was trained with {computed} tile(s) a token and model.gate={ffn.gate}; train it with '
      f'{config.ffn.top_k}, as the host has, and model.gate=one_hot'
    )
  if name := _different_around_tiles(params, donor.params):
    raise InputError(
      f'donor {donor.name} was not trained in this host: {name} differs; train it with training.start_from the host '
      'and training.train_only=tiles'
    )


def _different_around_tiles(params: Any, others: Any) -> str:
  """Name the first array outside the tiles that is not the same in both, or return an empty text."""

  def around(tree):
    return {
      jax.tree_util.keystr(path, simple=True, separator='.'): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
      if 'ffn' not in [entry.key for entry in path]
    }

  ours, theirs = around(params), around(others)
  names = sorted(ours.keys() | theirs.keys())
  return next(
    (
      name
      for name in names
      if name not in ours or name not in theirs or not np.array_equal(np.asarray(ours[name]), np.asarray(theirs[name]))
    ),
    '',
  )
