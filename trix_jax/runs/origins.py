"""Where the tiles of other runs come from: a list in `run.json`, which follows them through grafts, edits and training.

Packed models carry the list in their provenance, and cards of tiles show it.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from trix_jax.editing.edits import Change
from trix_jax.errors import InputError
from trix_jax.runs import checkpoints, workdirs

# A run whose tiles are here: its `text` and provenance, and the numbers of its `tiles` in each layer.
Origin = dict[str, Any]


def of_run(run: checkpoints.Trained) -> list[Origin]:
  """Return the origins of a run's tiles; those of its own training are in none.

  Raises:
    InputError: for origins of another number of layers.
  """
  origins: list[Origin] = run.run.get(workdirs.ORIGINS, [])
  if any(len(origin['tiles']) != run.config.model.layers for origin in origins):
    raise InputError(
      f'{workdirs.ORIGINS} of a run of {name_text(run)} are not those of {run.config.model.layers} layers; give the '
      'folder of a run as it was written'
    )
  return origins


def describe(run: checkpoints.Trained, tiles: Iterable[Iterable[int]]) -> Origin:
  """Describe a run whose own tiles get the given numbers elsewhere, by layer."""
  of = {name: value for name, value in run.provenance.items() if name != workdirs.ORIGINS}
  return {'tiles': [list(of_layer) for of_layer in tiles], 'text': name_text(run), **of}


def name_text(run: checkpoints.Trained) -> str:
  """Return the name of the file that a run was trained on, or of its corpus."""
  return pathlib.Path(run.config.file).name or run.config.corpus


def graft(host: checkpoints.Trained, donors: Sequence[checkpoints.Trained]) -> list[Origin]:
  """Return the origins of a host's tiles after all those of some donors were added to it."""
  origins, first = list(of_run(host)), host.config.model.ffn.tiles
  for donor in donors:
    end = first + donor.config.model.ffn.tiles
    origins.append(describe(donor, [range(first, end)] * host.config.model.layers))
    first = end
  return origins


def edit(
  run: checkpoints.Trained, changes: Sequence[Change], source: checkpoints.Trained | None = None
) -> list[Origin]:
  """Return the origins of a run's tiles after an edit: a new tile has those of all the former ones that it is made of.

  A tile made of tiles of other runs and of the run's own names that run too.

  Args:
    run: before the edit.
    changes: of its layers.
    source: the run of the tiles in `Change.placed`; None for the same run.
  """
  found = []
  for origin in of_run(run):
    tiles = [
      sorted({*_made_of(origin['tiles'][layer], change), *([] if source else _placed_of(origin, change))})
      for layer, change in enumerate(changes)
    ]
    if any(tiles):
      found.append({**origin, 'tiles': tiles})
  others = _tiles_of(of_run(run), len(changes))
  mixed = [
    sorted({*_made_of(of_layer, change)} & {*_made_of({*range(change.carry_XT.shape[1])} - of_layer, change)})
    for of_layer, change in zip(others, changes, strict=True)
  ]
  if any(mixed):
    found.append(describe(run, mixed))
  if source:
    found += _placed_from(source, changes)
  return found


def _tiles_of(origins: Sequence[Origin], layers: int) -> list[set[int]]:
  """Return the tiles of other runs in each layer."""
  return [{tile for origin in origins for tile in origin['tiles'][layer]} for layer in range(layers)]


def _placed_from(source: checkpoints.Trained, changes: Sequence[Change]) -> list[Origin]:
  """Return the origins of new tiles that were brought from another run: those that they had there, or that run."""
  found = [{**origin, 'tiles': [_placed_of(origin, change) for change in changes]} for origin in of_run(source)]
  found = [origin for origin in found if any(origin['tiles'])]
  others = _tiles_of(found, len(changes))
  own = [
    [tile for tile in change.placed if tile not in of_layer] for of_layer, change in zip(others, changes, strict=True)
  ]
  return [*found, describe(source, own)] if any(own) else found


def _made_of(tiles: Iterable[int], change: Change) -> list[int]:
  """Return the new tiles that are made of some former ones."""
  weight_X = change.carry_XT[:, list(tiles)].sum(axis=1)
  return [tile for tile, weight in enumerate(weight_X) if weight > 0 and tile not in change.placed]


def _placed_of(origin: Origin, change: Change) -> list[int]:
  """Return the new tiles that were brought from a place where this origin has tiles."""
  return [tile for tile, (layer, former) in change.placed.items() if former in origin['tiles'][layer]]


def name(run: checkpoints.Trained, layer: int, tile: int) -> str:
  """Tell where a tile of another run comes from, or return '' for a tile of the run's own."""
  return '; '.join(_name(origin) for origin in of_run(run) if tile in origin['tiles'][layer])


def _name(origin: Origin) -> str:
  return f'trained on {origin["text"]} (sha256 {origin["corpus"]["sha256"][:12]}), {origin["step"]:,} steps'


def format_list(run: checkpoints.Trained) -> str:
  """Return a line for each run whose tiles are here."""
  return '\n'.join(f'{_format_tiles(origin["tiles"])}: {_name(origin)}' for origin in of_run(run))


def _format_tiles(tiles: list[list[int]]) -> str:
  def of_layer(numbers):
    return f'tile{"s" if len(numbers) > 1 else ""} {", ".join(map(str, numbers))}'

  if all(numbers == tiles[0] for numbers in tiles):
    return of_layer(tiles[0])
  return '; '.join(f'{of_layer(numbers)} of layer {layer}' for layer, numbers in enumerate(tiles) if numbers)
