"""Routings that read single units choose the tiles that they say."""

import jax.numpy as jnp
import numpy as np
import pytest
from controlled_layers import D, N, T, layer_of
from jitted import apply

from trix_jax.core import ternary
from trix_jax.nn import ffn, unit_routings


def weigh_units(module, variables, x):
  """The tiles of a layer, the pre-activations of their units [N, T, H], and the norms of the units' outputs [T, H]."""
  tiles = ffn.quantise_tiles(variables['params'], module.config)
  q, step = ternary.quantise_int8(x)
  unit_NTH = np.einsum('nd,tdh->nth', q, tiles.up_TDH) * step[..., None] * tiles.up_scale_TH
  norm_TH = np.linalg.norm(tiles.down_THD * tiles.down_scale_TD[:, None], axis=-1)
  return tiles, unit_NTH, norm_TH


@pytest.mark.parametrize('control', ['activity', 'energy'])
def test_all_pre_activations_route_by_what_the_units_put_out(control):
  module, variables, x = layer_of(control, top_k=2, gate='one_hot')
  info = apply(module, variables, x)[1]
  _, unit_NTH, norm_TH = weigh_units(module, variables, x)
  active_NTH = np.square(np.maximum(unit_NTH, 0))
  if control == 'activity':
    want_NT = (active_NTH * norm_TH).sum(axis=-1)
  else:
    energy_NT, vote_NT = (np.square(unit_NTH) * norm_TH).sum(axis=-1), (unit_NTH * np.sqrt(norm_TH)).sum(axis=-1)
    want_NT = energy_NT + 0.8 * vote_NT * np.sqrt(energy_NT / unit_NTH.shape[-1])
  np.testing.assert_array_equal(info.tile_NK, np.argsort(-want_NT, axis=1, kind='stable')[:, :2])
  np.testing.assert_array_equal(info.gate_NK, 1)


def test_the_oracle_of_a_layer_leaves_the_least_of_its_output_with_each_tile():
  module, variables, x = layer_of('remainder', top_k=T, gate='one_hot')
  info = apply(module, variables, x)[1]
  part_TND = np.asarray(
    ffn.compute_tile_outputs(x, ffn.quantise_tiles(variables['params'], module.config), module.config)
  )
  firsts = set()
  for token in range(0, N, 10):
    left_D, tiles = part_TND[:, token].sum(axis=0), []
    for _ in range(T):
      sizes = {t: np.linalg.norm(left_D - part_TND[t, token]) for t in range(T) if t not in tiles}
      tiles.append(min(sizes, key=lambda t: sizes[t]))
      left_D = left_D - part_TND[tiles[-1], token]
    np.testing.assert_array_equal(info.tile_NK[token], tiles)
    firsts.add(tiles[0])
  assert len(firsts) > 1


def test_the_oracle_of_a_layer_takes_each_of_two_equal_tiles_once():
  module, variables, x = layer_of('remainder', top_k=T, gate='one_hot')
  params = {name: jnp.asarray(of).at[1].set(of[0]) for name, of in variables['params'].items()}
  info = apply(module, {'params': params}, x)[1]
  np.testing.assert_array_equal(np.sort(info.tile_NK, axis=1), np.broadcast_to(np.arange(T), (N, T)))


def test_a_squared_gate_reads_what_a_linear_one_cannot():
  module, variables, x = layer_of('squared_gate', routing='learned', gate='one_hot')
  kernel_ET = np.zeros((2 * D, T), np.float32)
  kernel_ET[0, 0], kernel_ET[D + 1, 1] = 1, 1  # The first element, and the square of the second.
  bias_T = np.array([0, 0, -9, -9], np.float32)
  assert variables['params']['squared_gate']['kernel'].shape == kernel_ET.shape
  params = {**variables['params'], 'squared_gate': {'kernel': kernel_ET, 'bias': bias_T}}
  info = apply(module, {'params': params}, x)[1]
  np.testing.assert_array_equal(info.tile_NK[:, 0], np.square(x[:, 1]) > x[:, 0])
  assert 0 < np.mean(np.asarray(info.tile_NK)) < 1


def test_groups_of_units_vote_apart(monkeypatch):
  monkeypatch.setattr(unit_routings, 'GROUPS', 8)  # Two in each of four tiles.
  module, variables, x = layer_of('grouped_votes', top_k=2, gate='one_hot')
  info = apply(module, variables, x)[1]
  _, unit_NTH, norm_TH = weigh_units(module, variables, x)
  half = unit_NTH.shape[-1] // 2
  want_NT = sum(
    np.square(np.maximum(unit_NTH[..., part].mean(axis=-1), 0)) * norm_TH[:, part].mean(axis=-1)
    for part in (slice(half), slice(half, None))
  )
  np.testing.assert_array_equal(info.tile_NK, np.argsort(-want_NT, axis=1, kind='stable')[:, :2])


def test_one_unit_of_each_group_is_the_witness_of_a_tile(monkeypatch):
  monkeypatch.setattr(unit_routings, 'GROUPS', 8)  # Two in each of four tiles.
  module, variables, x = layer_of('witnesses', top_k=2, gate='one_hot')
  info = apply(module, variables, x)[1]
  tiles, unit_NTH, norm_TH = weigh_units(module, variables, x)
  half, want_NT = unit_NTH.shape[-1] // 2, np.zeros((N, T))
  for tile in range(T):
    for part in (slice(half), slice(half, None)):
      up_DU = np.asarray(tiles.up_TDH[tile, :, part])
      witness = np.argmax(up_DU.T @ up_DU.mean(axis=1))
      want_NT[:, tile] += np.square(np.maximum(unit_NTH[:, tile, part][:, witness], 0)) * norm_TH[tile, part].sum()
  np.testing.assert_array_equal(info.tile_NK, np.argsort(-want_NT, axis=1, kind='stable')[:, :2])


def test_energy_along_few_directions_is_that_of_the_largest(monkeypatch):
  monkeypatch.setattr(unit_routings, 'GROUPS', 3 * T)  # Votes and two directions a tile.
  module, variables, x = layer_of('low_rank_energy', top_k=2, gate='one_hot')
  info = apply(module, variables, x)[1]
  tiles = ffn.quantise_tiles(variables['params'], module.config)
  q, step = ternary.quantise_int8(x)
  x_ND, want_NT = np.asarray(q * step), np.zeros((N, T))
  norm_TH = np.linalg.norm(tiles.down_THD * tiles.down_scale_TD[:, None], axis=-1)
  for tile in range(T):
    row_HD = (tiles.up_TDH[tile] * tiles.up_scale_TH[tile] * np.sqrt(norm_TH[tile])).T
    _, stretch_R, direction_RD = np.linalg.svd(row_HD)
    rest = np.sum(np.square(stretch_R[2:])) / D
    energy_N = np.square(x_ND @ direction_RD[:2].T) @ np.square(stretch_R[:2]) + rest * np.square(x_ND).sum(axis=1)
    vote_N = (x_ND @ row_HD.T).sum(axis=1)
    want_NT[:, tile] = energy_N + 0.8 * vote_N * np.sqrt(energy_N / len(row_HD))
  np.testing.assert_array_equal(info.tile_NK, np.argsort(-want_NT, axis=1, kind='stable')[:, :2])


def test_energy_along_all_directions_is_all_of_it(monkeypatch):
  monkeypatch.setattr(unit_routings, 'GROUPS', 99 * T)
  exact, found = (apply(*layer_of(name, top_k=2, gate='one_hot'))[1] for name in ('energy', 'low_rank_energy'))
  np.testing.assert_array_equal(exact.tile_NK, found.tile_NK)


def test_a_token_gets_as_many_tiles_as_hold_a_share_of_its_votes():
  module, variables, x = layer_of('share_0.95', top_k=2, gate='one_hot')
  info = apply(module, variables, x)[1]
  score_NT = np.asarray(info.score_NJ)
  used = set()
  for scores, tiles, gates in zip(score_NT, info.tile_NK, info.gate_NK, strict=True):
    order = np.argsort(-scores, kind='stable')
    parts = np.square(np.maximum(scores[order], 0))
    enough = [count for count in range(1, 5) if parts[:count].sum() >= 0.95 * parts.sum()]
    np.testing.assert_array_equal(tiles, order)
    np.testing.assert_array_equal(gates, np.arange(4) < enough[0])
    used.add(enough[0])
  assert len(used) > 1
