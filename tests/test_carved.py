"""Carving in many ways: groups of units within tiles, and the ways that each size is measured in."""

import jax.numpy as jnp
import numpy as np

from experiments.measures import carved
from experiments.suites import carve
from trix_jax.editing import carving
from trix_jax.nn import unit_routings


def units_of(up_FD):
  F, D = up_FD.shape
  rows = jnp.asarray(up_FD, jnp.float32)
  return carving.Units(rows, rows, jnp.ones(F), jnp.ones((1, D)), jnp.zeros(F, jnp.int32), rows, rows)


def test_groups_gather_similar_units_within_a_tile_and_leave_its_units(monkeypatch):
  monkeypatch.setattr(unit_routings, 'GROUPS', 4)
  direction = np.random.default_rng(0).integers(0, 4, 32)  # Two tiles of two groups; units of a group are alike.
  up_FD = np.eye(4)[direction % 4] * 8 + np.eye(4)[direction // 2 * 2]
  units = units_of(up_FD)
  plain_TH, grouped_TH = (
    np.asarray(cut(units, 2, 0)) for cut in (carving.cluster_units, carved.cluster_units_in_groups)
  )
  np.testing.assert_array_equal(np.sort(grouped_TH, axis=1), np.sort(plain_TH, axis=1))

  def alike(member_TH):
    unit_FD = up_FD / np.linalg.norm(up_FD, axis=1, keepdims=True)
    return np.linalg.norm(unit_FD[member_TH.reshape(4, -1)].sum(axis=1), axis=1).sum()

  assert alike(grouped_TH) > alike(plain_TH) + 0.1


def test_only_coarse_tiles_have_groups():
  assert carved.list_routes(4, 1, 'rows') == carved.ROUTES + carved.OF_GROUPS
  assert carved.list_routes(128, 32, 'rows') == carved.ROUTES + carved.SHARES
  assert set(carved.ROUTES) - set(carved.list_routes(256, 64, 'rows')) == {'remainder'}
  assert carved.list_routes(64, 8, 'rows') == carved.list_routes(128, 32, 'random') == ('votes',)


def test_rows_of_an_earlier_measure_are_not_whole():
  rows = [
    {'tiles': tiles, 'kept': 31.7 if route in carved.SHARES else kept, 'partition': partition, 'route': route}
    for tiles, kept, partition in carved._cuts()
    for route in carved.list_routes(tiles, kept, partition)
  ]
  assert carved.is_whole(rows)
  assert not any(carved.is_whole(rows[:place] + rows[place + 1 :]) for place in range(len(rows)))


def test_adaptive_numbers_are_held_against_fixed_ones_of_as_many_products():
  def result(seed, **of_shares):
    row = {'tiles': 128, 'route': 'votes', 'partition': 'rows'}
    fixed = [{**row, 'kept': kept, 'loss': 2 + np.exp(-kept / 10)} for kept in (64, 16, 48)]
    coarse = {**row, 'tiles': 64, 'kept': 32, 'loss': 9.0}
    shares = [
      {**row, 'route': f'share_{name}', 'kept': kept, 'loss': 2 + factor * np.exp(-kept / 10)}
      for name, (kept, factor) in of_shares.items()
    ]
    return {'seed': seed, 'carved': [{'loss': 2.0}, *fixed, coarse, *shares]}

  # The share of 0.9 keeps 30 in the mean, nearest to 32, and loses 0.8 of what a fixed number would.
  results = [result(seed, **{'0.5': (20, 2.0), '0.9': (30 + seed, 0.8)}) for seed in (-1, 1)]
  gap = carve.compare_adaptive(results)
  assert gap is not None
  np.testing.assert_allclose(gap.mean, np.mean([-0.2 * np.exp(-kept / 10) for kept in (29, 31)]), rtol=1e-6)
  assert carve.compare_adaptive([result(0)]) is None
  # Nothing is known of fewer tiles than were measured, or of a fixed number that loses nothing.
  assert carve.compare_adaptive([result(0, **{'0.5': (8, 1.0)})]) is None
  free = result(0, **{'0.5': (30, 1.0)})
  free['carved'][1]['loss'] = 2.0
  assert carve.compare_adaptive([free]) is None
