"""Edit the tiles of a trained model without training it: the frame of every edit, and copies of whole tiles.

An edit is a pure function of a layer's parameters. It changes the tiles that it names and no other: those keep every
bit. Signatures are read from the codes, so the edited tiles have new addresses at once. What does not follow from the
codes is carried over from the former tiles: the columns of a learned gate and balance biases. A `Change` says how.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trix_jax.errors import InputError
from trix_jax.nn.model_config import NO_CONTROL, FFNConfig, ModelConfig

Params = Mapping[str, Any]
# The parameters of a layer that belong to single tiles, which are their first axis.
OF_TILES = ('up', 'down', 'up_scale', 'down_scale')


class Change(NamedTuple):
  """An edited layer.

  Attributes:
    tiles: parameters of its tiles, by the names `OF_TILES`.
    carry_XT: what each new tile takes over from the former ones where nothing can be read anew. A row sums to 1.
    said: what was changed and why, in one line.
    placed: new tiles that were brought from elsewhere, and their former layer and number there. Such a tile takes over
      from the one whose place it has, but is not made of it.
  """

  tiles: Params
  carry_XT: jax.Array
  said: str
  placed: Mapping[int, tuple[int, int]] = types.MappingProxyType({})


class Edited(NamedTuple):
  """An edited model: its parameters, routing state and config, and a line about each layer."""

  params: Any
  routing_state: Any
  config: ModelConfig
  changes: tuple[Change, ...]


# (parameters of a layer, its config, its number) -> the change.
Edit = Callable[[Params, FFNConfig, int], Change]


def edit_layers(params: Any, routing_state: Any, config: ModelConfig, edit: Edit) -> Edited:
  """Edit every layer of a model. The layers of the edited model share their numbers of tiles and of units too.

  Every tile gets output scales of its own. A model that shared them computes the same function with them.

  Raises:
    InputError: for a model whose tokens do not choose tiles by scores, one behind an index, or one with a control; for
      layers that come out with different sizes, and for fewer tiles than a token computes.
  """
  _require_editable(config)
  given = dataclasses.replace(config.ffn, shared_down_scale=False)
  names = [f'layer_{layer}' for layer in range(config.layers)]
  changes = tuple(edit(own_scales(params[name]['ffn']), given, layer) for layer, name in enumerate(names))
  sizes = {change.tiles['up_scale'].shape for change in changes}
  if len(sizes) > 1:
    raise InputError(f'an edit made layers of the sizes {sorted(sizes)} [tiles, units]; all layers need one size')
  [(tiles, hidden)] = sizes
  if tiles < config.ffn.top_k:
    raise InputError(
      f'{tiles} tile(s) would be left, and a token computes model.top_k = {config.ffn.top_k} of them; edit a model '
      'of more tiles'
    )
  new_params, new_state = dict(params), dict(routing_state or {})
  for name, change in zip(names, changes, strict=True):
    layer = {**params[name]['ffn'], **change.tiles}
    if 'gate' in layer:
      kernel_DT, bias_T = layer['gate']['kernel'], layer['gate']['bias']
      layer['gate'] = {'kernel': carry(change, kernel_DT.T).T, 'bias': carry(change, bias_T)}
    new_params[name] = {**params[name], 'ffn': layer}
    if name in new_state:
      state = new_state[name]['ffn']
      new_state[name] = {'ffn': {key: carry(change, value_T) for key, value_T in state.items()}}
  ffn = dataclasses.replace(given, tiles=tiles, d_ff=tiles * hidden)
  return Edited(new_params, new_state, dataclasses.replace(config, ffn=ffn), changes)


def _require_editable(config: ModelConfig) -> None:
  if config.ffn.clusters:
    raise InputError(
      'the tiles of this model are behind an index, which no edit rebuilds; edit one of model.clusters=0'
    )
  if config.control != NO_CONTROL:
    raise InputError(f'a model with model.control = {config.control} is for experiments; edit one without')
  if not config.ffn.way.by_scores:
    raise InputError(
      f'tokens of a model with model.routing = {config.ffn.routing} do not choose tiles by their addresses; edit one '
      'that is emergent or learned. trix carve makes one of a dense model'
    )


def carry(change: Change, value_TX: jax.Array) -> jax.Array:
  """Return what new tiles take over of any values of the former ones, which are the first axis."""
  return jnp.tensordot(change.carry_XT, value_TX, 1, precision='highest')


def own_scales(params: Params) -> dict[str, Any]:
  """Return a layer's parameters with output scales for each tile, [T, D]."""
  T, D = params['up'].shape[:2]
  return {**params, 'down_scale': jnp.broadcast_to(params['down_scale'], (T, D))}


def take(params: Params, tiles: Sequence[int]) -> dict[str, jax.Array]:
  """Return the parameters of some of a layer's tiles, bit for bit, in the given order."""
  return {name: params[name][jnp.asarray(tiles, jnp.int32)] for name in OF_TILES}


def put(params: Params, tile: int, new: Params) -> dict[str, jax.Array]:
  """Return the parameters of a layer's tiles with one replaced by the first of `new`."""
  return {name: params[name].at[tile].set(new[name][0]) for name in OF_TILES}


def join(params: Params, new: Params) -> dict[str, jax.Array]:
  """Return the parameters of a layer's tiles and, after them, of new ones."""
  return {name: jnp.concatenate([params[name], new[name]]) for name in OF_TILES}


def carry_rows(tiles: Sequence[int], count: int) -> jax.Array:
  """Return `Change.carry_XT` for new tiles that each follow one of `count` former ones."""
  return jax.nn.one_hot(jnp.asarray(tiles, jnp.int32), count)


def require_tile(tile: int, config: FFNConfig) -> int:
  """Return the number of a tile. Raise InputError where the layer has no such tile."""
  if not 0 <= tile < config.tiles:
    raise InputError(f'there is no tile {tile}; choose a number from 0 to {config.tiles - 1}')
  return tile


def clone(params: Params, config: FFNConfig, tile: int) -> Change:
  """Copy a tile to a new last one.

  Both have the same address, and the lower number wins a tie. So with one tile for a token the copy stays idle until
  training moves it. A gate that is a probability halves at most, because two tiles now share it.
  """
  order = [*range(config.tiles), require_tile(tile, config)]
  return Change(take(params, order), carry_rows(order, config.tiles), f'tile {config.tiles} is a copy of tile {tile}')


def remove(params: Params, config: FFNConfig, tile: int) -> Change:
  """Remove a tile. Its tokens go to the tiles that are next by their scores, and later tiles move up by one number."""
  order = [other for other in range(config.tiles) if other != require_tile(tile, config)]
  return Change(take(params, order), carry_rows(order, config.tiles), f'tile {tile} is gone')


def replace(params: Params, config: FFNConfig, tile: int, new: Params, place: tuple[int, int], run: str = '') -> Change:
  """Put another tile in the place of one. A gate's column and a balance bias stay with the place.

  Args:
    params, config: of the layer.
    tile: number of the replaced tile.
    new: parameters of one tile, such as `take` gives them.
    place: layer and number of the tile where it comes from.
    run: the name of its run, for people; '' for this one.

  Raises:
    InputError: for a tile of another width or of another number of units.
  """
  T, origin = config.tiles, f'tile {place[1]} of layer {place[0]}{run and f" of {run}"}'
  require_tile(tile, config)
  have, want = new['up'].shape[1:], (config.d_model, config.hidden)
  if have != want:
    raise InputError(
      f'{origin} has {have[1]} units of width {have[0]}, and tiles here have {want[1]} of width {want[0]}; choose a '
      'tile of the same size'
    )
  return Change(put(params, tile, new), jnp.eye(T), f'tile {tile} is now {origin}', {tile: place})


def keep(params: Params, config: FFNConfig) -> Change:
  """Change nothing: for layers that an edit leaves alone."""
  return Change(take(params, range(config.tiles)), jnp.eye(config.tiles), 'unchanged')
