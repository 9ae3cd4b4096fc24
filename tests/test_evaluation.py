import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import VOCABULARY, start, text, tiny

from trix_jax import configuration
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.evaluation import classes
from trix_jax.evaluation.evaluator import (
  WINDOWS_AT_A_TIME,
  Evaluator,
  change_routing,
  evaluate_routings,
  make_trained_backend,
  record_tiles,
  tile_disagreement,
)
from trix_jax.inspection import gate_fitting
from trix_jax.nn import transformer
from trix_jax.runs import checkpoints, workdirs
from trix_jax.training.step import init_state


def test_evaluation_counts_every_character_once():
  config = tiny(model__layers=2)
  model, _, state = start(config)
  tokens = text(333)  # Not a multiple of the context, nor of the batch.
  row = Evaluator(model.config, VOCABULARY, tokens)(state.params)

  @jax.jit
  def losses_of(params, window_L):
    logits, _ = transformer.apply(model, params, {}, window_L[None, :-1])
    return transformer.next_token_loss(logits, window_L[None, 1:])[0]

  losses = []
  for first in range(0, 332, 16):
    losses += list(np.asarray(losses_of(jax.device_get(state.params), tokens[first : first + 17])))
  assert len(losses) == 332
  assert row['loss'] == pytest.approx(np.mean(losses), rel=1e-5)
  assert row['perplexity'] == pytest.approx(np.exp(row['loss']))
  counts = np.array(row['class_tiles'])
  assert counts.shape == (2, len(classes.CLASSES), 4)
  characters = [VOCABULARY[token] for token in tokens[:-1]]
  expected = [sum(classes.character_class(c) == name for c in characters) for name in classes.CLASSES]
  np.testing.assert_array_equal(counts.sum(axis=2), [expected, expected])
  np.testing.assert_allclose(np.array(row['tile_load']), counts.sum(axis=1) / 332, atol=1e-5)


def test_a_tile_that_no_token_reaches_and_a_silent_one_are_dead():
  config = tiny(model__layers=2)
  model, _, state = start(config)
  params = jax.tree.map(np.array, state.params)
  evaluate = Evaluator(model.config, VOCABULARY, text())
  unreached = [int(np.sum(np.array(load) == 0)) for load in evaluate(params)['tile_load']]
  assert evaluate(params)['dead_tiles'] == unreached
  used = int(np.argmax(evaluate(params)['tile_load'][0]))
  params['layer_0']['ffn']['down'][used] = 0
  assert evaluate(params)['dead_tiles'][0] == unreached[0] + 1
  first = Evaluator(change_routing(model.config, 'first'), VOCABULARY, text())
  assert first(jax.device_get(state.params))['dead_tiles'] == [3, 3]


def test_parameter_counts_of_the_reference():
  settings = configuration.default_config()
  settings.model.update({'form': 'reference', 'shared_down_scale': True, 'routing': 'learned', 'balance_bias': True})
  settings.loss.balance_bias_rate = 0.1
  config = configuration.parse(settings)
  model = transformer.TransformerLM(config.model, 65)
  state = jax.eval_shape(lambda: init_state(config, model))
  # 3 of 4 tiles idle in 4 layers, each 2 * 128 * 128 weights and 128 up scales; the down scale is shared.
  idle = 3 * 4 * (2 * 128 * 128 + 128)
  assert workdirs.describe_parameters(model.config, state.params, state.routing_state) == {
    'parameters': {'total': 844_881, 'routing': 2_064, 'active_per_token': 844_881 - idle},
    'routing_state': 16,
  }


@pytest.mark.slow
def test_parameter_counts_of_tiles_with_output_scales():
  config = configuration.parse(configuration.hierarchical_config(tiles=16, clusters=4, probes=2, top_k=4, d_ff=512))
  model = transformer.TransformerLM(config.model, 65)
  state = jax.eval_shape(lambda: init_state(config, model))
  counts = workdirs.describe_parameters(model.config, state.params, state.routing_state)['parameters']
  # 12 of 16 tiles idle in 4 layers, each 2 * 128 * 32 weights, 32 up scales, 128 down scales and an output scale.
  assert counts['total'] - counts['active_per_token'] == 12 * 4 * (2 * 128 * 32 + 32 + 128 + 1)


@pytest.mark.slow
def test_evaluating_a_thousand_tiles_takes_the_memory_of_their_hidden_units():
  """Not that of 1,024 gates of each of 1,024 chosen tiles: 32 GiB where all are computed."""
  settings = configuration.hierarchical_config(tiles=1024, clusters=32, probes=4, top_k=4, d_ff=8192)
  settings.model.layers = 1
  config = configuration.parse(settings)
  for name in ('dense', 'emergent'):
    model = change_routing(config.model, name)
    state = jax.eval_shape(lambda: init_state(config, transformer.TransformerLM(config.model, len(VOCABULARY))))
    evaluator = Evaluator(model, VOCABULARY, np.zeros(1000, np.int32))
    windows = jax.ShapeDtypeStruct((WINDOWS_AT_A_TIME, 257), jnp.int32)
    targets = jax.ShapeDtypeStruct((WINDOWS_AT_A_TIME,), jnp.int32)
    compiled = evaluator._step.lower(state.params, state.routing_state, windows, targets, 0).compile()
    hidden = WINDOWS_AT_A_TIME * 256 * 8192 * 4 // jax.device_count()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * hidden


def test_disagreement_is_the_share_of_tokens_that_go_to_another_tile():
  config = tiny()
  model, _, state = start(config)
  others = init_state(dataclasses.replace(config, seed=1), model).params
  backend = make_trained_backend(model.config, len(VOCABULARY))
  tokens = text(5 * 16 + 1)
  both = jax.device_get((state.params, others))
  share = tile_disagreement(16, tokens, *((backend, params, {}) for params in both))
  first, second = (record_tiles(model, params, {}, tokens[:-1])[0] for params in both)
  np.testing.assert_allclose(share, np.mean(first[..., 0] != second[..., 0], axis=1))
  assert min(share) > 0


def test_mutual_information_of_known_tables():
  assert classes.normalised_mutual_information([[5, 0], [0, 5]]) == pytest.approx(1)
  assert classes.normalised_mutual_information([[2, 4], [3, 6]]) == pytest.approx(0, abs=1e-12)
  assert classes.normalised_mutual_information([[7, 0], [0, 0]]) == 0
  # By hand for [[1, 1], [0, 2]] / 4:
  # H(class) = log 2, H(tile) = 0.5623 nats, H(joint) = 1.0397 nats, 2 I / (H + H) = 0.3437.
  assert classes.normalised_mutual_information([[1, 1], [0, 2]]) == pytest.approx(0.3437, abs=1e-4)


def trained_on_nothing(config):
  _, _, state = start(config)
  run_corpus = corpora.Corpus('file', VOCABULARY, text(), text()[-100:], 'sha')
  trained = checkpoints.Trained(
    config,
    transformer.TransformerLM(config.model, len(VOCABULARY)),
    VOCABULARY,
    {'corpus': {'sha256': 'sha'}},
    'best',
    0,
    float('nan'),
    jax.device_get(state.params),
    {},
  )
  return trained, run_corpus


def test_another_text_does_not_pass_for_that_of_the_training(tmp_path):
  path = tmp_path / 'text.txt'
  path.write_text('to be or not to be, ' * 20)
  config = configuration.RunConfig(corpus='file', file=str(path))
  corpus = corpora.load_corpus('file', str(path))
  run = {'corpus': {'sha256': corpus.sha256}}
  trained = checkpoints.Trained(config, None, corpus.vocabulary, run, 'best', 0, 0.0, {}, {})
  np.testing.assert_array_equal(trained.corpus().train, corpus.train)
  path.write_text('to be or not to me, ' * 20)
  with pytest.raises(InputError, match='is not the text the model was trained on'):
    trained.corpus()


@pytest.mark.slow
def test_a_fitted_gate_lowers_the_loss_and_touches_nothing_else(monkeypatch):
  config = tiny(model__gate='one_hot')
  trained, corpus = trained_on_nothing(config)
  monkeypatch.setattr(checkpoints.Trained, 'corpus', lambda _: corpus)

  def loss_of(params):
    fitted = change_routing(trained.model.config, 'learned')
    return Evaluator(fitted, VOCABULARY, corpus.train)(params)['loss']

  first, last = (gate_fitting.fit_gate(trained, steps) for steps in (1, 40))
  assert loss_of(last) < loss_of(first)
  gate = last['layer_0']['ffn'].pop('gate')
  assert gate['kernel'].shape == (16, 4)
  jax.tree.map(np.testing.assert_array_equal, last, trained.params)


@pytest.mark.slow
def test_a_model_with_a_learned_gate_is_evaluated_by_it_too():
  config = tiny(model__routing='learned', model__balance_bias=True, loss__balance_bias_rate=0.1)
  trained, corpus = trained_on_nothing(config)
  # A bias so large that only tile 3 is chosen, which the other routings must not see.
  state = {'layer_0': {'ffn': {'balance_bias': np.float32([0, 0, 0, 1e6])}}}
  rows = {
    row['routing']: row
    for row in evaluate_routings(trained.model.config, VOCABULARY, corpus.validation, trained.params, state)
  }
  assert list(rows) == ['dense', 'emergent', 'random', 'first', 'learned']
  assert rows['learned']['tile_load'] == [[0, 0, 0, 1]] and rows['first']['tile_load'] == [[1, 0, 0, 0]]
  assert rows['emergent']['tile_load'][0][3] < 1
  with pytest.raises(InputError, match='leave out --fit_gate'):
    gate_fitting.fit_gate(trained, 1)
