"""Tiles that are forced, matched and removed in a trained model: what the suites oracle and transfer measure."""

import dataclasses

import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from tiers import slow

from experiments.measures import best_tiles, forced, readings, stand_ins
from trix_jax.nn import ffn, transformer
from trix_jax.nn.model_config import FFNConfig, ModelConfig
from trix_jax.runs import checkpoints

V, L, T = 11, 8, 4
FFN = FFNConfig(d_model=16, d_ff=32, tiles=T)


def model_of(seed=0, layers=3, projections='float', **settings):
  """A model with large random parameters, so that layers and taps matter, as if it were trained."""
  config = ModelConfig(
    layers=layers,
    d_model=16,
    heads=2,
    context=L,
    projections=projections,
    ffn=dataclasses.replace(FFN, **{'int8_activations': False, **settings}),
  )
  model = transformer.TransformerLM(config, V)
  params, state = jitted.init(model, jax.random.key(seed))
  noise = iter(jax.random.split(jax.random.key(seed + 1), len(jax.tree.leaves(params))))
  params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(noise), leaf.shape), params)
  return checkpoints.Trained(None, model, 'abcdefghijk', {}, 'best', 0, 0.0, params, state)


@pytest.fixture(scope='module')
def windows():
  return np.asarray(jax.random.randint(jax.random.key(5), (3, L + 1), 0, V))


def losses_of(trained, windows):
  logits, _ = jitted.forward(trained.model, trained.params, trained.routing_state, windows[:, :-1])
  return np.asarray(transformer.next_token_loss(logits, windows[:, 1:])).reshape(-1)


def shifted(at_work, shift_ND):
  return (at_work.y_ND + shift_ND)[None]


@pytest.mark.parametrize('layer', [0, *slow(1)])
def test_a_token_that_changes_alone_loses_what_the_whole_model_says(windows, layer):
  trained = model_of()
  shift_BLD = np.asarray(jax.random.normal(jax.random.key(6), (3, L, 16)))

  def outputs(at_work, shift_BLD):
    return shifted(at_work, shift_BLD.reshape(-1, 16))

  routed_N, [alone_N], _ = forced.run(trained, layer, windows, outputs, given=shift_BLD)
  np.testing.assert_allclose(routed_N, losses_of(trained, windows), rtol=1e-5)
  for position in (3, L - 1):  # Only this position changes, in all windows.
    only_BLD = np.where(np.arange(L)[:, None] == position, shift_BLD, 0.0)
    _, [loss_N], _ = forced.run(trained, layer, windows, outputs, given=only_BLD, together=True)
    loss_BL = loss_N.reshape(3, L)
    np.testing.assert_allclose(alone_N.reshape(3, L)[:, position], loss_BL[:, position], rtol=1e-4)
    np.testing.assert_allclose(loss_BL[:, :position], routed_N.reshape(3, L)[:, :position], rtol=1e-5)
    if layer == 0 and position < L - 1:  # Later tokens see the change, which those that change alone do not.
      assert np.abs(loss_BL[:, position + 1 :] - routed_N.reshape(3, L)[:, position + 1 :]).max() > 1e-3
  assert np.abs(alone_N - routed_N).min() > 0


def test_ternary_projections_are_those_of_the_model(windows):
  trained = model_of(projections='ternary')
  routed_N, _, _ = forced.run(trained, 1, windows, lambda at_work, _: at_work.y_ND[None])
  want_N = losses_of(trained, windows)
  # Float noise turns an int8 rounding now and then.
  assert np.mean(np.abs(routed_N - want_N) < 1e-4) > 0.9 and np.abs(routed_N - want_N).max() < 0.1


def test_tokens_that_change_together_are_those_of_a_changed_model(windows):
  trained = model_of()
  silent = jax.tree.map(lambda leaf: leaf, trained.params)
  silent['layer_1']['ffn']['down_scale'] = jnp.zeros_like(silent['layer_1']['ffn']['down_scale'])
  _, [loss_N], _ = forced.run(trained, 1, windows, lambda at_work, _: jnp.zeros_like(at_work.y_ND)[None], together=True)
  np.testing.assert_allclose(loss_N, losses_of(dataclasses.replace(trained, params=silent), windows), rtol=1e-5)


@pytest.mark.parametrize('gate', ['probability', *slow('one_hot')])
def test_the_forced_tile_of_the_routing_is_the_model(windows, gate):
  trained = model_of(gate=gate)
  table = best_tiles.look_at(trained, 1, windows)
  at = np.arange(len(table.choice_N)), table.choice_N
  np.testing.assert_allclose(table.forced_NT[at], table.routed_N, rtol=1e-4)
  np.testing.assert_allclose(table.own_gate_NT[at], table.routed_N, rtol=1e-4)
  assert (np.abs(table.own_gate_NT - table.forced_NT).max() > 1e-3) == (gate == 'probability')
  np.testing.assert_array_equal(table.signature_N, table.choice_N)
  # Of each token, one borrowed change is that of a choice, which is none.
  assert np.all(np.abs(table.borrowed_NT - table.routed_N[:, None]).min(axis=1) < 1e-4)
  assert np.abs(table.borrowed_NT - table.forced_NT).max() > 1e-2
  together = best_tiles.lose_together(trained, 1, windows, np.stack([table.choice_N, table.choice_N * 0]))
  assert together[0] == pytest.approx(table.routed_N.mean(), rel=1e-5) and together[1] != pytest.approx(together[0])


def test_choices_are_ranked_by_the_tiles_that_lose_less():
  forced_NT = np.array([[1.0, 2, 3], [3, 1, 2], [1, 3, 1], [2, 2, 1]])
  judged = best_tiles.judge_choice(forced_NT, np.array([0, 2, 1, 0]))
  assert judged == {'loss': 2.0, 'best': 0.25, 'best_two': 0.75}


def test_a_gate_is_fitted_where_the_input_tells_the_best_tile():
  rng = np.random.default_rng(0)
  x_ND = rng.normal(size=(4000, 6)).astype(np.float32)
  choice_N = rng.integers(0, 3, 4000)
  best_N = np.where(x_ND[:, 0] > 0, 1, 2)
  told_NT = np.where(np.arange(3) == best_N[:, None], -1.0, 0.0)
  chosen = np.asarray(best_tiles._logits(best_tiles.fit_gate(x_ND, choice_N, told_NT), x_ND, choice_N)).argmax(axis=1)
  assert np.mean(chosen == best_N) > 0.9
  # Where nothing is to be gained, the choice stays.
  gate = best_tiles.fit_gate(x_ND, choice_N, np.where(np.arange(3) == choice_N[:, None], -1.0, 0.0))
  np.testing.assert_array_equal(np.asarray(best_tiles._logits(gate, x_ND, choice_N)).argmax(axis=1), choice_N)


def test_a_model_is_matched_with_itself_turned_around_and_its_tiles_stand_in(windows):
  trained = model_of(int8_activations=True)
  order = np.array([2, 0, 3, 1])
  moved = jax.tree.map(lambda leaf: leaf, trained.params)
  for layer in ('layer_0', 'layer_1', 'layer_2'):
    moved[layer]['ffn'] = {name: of[order] for name, of in trained.params[layer]['ffn'].items()}
  twin = dataclasses.replace(trained, params=moved)
  row = stand_ins.measure_layer(trained, twin, 1, windows, windows)
  for way in ('plain_signatures', 'plain_usage'):
    pair = row['pairs'][way]
    assert pair['matched'] == pytest.approx(0, abs=1e-5) and pair['others'] != pytest.approx(0, abs=1e-3)
  assert row['pairs']['plain_signatures']['likeness'] == pytest.approx(1)
  ours = losses_of(trained, windows).mean()
  assert row['routed'] == pytest.approx(ours, rel=1e-5) and stand_ins.let_stand_in(trained, None) == []
  # With the gates of the choices, another own tile is the twin's tile that is not matched.
  assert row['any_own'] == pytest.approx(row['pairs']['plain_signatures']['others'], abs=1e-5)


def test_stand_ins_are_the_matched_tiles_of_the_whole():
  more_TT = np.array([[0.1, 0.4, 0.7], [0.5, 0.2, 0.2], [0.0, 0.0, 0.0]])
  # Greedy matching would take 9, and then 1 and 0.
  likeness_TT = np.array([[8.0, 9, 0], [1, 8, 0], [0, 0, 1]])
  found = stand_ins.stand_in(more_TT, likeness_TT)
  assert found['matched'] == pytest.approx(0.3) and found['others'] == pytest.approx(0.55 + 0.35)
  assert found['best'] == pytest.approx(0.3) and found['matched_is_best'] == 1  # The unused tile does not count.
  assert found['likeness'] == pytest.approx(17 / 3)


def test_rotations_are_found_again():
  rng = np.random.default_rng(0)
  turn_DD, _ = np.linalg.qr(rng.normal(size=(5, 5)))
  x_ND = rng.normal(size=(50, 5))
  np.testing.assert_allclose(stand_ins.rotation(x_ND, x_ND @ turn_DD), turn_DD, atol=1e-6)


@pytest.mark.parametrize('gate', ['probability', *slow('one_hot')])
def test_a_removed_tile_is_a_model_without_it(windows, gate):
  trained = model_of(layers=1, gate=gate)
  of_layer, of_tiles = readings.lose_parts(trained, 0, windows)
  routed = losses_of(trained, windows).mean()
  for tile in range(T):
    kept = np.delete(np.arange(T), tile)
    params = {**trained.params, 'layer_0': {**trained.params['layer_0']}}
    params['layer_0']['ffn'] = {name: of[kept] for name, of in trained.params['layer_0']['ffn'].items()}
    config = trained.model.config
    smaller = dataclasses.replace(config, ffn=dataclasses.replace(config.ffn, tiles=T - 1, d_ff=24))
    fewer = dataclasses.replace(trained, model=transformer.TransformerLM(smaller, V), params=params)
    assert of_tiles['removed'][tile] == pytest.approx(losses_of(fewer, windows).mean() - routed, abs=1e-5)
    scale = trained.params['layer_0']['ffn']['down_scale']
    params['layer_0']['ffn'] = {**trained.params['layer_0']['ffn'], 'down_scale': scale.at[tile].set(0.0)}
    silent = dataclasses.replace(trained, params=params)
    assert of_tiles['silent'][tile] == pytest.approx(losses_of(silent, windows).mean() - routed, abs=1e-5)
  assert of_layer != pytest.approx(0, abs=1e-4)


def test_what_is_read_of_tiles_is_in_their_codes(windows):
  trained = model_of()
  tiles = ffn.quantise_tiles(trained.params['layer_0']['ffn'], trained.model.config.ffn)
  agreeing = dataclasses.replace(tiles, up_TDH=jnp.ones_like(tiles.up_TDH))
  np.testing.assert_allclose(readings.agreement(agreeing), 8**0.5)  # Eight units that all vote alike.
  halves = jnp.where(jnp.arange(8) % 2, 1.0, -1.0) * jnp.ones_like(tiles.up_TDH)
  np.testing.assert_allclose(readings.agreement(dataclasses.replace(tiles, up_TDH=halves)), 0)
  np.testing.assert_allclose(
    readings.magnitude(dataclasses.replace(tiles, up_scale_TH=2 * tiles.up_scale_TH)),
    2 * readings.magnitude(tiles),
    rtol=1e-6,
  )
  read = readings.tile_readings(trained, 0, tiles, windows)
  assert sum(read['load']) == pytest.approx(1) and all(
    m <= share for m, share in zip(read['margin'], read['load'], strict=True)
  )
  same = dataclasses.replace(tiles, signatures_TD=tiles.signatures_TD.at[1].set(tiles.signatures_TD[0]))
  assert readings.tile_readings(trained, 0, same, windows)['apart'][:2] == pytest.approx([0, 0], abs=1e-6)


def test_difficulty_is_told_by_what_a_model_says_of_itself(windows):
  trained = model_of()
  found = readings.difficulty(trained, windows, windows)
  assert len(found['margin']) == 3 and all(-1 <= of <= 1 for of in found['margin'])
  # A head of zeros predicts all alike: each character is as hard as another, and nothing tells.
  logits, infos = jitted.forward(trained.model, trained.params, trained.routing_state, windows[:, :-1])
  probability_BLV = jax.nn.softmax(logits)
  entropy_N = -np.asarray((probability_BLV * jnp.log(probability_BLV)).sum(axis=-1)).reshape(-1)
  loss_N = losses_of(trained, windows)
  ranks = [np.argsort(np.argsort(of)) for of in (entropy_N, loss_N)]
  assert found['entropy'] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)
  top_N2 = np.sort(np.asarray(infos[1].probability_NJ), axis=1)[:, -2:]
  ranks[0] = np.argsort(np.argsort(top_N2[:, 0] - top_N2[:, 1]))
  assert found['margin'][1] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)


@pytest.mark.parametrize('settings', [{'top_k': 2}, {'routing': 'dense', 'gate': 'one_hot'}])
def test_models_with_several_tiles_a_token_are_not_forced(settings):
  with pytest.raises(ValueError, match='one tile'):
    best_tiles.force_every_tile(model_of(**settings))
  with pytest.raises(ValueError, match='one tile'):
    readings.read_and_hold(model_of(**settings))
