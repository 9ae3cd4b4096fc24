"""What the suite `edits` measures: keys that an edit leaves right lose nothing, and a refit starts from the address."""

import dataclasses

import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from programs import train

from experiments.measures import edited
from experiments.suites import edits as suite
from trix_jax.editing import edits
from trix_jax.inspection import gate_fitting
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig
from trix_jax.runs import checkpoints


def test_a_unit_is_as_large_as_its_weights():
  config = FFNConfig(d_model=4, d_ff=2, tiles=1, quantiser='threshold')
  params = {
    'up': jnp.array([[[1.0, 1], [1, 0], [-1, 0], [1, 0]]]),
    'down': jnp.array([[[1.0, 0, 0, 0], [1, 1, 1, 1]]]),
    'up_scale': jnp.array([[1.0, -3]]),
    'down_scale': jnp.full((1, 4), 8.0),
  }
  # Two by the root of 8, and three by the root of 16.
  np.testing.assert_allclose(edited.weigh_by_magnitude(params, config), [[2 * 8**0.5, 12]], rtol=1e-6)


@pytest.fixture(scope='module')
def loaded(trained):
  return checkpoints.load_trained(trained[0], 'best')


def test_a_gate_made_of_keys_routes_like_them(loaded):
  config = dataclasses.replace(loaded.model.config.ffn, int8_activations=False)
  params = loaded.params['layer_0']['ffn']
  gate = edited.read_gates(loaded.params, loaded.model.config)['layer_0']
  x_ND = np.random.default_rng(0).standard_normal((200, config.d_model), np.float32)
  _, want = ffn.SparseTriXFFN(config).apply({'params': params}, x_ND)
  learned = dataclasses.replace(config, routing='learned')
  _, got = ffn.SparseTriXFFN(learned).apply({'params': {**params, 'gate': gate}}, x_ND)
  np.testing.assert_array_equal(got.tile_NK, want.tile_NK)
  np.testing.assert_allclose(got.gate_NK, want.gate_NK, rtol=1e-4)


def test_stale_keys_are_those_of_the_former_tiles(loaded):
  config, T = loaded.model.config, loaded.model.config.ffn.tiles
  carry_XT = jnp.eye(T)[jnp.array([0, 0, 3])].at[0, 2].set(0.5).at[0, 0].set(0.5)
  change = edits.Change(edits.take(loaded.params['layer_0']['ffn'], [0, 1, 2]), carry_XT, '')
  key_TD = np.asarray(ffn.quantise_tiles(loaded.params['layer_0']['ffn'], config.ffn).signatures_TD)
  want_XD = np.stack([(key_TD[0] + key_TD[2]) / 2, key_TD[0], key_TD[3]])
  want_XD *= config.d_model**-0.5 / np.sqrt(np.mean(want_XD**2, axis=1, keepdims=True))
  gate = edited.read_gates(loaded.params, config, (change,))['layer_0']
  np.testing.assert_allclose(gate['kernel'], want_XD.T, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('routing', ['emergent', 'learned'])
def test_keys_lose_what_they_must(text, tmp_path, monkeypatch, routing):
  monkeypatch.setattr(edited, 'STEPS', 1)
  assert train(text, tmp_path / 'run', f'--config.model.routing={routing}', '--config.model.layers=2').returncode == 0
  trained = checkpoints.load_trained(tmp_path / 'run', 'best')
  rows = edited.edit_in_many_ways(trained)
  loss = {(row['edit'], row['key']): row['loss'] for row in rows}
  assert len(loss) == len(rows)
  own, stale = ('reread', 'stale_read') if routing == 'emergent' else ('stale_row', 'stale_row')
  # A gate reads the stream before it is quantised.
  assert loss['none', own] == pytest.approx(trained.validation_loss, rel=1e-5 if own == stale else 1e-3)
  assert {(edit, key) for edit in suite.PRIMARY for key in ('reread', 'refitted', stale)} <= loss.keys()
  assert loss['none', stale] == pytest.approx(loss['none', own], rel=1e-6)
  assert loss['permute', 'reread'] == pytest.approx(loss['none', 'reread'], rel=1e-6)
  assert loss['permute', stale] != pytest.approx(loss['none', stale], rel=1e-6)
  # One step of fitting leaves the address almost where it was.
  for edit in ('none', *suite.PRIMARY):
    assert abs(loss[edit, 'refitted'] - loss[edit, own]) < 0.02
  alternatives = {'prune_by_magnitude', 'prune_by_activation', 'drop_one_of_the_pair'}
  assert alternatives & {row['edit'] for row in rows} == (alternatives if routing == 'emergent' else set())


@pytest.mark.slow
def test_activations_are_those_of_the_tokens_of_a_tile(loaded):
  active_YTH = edited.weigh_by_activation(loaded)
  config = loaded.model.config
  [seen] = edited.carved.look_at_layers(loaded)
  windows = edited.corpora.draw_batch(loaded.corpus().train, config.context, edited.carved.WINDOWS, 0, 0)
  _, infos = jitted.forward(loaded.model, loaded.params, {}, windows[:, :-1])
  tile_N = np.asarray(infos[0].tile_NK[:, 0])
  H = config.ffn.hidden
  for tile in range(config.ffn.tiles):
    own_NH = seen.active_NF[tile_N == tile][:, tile * H : (tile + 1) * H]
    want_H = own_NH.mean(axis=0) if len(own_NH) else np.zeros(H)
    np.testing.assert_allclose(active_YTH[0][tile], want_H, rtol=0.02, atol=1e-4)


@pytest.mark.slow
def test_a_fit_starts_from_the_gates_that_it_is_given(loaded):
  gate = edited.read_gates(loaded.params, loaded.model.config)
  fitted = gate_fitting.fit_gate(loaded, 1, start=gate)['layer_0']['ffn']['gate']
  # Adam's first step moves no number by more than its rate.
  np.testing.assert_allclose(fitted['kernel'], gate['layer_0']['kernel'], atol=1.01 * gate_fitting.LEARNING_RATE)
  fresh = gate_fitting.fit_gate(loaded, 1)['layer_0']['ffn']['gate']
  assert np.abs(fresh['kernel'] - gate['layer_0']['kernel']).max() > 0.1
