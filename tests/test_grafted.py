"""Keys of grafted tiles: what each of them reads, and who wins a token."""

import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_grafting import donor_of, host_model

from experiments.measures import grafted
from experiments.suites import graft as suite
from trix_jax.data import corpora
from trix_jax.editing import grafting
from trix_jax.inference import forward, weights
from trix_jax.nn import ffn
from trix_jax.nn.transformer import TransformerLM
from trix_jax.runs import checkpoints

V, FIRST = 20, 4
STEPS = 2  # Of training keys.
TEXT = np.random.default_rng(0).integers(0, V, 200).astype(np.int32)


def tiles_of(up_TDH, down_THD, up_scale=1.0, down_scale=1.0):
  T, D, H = np.shape(up_TDH)
  arrays = (up_TDH, down_THD, np.full((T, H), up_scale), np.full((T, D), down_scale), np.zeros((T, D)), np.ones(T))
  return ffn.TernaryTiles(*(jnp.asarray(array, jnp.float32) for array in arrays))


def asked_of(q_ND):
  return types.SimpleNamespace(q_ND=jnp.asarray(q_ND, jnp.float32), step_N1=jnp.full((len(q_ND), 1), 0.5))


def test_energy_is_a_part_of_its_trace():
  # By hand: the units read 2 and -1 of half of [4, -2], with outputs of norms 1 and 2; its trace is 1 + 2.
  up_TDH, down_THD = [[[1, 0], [0, 1]]], [[[1, 0], [2, 0]]]
  layer = {'tiles': tiles_of(up_TDH, down_THD)}
  energy, votes = 4 * 1 + 1 * 2, 2 * 1 - 1 * np.sqrt(2)
  want = (energy + 0.8 * votes * np.sqrt(energy / 2)) / 3
  np.testing.assert_allclose(grafted.score_by_energy(asked_of([[4, -2]]), layer), [[want]], rtol=1e-6)
  scaled = {'tiles': tiles_of(up_TDH, down_THD, up_scale=7.0, down_scale=3.0)}
  np.testing.assert_allclose(grafted.score_by_energy(asked_of([[4, -2]]), scaled), [[want]], rtol=1e-6)


def test_spectral_keys_are_those_of_the_product():
  # The product of the matrices, diagonal: 3 along the first input, 1 along the second.
  tiles = tiles_of([[[1, 1, 1, 0], [0, 0, 0, 1]]], [[[1, 0], [1, 0], [1, 0], [0, 1]]])
  directions_TDE, stretch_TE = grafted.decompose(tiles)
  layer = {'directions_TDE': directions_TDE, 'stretch_TE': stretch_TE}
  np.testing.assert_allclose(stretch_TE, [[3, 1]], rtol=1e-6)
  np.testing.assert_allclose(grafted.score_by_arrow(asked_of([[-4, 2]]), layer), [[2]], rtol=1e-6)
  np.testing.assert_allclose(grafted.score_by_spectrum(asked_of([[-4, 2]]), layer), [[np.hypot(6, 1)]], rtol=1e-6)


def test_the_best_side_takes_a_token_and_the_host_chooses_by_its_votes():
  score_NT = jnp.asarray([[1, 2, 0], [1, 0, 2], [3, 0, 3], [0, 0, -9], [0, 0, 9], [0, 0, 1]], jnp.float32)
  vote_NT = jnp.asarray([[9, 0, 0]] * 6, jnp.float32)
  by_token = grafted.choose(score_NT, vote_NT, 2, 3, False)
  assert by_token.ravel().tolist() == [0, 2, 0, 0, 2, 2]
  # The means of the first text's grafted tile: 0, 1, 5/3, which never exceed the host's 2, 1, 5/3. Then -9, 0, 1/3.
  by_mean = grafted.choose(score_NT, vote_NT, 2, 3, True)
  assert by_mean.ravel().tolist() == [0, 0, 0, 0, 0, 2]


def keyed_model(seed=1):
  params, config = host_model()
  donor = donor_of(params, seed=seed)
  params, model = grafting.graft(params, config, [donor])
  arrays = grafted.with_directions(weights.as_trained(params, {}, model), model)
  votes = [grafted.votes_of(arrays[f'layer_{layer}.ffn']) for layer in range(model.layers)]
  return params, model, weights.InferenceConfig(model, V, 'float32', 'float32'), arrays, votes


def test_votes_by_token_are_the_grafted_model_itself():
  _, _, config, arrays, votes = keyed_model()
  keyed = {**grafted.with_keys(arrays, votes), 'is_mean': jnp.asarray(False)}
  got = grafted.evaluate(grafted.make_computation(grafted.score_linearly, FIRST), config, FIRST, keyed, TEXT)
  want = grafted.evaluate(forward.XLA, config, FIRST, arrays, TEXT)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert 0.05 < got[1] < 0.95


def test_keys_differ_at_grafted_tiles_alone():
  _, model, _, _, votes = keyed_model()
  rng = np.random.default_rng(1)
  D = model.d_model
  host = rng.normal(size=(90, D)) + 1, np.repeat([0, 1, 3], 30)  # No token for one of the host's tiles.
  donor = rng.normal(size=(80, D)) - 1, np.zeros(80, int)
  inputs = [[host] * model.layers, [donor] * model.layers]
  for key in ('random', 'mean_row'):
    of = grafted.make_keys(key, votes, FIRST, inputs)[0]
    np.testing.assert_array_equal(of.key_TD[:FIRST], votes[0].key_TD[:FIRST])
    assert np.any(of.key_TD[FIRST] != votes[0].key_TD[FIRST])
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(of.key_TD), axis=1)), 1, rtol=1e-5)
  mean_D = votes[0].key_TD[:FIRST].mean(axis=0)
  assert float(of.key_TD[FIRST] @ mean_D) == pytest.approx(np.sqrt(D) * float(jnp.linalg.norm(mean_D)), rel=1e-5)
  assert grafted.make_keys('votes', votes, FIRST, inputs) is votes

  of = grafted.make_keys('centroid', votes, FIRST, inputs)[0]
  np.testing.assert_allclose(
    of.key_TD[1] / host[0][30:60].mean(axis=0), of.key_TD[1, 0] / host[0][30:60, 0].mean(), 1e-5
  )
  assert not of.key_TD[2].any() and np.sign(of.key_TD[FIRST]).mean() < -0.9

  of = grafted.make_keys('ridge', votes, FIRST, inputs)[0]
  scores = [x_ND @ np.asarray(of.key_TD).T + np.asarray(of.bias_T) for x_ND, _ in (host, donor)]
  assert np.mean(scores[0][:, FIRST] < scores[0][:, 0]) > 0.95 < np.mean(scores[1][:, FIRST] > scores[1][:, 0])


@pytest.fixture
def runs(monkeypatch, tmp_path):
  """A host, its donor and a fine-tuned host, of two texts, as if they had been trained."""
  params, config = host_model()
  donor = donor_of(params)
  other = jax.tree.map(lambda of: of + 0.1, params)
  texts = {name: np.random.default_rng(at).integers(0, V, 400).astype(np.int32) for at, name in enumerate('hd')}

  def run(params, model, text, start_from='', train_only=''):
    training = types.SimpleNamespace(start_from=start_from, train_only=train_only, steps=STEPS)
    corpus = corpora.Corpus('made_up', '', texts[text], texts[text][:101], '')
    return types.SimpleNamespace(
      params=params,
      routing_state={},
      vocabulary='abcdefghijklmnopqrst',
      config=types.SimpleNamespace(model=model, training=training),
      model=TransformerLM(model, V),
      corpus=lambda: corpus,
    )

  host = run(params, config, 'h')
  monkeypatch.setattr(checkpoints, 'load_trained', lambda folder, kind: {pathlib.Path('host'): host}[folder])
  return host, run(donor.params, donor.config, 'd', 'host', 'tiles'), run(other, config, 'd', 'host')


@pytest.mark.slow
def test_a_donor_is_measured_by_every_key_and_others_by_their_losses(runs):
  host, donor, finetuned = runs
  assert grafted.graft_by_many_keys(host) == {}
  found = grafted.graft_by_many_keys(donor)
  assert grafted.graft_by_many_keys(finetuned).keys() == {'ungrafted', 'itself'}
  assert [(row['key'], row['scores']) for row in found['rows']] == [
    (key, scores) for key in suite.KEYS for scores in suite.SCORES
  ]
  for row in found['rows']:
    gain = found['ungrafted']['donor'] - found['itself']['donor']
    assert row['R'] * gain == pytest.approx(found['ungrafted']['donor'] - row['donor'])
    assert row['F'] == row['host'] - found['ungrafted']['host']
  assert len({row['donor'] for row in found['rows'] if row['scores'] == 'token'}) > 5
  assert len(found['passage']['text']) == len(found['passage']['tiles'][0]) == 16
  assert json.dumps(found)


@pytest.mark.slow
def test_rows_of_grafted_tiles_train_alone(runs):
  host, donor, _ = runs
  params, model = grafting.graft(
    host.params, host.config.model, [grafting.Donor('d', donor.params, donor.config.model)]
  )
  arrays = weights.as_trained(params, {}, model)
  config = weights.InferenceConfig(model, V, 'float32', 'float32')
  votes = [grafted.votes_of(arrays[f'layer_{layer}.ffn']) for layer in range(model.layers)]
  inputs = [grafted.look_at_layers(run, run.corpus().train) for run in (host, donor)]
  rows = grafted.train_rows(arrays, votes, FIRST, inputs, config, [run.corpus().train for run in (host, donor)], STEPS)
  start = grafted.make_keys('centroid', votes, FIRST, inputs)
  for of, of_votes, of_start in zip(rows, votes, start, strict=True):
    np.testing.assert_array_equal(of.key_TD[:FIRST], of_votes.key_TD[:FIRST])
    assert np.any(of.key_TD[FIRST] != of_start.key_TD[FIRST]) and float(of.bias_T[FIRST]) != 0
    assert not of.bias_T[:FIRST].any()
