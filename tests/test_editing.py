"""An edit changes the tiles that it names, keeps every bit of the others, and leaves addresses to be read again."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from tiers import fast_first
from uneven import make_scales_uneven

from trix_jax.core import ternary
from trix_jax.editing import edits, latent_weights, merging, pruning, splitting
from trix_jax.errors import InputError
from trix_jax.nn import ffn, transformer
from trix_jax.nn.model_config import FFNConfig, parse_model
from trix_jax.nn.transformer import TransformerLM

V, D, T, H = 20, 32, 4, 16
MODEL = {'layers': 2, 'd_model': D, 'heads': 2, 'context': 32, 'd_ff': T * H, 'tiles': T, 'gate': 'one_hot'}


def model_of(**settings):
  """The config of a model, its parameters and routing state, with scales and a gate as uneven as trained ones."""
  config = parse_model({**MODEL, **settings})
  params, state = jitted.init(TransformerLM(config, V), jax.random.key(0))
  make_scales_uneven(params)
  for layer in range(config.layers):
    of_layer = params[f'layer_{layer}']['ffn']
    if 'gate' in of_layer:
      of_layer['gate'] = {**of_layer['gate'], 'bias': jax.random.normal(jax.random.key(layer), (config.ffn.tiles,))}
    if f'layer_{layer}' in state:
      state[f'layer_{layer}']['ffn']['balance_bias'] = jnp.arange(1.0, config.ffn.tiles + 1)
  return config, params, state


def layer_of(**settings):
  config, params, _ = model_of(layers=1, **settings)
  return config.ffn, params['layer_0']['ffn']


@pytest.fixture(scope='module')
def token_BL():
  return jax.random.randint(jax.random.key(1), (2, 32), 0, V)


def logits(config, params, token_BL, state=None):
  return jax.jit(functools.partial(transformer.apply, TransformerLM(config, V)))(params, state or {}, token_BL)


def outputs(config, params, tile):
  """What one tile puts out on some input, [N, D]."""
  x_ND = jax.random.normal(jax.random.key(7), (40, D))
  return ffn.compute_tile_outputs(x_ND, ffn.quantise_tiles(params, config), config)[tile]


def codes_of(params, config):
  """The codes of every unit, in and out: [T, H, 2 D]."""
  tiles = ffn.quantise_tiles(dict(params), config)
  return np.concatenate([tiles.up_TDH.transpose(0, 2, 1), tiles.down_THD], axis=-1)


def edited_layer(config, change):
  hidden = change.tiles['up'].shape[2]
  tiles = len(change.tiles['up'])
  return dataclasses.replace(config, tiles=tiles, d_ff=tiles * hidden, top_k=min(config.top_k, tiles))


def merge_1_3(params, config, _):
  return merging.merge(params, config, (3, 1))


def split_2(params, config, _):
  return splitting.split(params, config, 2)


def clone_2(params, config, _):
  return edits.clone(params, config, 2)


def remove_1(params, config, _):
  return edits.remove(params, config, 1)


def replace_1_by_3(params, config, _):
  return edits.replace(params, config, 1, edits.take(params, [3]), (0, 3))


# An edit, and for each new tile the former one that it is, or None for one that was made.
EDITS = {
  'merge': (merge_1_3, (0, None, 2)),
  'split': (split_2, (0, 1, None, 3, None)),
  'clone': (clone_2, (0, 1, 2, 3, 2)),
  'remove': (remove_1, (0, 2, 3)),
  'replace': (replace_1_by_3, (0, 3, 2, 3)),
}


@pytest.mark.parametrize('name', EDITS)
def test_an_edit_changes_exactly_the_tiles_that_it_names(name):
  edit, former = EDITS[name]
  config, params = layer_of()
  change = edit(params, config, 0)
  assert len(change.tiles['up']) == len(former)
  for new, old in enumerate(former):
    for of in edits.OF_TILES:
      same = np.array_equal(change.tiles[of][new], params[of][old]) if old is not None else False
      assert same == (old is not None), (new, of)
  for new, row in enumerate(change.carry_XT):
    assert row.sum() == 1 and (former[new] is None or row[1 if (name, new) == ('replace', 1) else former[new]] == 1)


def test_all_layers_change_and_the_config_with_them(token_BL):
  config, params, state = model_of(quantiser='threshold', shared_down_scale=True, balance_bias=True, top_k=2)
  for edit, former in EDITS.values():
    edited = edits.edit_layers(params, state, config, edit)
    new = edited.config.ffn
    assert (new.tiles, new.hidden, new.shared_down_scale) == (len(former), H, False)
    assert all(edited.params[name]['ffn']['up'].shape == (len(former), D, H) for name in ('layer_0', 'layer_1'))
    assert edited.params['layer_0']['attention'] is params['layer_0']['attention']
    wanted = jax.eval_shape(lambda new=edited.config: transformer.init(TransformerLM(new, V), jax.random.key(0)))
    shapes = jax.tree.map(jnp.shape, (edited.params, edited.routing_state))
    assert shapes == jax.tree.map(jnp.shape, wanted)


def test_addresses_are_those_of_the_edited_codes(token_BL):
  config, params, _ = model_of()
  for edit, _ in EDITS.values():
    edited = edits.edit_layers(params, {}, config, edit)
    _, infos = logits(edited.config, edited.params, token_BL)
    tiles = ffn.quantise_tiles(edited.params['layer_1']['ffn'], edited.config.ffn)
    np.testing.assert_array_equal(infos[1].signatures_TD, tiles.up_TDH.sum(axis=-1))
    np.testing.assert_array_equal(infos[1].tile_NK[:, 0], np.argmax(infos[1].score_NJ, axis=1))


def test_tiles_in_another_order_are_the_same_model(token_BL):
  config, params, _ = model_of(shared_down_scale=True, routing='learned')
  order = [2, 0, 3, 1]
  edited = edits.edit_layers(
    params,
    {},
    config,
    lambda params, config, _: edits.Change(edits.take(params, order), jnp.eye(T)[jnp.array(order)], ''),
  )
  np.testing.assert_array_equal(
    codes_of(edited.params['layer_1']['ffn'], edited.config.ffn), codes_of(params['layer_1']['ffn'], config.ffn)[order]
  )
  want, infos = logits(config, params, token_BL)
  got, new_infos = logits(edited.config, edited.params, token_BL)
  np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())
  for old, new in zip(infos, new_infos, strict=True):
    np.testing.assert_array_equal(np.array(order)[new.tile_NK], old.tile_NK)


def test_gates_and_balance_biases_are_carried_over():
  config, params, state = model_of(routing='learned', balance_bias=True)
  gate = params['layer_1']['ffn']['gate']
  for name, columns in {
    'clone': [[0], [1], [2], [3], [2]],
    'merge': [[0], [1, 3], [2]],
    'remove': [[0], [2], [3]],
  }.items():
    edited = edits.edit_layers(params, state, config, EDITS[name][0])
    new = edited.params['layer_1']['ffn']['gate']
    kernel_DT = np.stack([gate['kernel'][:, np.array(of)].mean(axis=1) for of in columns], axis=1)
    np.testing.assert_array_equal(new['kernel'], kernel_DT)
    np.testing.assert_array_equal(new['bias'], [gate['bias'][np.array(of)].mean() for of in columns])
    bias_T = edited.routing_state['layer_1']['ffn']['balance_bias']
    np.testing.assert_array_equal(bias_T, [np.mean([1.0 + tile for tile in of]) for of in columns])


@pytest.mark.parametrize('routing', ['emergent', 'learned'])
def test_a_copy_is_idle_and_changes_nothing_where_gates_are_1(routing, token_BL):
  config, params, _ = model_of(routing=routing)
  edited = edits.edit_layers(params, {}, config, clone_2)
  want, infos = logits(config, params, token_BL)
  got, new_infos = logits(edited.config, edited.params, token_BL)
  np.testing.assert_array_equal(new_infos[1].tile_NK, infos[1].tile_NK)
  np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())


def test_tokens_of_a_removed_tile_alone_find_another(token_BL):
  config, params, _ = model_of()
  edited = edits.edit_layers(params, {}, config, remove_1)
  before, after = (
    logits(of, of_params, token_BL)[1][0].tile_NK[:, 0]
    for of, of_params in ((config, params), (edited.config, edited.params))
  )
  assert 0 < np.mean(before == 1) < 1
  stay_N = before != 1
  np.testing.assert_array_equal(np.array([0, 2, 3])[after][stay_N], before[stay_N])


@pytest.mark.parametrize('quantiser', fast_first(['absmean', 'threshold']))
def test_pruning_keeps_the_codes_of_the_units_that_weigh_most(quantiser):
  config, params = layer_of(quantiser=quantiser)
  weight_TH = jax.random.normal(jax.random.key(3), (T, H))
  change = pruning.prune(params, config, 5, weight_TH)
  best_TX = np.sort(np.argsort(-np.asarray(weight_TH), axis=1)[:, :5], axis=1)
  want = np.take_along_axis(codes_of(params, config), best_TX[..., None], axis=1)
  new = edited_layer(config, change)
  np.testing.assert_array_equal(codes_of(change.tiles, new), want)
  for name in ('up_scale_TH', 'down_scale_TD'):
    old, of_new = (getattr(ffn.quantise_tiles(dict(of), c), name) for of, c in ((params, config), (change.tiles, new)))
    kept = np.take_along_axis(np.asarray(old), best_TX, axis=1) if name == 'up_scale_TH' else old
    np.testing.assert_allclose(of_new, kept, rtol=1e-5)
  assert len(np.unique(np.abs(change.tiles['up']))) > 100  # Training goes on from more than codes.


def test_pruning_silent_units_changes_no_output(token_BL):
  config, params, _ = model_of(top_k=T, int8_activations=False)
  for name in ('layer_0', 'layer_1'):
    down_THD = params[name]['ffn']['down']
    params[name]['ffn']['down'] = down_THD.at[:, ::2].set(0.0)
  edited = edits.edit_layers(params, {}, config, lambda params, config, _: pruning.prune(params, config, H // 2))
  assert (edited.config.ffn.d_ff, edited.config.ffn.hidden) == (T * H // 2, H // 2)
  want, _ = logits(config, params, token_BL)
  got, _ = logits(edited.config, edited.params, token_BL)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def small_layer(up_HD, down_HD, **scales):
  """A layer of one or more tiles with given codes, [T, H, D], and scales of 1."""
  up_THD, down_THD = jnp.asarray(up_HD, jnp.float32), jnp.asarray(down_HD, jnp.float32)
  tiles, hidden, width = up_THD.shape
  config = FFNConfig(d_model=width, d_ff=tiles * hidden, tiles=tiles, quantiser='threshold')
  params = {
    'up': up_THD.transpose(0, 2, 1),
    'down': down_THD,
    'up_scale': jnp.ones((tiles, hidden)),
    'down_scale': jnp.ones((tiles, width)),
  }
  return {**params, **{name: jnp.asarray(value, jnp.float32) for name, value in scales.items()}}, config


def test_a_unit_weighs_by_its_votes_for_the_tally_and_the_size_of_its_output():
  params, config = small_layer(
    [[[1, 1, 1, 0], [1, 1, 0, 1], [-1, -1, 0, 0], [1, 1, 0, 0]]],
    [[[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]],
    up_scale=[[1, 2, 1, 1]],
  )
  # The tally is (2, 2, 1, 1), of length sqrt(10). The output's size counts by its root, because of relu^2.
  want = np.array([[5 * 2**0.5, 5 * 2, -4 * 2**0.5, -np.inf]]) / 10**0.5
  np.testing.assert_allclose(pruning.weigh_by_votes(params, config), want, rtol=1e-6)
  np.testing.assert_allclose(pruning.weigh_tiles(params, config), want[:, :2].sum(axis=1), rtol=1e-6)
  change = pruning.prune(params, config, 2)
  np.testing.assert_array_equal(
    codes_of(change.tiles, edited_layer(config, change))[0, :, :4], [[1, 1, 1, 0], [1, 1, 0, 1]]
  )
  assert 'keeps 2 of 4 units' in change.said and '100 %' in change.said


def test_a_merged_tile_has_the_votes_of_both():
  up_HD = [[[1, 1, 0, -1], [0, 0, 1, 1]], [[0, 0, 1, 1], [1, -1, 0, 0]]]  # The units of the second are turned round.
  down_HD = [[[1, 0, 1, 0], [0, 1, 0, 1]], [[0, 1, 0, 1], [1, 1, -1, 0]]]
  scales = {'up_scale': [[1, 3], [5, 2]], 'down_scale': [[2, 2, 2, 2], [4, 4, 4, 4]]}
  params, config = small_layer(up_HD, down_HD, **scales)
  change = merging.merge(params, config)
  tiles = ffn.quantise_tiles(dict(change.tiles), edited_layer(config, change))
  # One and one make one, one and an abstention make one, and one and minus one make none.
  np.testing.assert_array_equal(tiles.up_TDH[0].T, [[1, 0, 0, -1], [0, 0, 1, 1]])
  np.testing.assert_array_equal(tiles.down_THD[0], [[1, 1, 0, 0], [0, 1, 0, 1]])
  # By hand: of the first unit 1 and 2 for the first code, 1 and 0 for the last; of the second 3 and 5 for both.
  np.testing.assert_allclose(tiles.up_scale_TH, [[(1.5 + 0.5) / 2, (4 + 4) / 2]])
  # Output 1 has codes of both units: 0 and 4 in the first, 2 and 4 in the second.
  np.testing.assert_allclose(tiles.down_scale_TD, [[3, (2 + 3) / 2, 0, 3]])
  assert change.said.startswith('tiles 0 and 1 became tile 0') and '75 % agreed' in change.said


@pytest.mark.parametrize('settings', fast_first([{}, {'quantiser': 'threshold'}, {'signature': 'sign'}]))
def test_the_most_alike_tiles_are_merged_and_equal_ones_give_themselves(settings):
  config, params = layer_of(**settings)
  order_H = jax.random.permutation(jax.random.key(5), H)
  for name, axis in (('up', 1), ('down', 0), ('up_scale', 0)):  # Tile 3 is tile 1, its units in another order.
    params = {**params, name: params[name].at[3].set(jnp.take(params[name][1], order_H, axis=axis))}
  params['down_scale'] = params['down_scale'].at[3].set(params['down_scale'][1])
  assert merging.find_most_alike(params, config) == (1, 3)
  change = merging.merge(params, config)
  assert (
    'tiles 1 and 3 became tile 1; similarity of their signatures +1.00, of votes that met 100 % agreed' == change.said
  )
  new = edited_layer(config, change)
  np.testing.assert_array_equal(codes_of(change.tiles, new)[1], codes_of(params, config)[1])
  want = outputs(config, params, 1)
  np.testing.assert_allclose(outputs(new, change.tiles, 1), want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize('activation', fast_first(['relu_squared', 'relu']))
def test_the_halves_of_a_tile_are_its_units_and_votes(activation):
  config, params = layer_of(activation=activation, int8_activations=False)
  change = splitting.split(params, config, 2)
  new = edited_layer(config, change)
  want = outputs(config, params, 2)
  got = outputs(new, change.tiles, 2) + outputs(new, change.tiles, 4)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
  old_codes, codes = codes_of(params, config), codes_of(change.tiles, new)
  whole = sorted(map(bytes, old_codes[2].astype(np.int8)))
  for half in (codes[2], codes[4]):
    np.testing.assert_array_equal(half[: H // 2], half[H // 2 :])
  assert sorted(map(bytes, np.concatenate([codes[2, : H // 2], codes[4, : H // 2]]).astype(np.int8))) == whole
  # A unit and its copy learn apart.
  up_DH = change.tiles['up'][2]
  assert np.mean(up_DH[:, : H // 2] != up_DH[:, H // 2 :]) > 0.9


def test_units_that_read_alike_stay_together_when_their_tile_is_split():
  config, params = layer_of(quantiser='threshold')
  centre_DX = jax.random.normal(jax.random.key(2), (D, 2))
  side_H = np.arange(H) % 2
  params = {**params, 'up': params['up'].at[1].set(centre_DX[:, side_H])}
  params['up'] = params['up'].at[1].add(0.1 * jax.random.normal(jax.random.key(4), (D, H)))
  codes = codes_of(edits.take(params, [1]), dataclasses.replace(config, tiles=1, d_ff=H, top_k=1))[0]
  sides = {bytes(codes[unit].astype(np.int8)): unit % 2 for unit in range(H)}
  change = splitting.split(params, config, 1)
  new = codes_of(change.tiles, edited_layer(config, change))
  assert [len({sides[bytes(row.astype(np.int8))] for row in new[tile]}) for tile in (1, T)] == [1, 1]
  # Units that oppose one another agree least of all.
  params['up'] = params['up'].at[1].set(centre_DX[:, :1] * jnp.where(side_H == 0, 1.0, -1.0))
  assert splitting.find_least_agreed(params, config) == 1
  assert splitting.split(params, config).said.startswith('tile 1 became tiles 1 and 4, with 8 of its units each')


@pytest.mark.parametrize('quantiser', fast_first(['threshold', 'absmean']))
def test_any_latent_weights_can_be_made_to_hold_any_codes(quantiser):
  config = FFNConfig(d_model=8, d_ff=4, tiles=1, quantiser=quantiser)
  codes = jax.random.randint(jax.random.key(0), (1, 8, 4), -1, 2).astype(jnp.float32)
  latent, scale = latent_weights.hold_codes(jax.random.normal(jax.random.key(1), codes.shape), codes, config)
  got, read = ternary.ternarise(latent, quantiser)
  np.testing.assert_array_equal(got, codes)
  np.testing.assert_allclose(read[:, 0, 0], scale, rtol=1e-6)


@pytest.mark.parametrize(
  'settings, edit, message',
  [
    ({'clusters': 2}, remove_1, 'behind an index'),
    ({'routing': 'dense'}, remove_1, 'trix carve makes one of a dense model'),
    ({'routing': 'random'}, remove_1, 'do not choose tiles by their addresses'),
    ({'control': 'hash'}, remove_1, 'model.control = hash'),
    ({'top_k': 4}, remove_1, r'3 tile\(s\) would be left'),
    ({}, lambda p, c, _: edits.remove(p, c, 4), 'there is no tile 4; choose a number from 0 to 3'),
    ({}, lambda p, c, _: edits.clone(p, c, -1), 'there is no tile -1'),
    ({}, lambda p, c, _: merging.merge(p, c, (1, 1)), 'tile 1 cannot be merged with itself'),
    ({}, lambda p, c, _: merging.merge(p, c, (1, 4)), 'there is no tile 4'),
    ({'tiles': 1}, lambda p, c, _: merging.merge(p, c), 'one tile has no two to merge'),
    ({}, lambda p, c, _: pruning.prune(p, c, 17), '17 units to keep; choose a number from 1 to 16'),
    ({}, lambda p, c, _: pruning.prune(p, c, 0), '0 units to keep'),
    ({}, lambda p, c, layer: pruning.prune(p, c, 4 + layer), 'all layers need one size'),
    ({'d_ff': 60}, lambda p, c, _: splitting.split(p, c, 0), '15 units has no two halves'),
    (
      {},
      lambda p, c, _: edits.replace(p, c, 0, {**p, 'up': p['up'][:, :, 1:]}, (0, 2), 'x'),
      'tile 2 of layer 0 of x has 15 units of width 32, and tiles here have 16',
    ),
  ],
)
def test_what_cannot_be_edited_is_refused(settings, edit, message):
  config, params, state = model_of(**settings)
  with pytest.raises(InputError, match=message):
    edits.edit_layers(params, state, config, edit)
