"""Where tiles of other runs come from: followed through grafts, edits and training."""

import pathlib
import types

import jax.numpy as jnp
import pytest

from trix_jax import configuration
from trix_jax.editing import edits
from trix_jax.errors import InputError
from trix_jax.nn.model_config import parse_model
from trix_jax.runs import origins, workdirs

OF = {'corpus': {'name': 'file', 'sha256': 'f' * 64}, 'step': 1200}


def run_of(tiles, *of, corpus='', file=''):
  """A run of two layers, with tiles of other runs as given: text and numbers by layer."""
  config = types.SimpleNamespace(model=parse_model({'layers': 2, 'tiles': tiles, 'd_ff': 64 * tiles}), corpus=corpus)
  config.file = file
  run = {workdirs.ORIGINS: [{'tiles': tiles_YX, 'text': text, **OF} for text, tiles_YX in of]} if of else {}
  return types.SimpleNamespace(config=config, run=run, provenance=OF | run)


def in_short(found):
  assert not any(workdirs.ORIGINS in of for of in found)  # Each of them stands in this list itself.
  return [(of['text'], of['tiles']) for of in found]


def change_of(*made_of, former=4, placed=None):
  """A change whose new tiles are each the mean of some former ones."""
  rows = [[1 / len(of) if tile in of else 0.0 for tile in range(former)] for of in made_of]
  return edits.Change({}, jnp.asarray(rows), '', placed or {})


def test_grafted_tiles_come_after_those_of_the_host_and_what_was_grafted_before():
  host = run_of(4, ('a', [[3], [2]]))
  donors = [run_of(2, corpus='python_stdlib'), run_of(1, corpus='file', file='/of/kjv.txt')]
  found = origins.graft(host, donors)
  assert in_short(found) == [('a', [[3], [2]]), ('python_stdlib', [[4, 5]] * 2), ('kjv.txt', [[6]] * 2)]
  assert all(of['step'] == 1200 for of in found)


@pytest.mark.parametrize(
  'changes, want',
  [
    (
      (change_of([0], [1], [2], [3], [2]), change_of([0], [1], [2], [3], [3])),
      [('a', [[3], [2]]), ('b', [[], [3, 4]])],
    ),
    ((change_of([0], [1], [2]), change_of([1], [2], [3])), [('a', [[], [1]]), ('b', [[], [2]])]),
    (
      (change_of([0], [2, 3], [1]), change_of([0, 1], [2], [3])),
      [('a', [[1], [1]]), ('b', [[], [2]]), ('its own', [[1], []])],
    ),
    ((change_of([0], [1], [2]), change_of([0], [1])), []),
  ],
)
def test_an_edited_tile_has_the_origins_of_all_that_it_is_made_of(changes, want):
  """Copies; a tile removed; tiles merged, one of them the run's own; and all tiles of other runs removed."""
  run = run_of(4, ('a', [[3], [2]]), ('b', [[], [3]]), corpus='its own')
  assert in_short(origins.edit(run, changes)) == want


def test_a_tile_that_was_placed_has_the_origin_of_where_it_was():
  every = [[0], [1], [2], [3]]
  run = run_of(4, ('a', [[3], [2]]))
  # Tile 3 of layer 0 makes room for tile 2 of layer 1, which is from `a` too; tile 2 of layer 1 for one of no origin.
  own = change_of(*every, placed={3: (1, 2)}), change_of(*every, placed={2: (1, 0)})
  assert in_short(origins.edit(run, own)) == [('a', [[3], []])]
  source = run_of(4, corpus='python_stdlib')
  found = origins.edit(run, (change_of(*every, placed={3: (0, 1)}), change_of(*every)), source)
  assert in_short(found) == [('a', [[], [2]]), ('python_stdlib', [[3], []])]
  # A source that has tiles of other runs itself: one of them, and one of its own.
  source = run_of(4, ('c', [[1], []]), corpus='python_stdlib')
  found = origins.edit(run, (change_of(*every, placed={3: (0, 1)}), change_of(*every, placed={0: (0, 2)})), source)
  assert in_short(found) == [('a', [[], [2]]), ('c', [[3], []]), ('python_stdlib', [[], [0]])]


def test_origins_of_another_number_of_layers_are_refused():
  with pytest.raises(InputError, match='are not those of 2 layers; give the folder of a run'):
    origins.of_run(run_of(4, ('a', [[3]])))


def test_origins_are_said_for_a_tile_and_for_a_run():
  run = run_of(7, ('a', [[4], [4]]), ('b', [[5, 6], [4]]))
  assert [origins.name(run, 0, tile)[:12] for tile in range(3, 7)] == ['', 'trained on a', *['trained on b'] * 2]
  assert origins.name(run, 1, 4) == (
    'trained on a (sha256 ffffffffffff), 1,200 steps; trained on b (sha256 ffffffffffff), 1,200 steps'
  )
  assert origins.format_list(run).splitlines() == [
    'tile 4: trained on a (sha256 ffffffffffff), 1,200 steps',
    'tiles 5, 6 of layer 0; tile 4 of layer 1: trained on b (sha256 ffffffffffff), 1,200 steps',
  ]
  assert not origins.format_list(run_of(4)) and not origins.name(run_of(4), 0, 0)


def test_training_goes_on_with_the_origins_of_what_it_starts_from_and_new_tiles_have_none(monkeypatch):
  monkeypatch.setattr(workdirs, 'read_run', lambda folder: {workdirs.ORIGINS: [str(folder)]})

  def carried(**training):
    config = configuration.default_config()
    config.training.update(training)
    return workdirs._carried_origins(configuration.parse(config))

  assert carried(start_from='earlier') == [str(pathlib.Path('earlier'))]
  assert carried() == carried(start_from='earlier', train_only='tiles') == []
