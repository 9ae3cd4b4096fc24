"""What a training takes up from another run is that of the same model, or is refused by the name of its setting."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from tiers import fast_first

from trix_jax import configuration
from trix_jax.errors import InputError
from trix_jax.nn import transformer
from trix_jax.runs import checkpoints
from trix_jax.training import warm_start
from trix_jax.training.step import init_state

VOCABULARY = 'abcd'
CORPUS = types.SimpleNamespace(vocabulary=VOCABULARY)


def tiny(**model):
  config = configuration.default_config()
  config.model.update({'layers': 1, 'd_model': 16, 'd_ff': 32, 'heads': 2, 'context': 8, **model})
  config.training.start_from = config.loss.teacher = 'earlier'
  config.loss.balance_bias_rate = 0.02 * config.model.balance_bias
  return configuration.parse(config)


def state_of(config, seed=0):
  return init_state(dataclasses.replace(config, seed=seed), transformer.TransformerLM(config.model, len(VOCABULARY)))


@pytest.fixture
def earlier(monkeypatch):
  """Makes a run that was trained with these settings of the model the one that is there."""

  def trained_with(vocabulary=VOCABULARY, **model):
    config = tiny(**model)
    state = state_of(config, seed=1)
    trained = types.SimpleNamespace(
      config=config,
      model=transformer.TransformerLM(config.model, len(VOCABULARY)),
      vocabulary=vocabulary,
      params=state.params,
      routing_state=state.routing_state,
    )
    monkeypatch.setattr(checkpoints, 'load_trained', lambda workdir, kind: trained)
    return trained

  return trained_with


def same(got, want):
  return all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a, b), got, want)))


def test_parameters_come_along_and_nothing_else_does(earlier):
  trained, config = earlier(routing='dense', gate='one_hot'), tiny()
  before = state_of(config)
  state = warm_start.start_from(config, CORPUS, before)
  assert same(state.params, trained.params) and not same(state.params, before.params)
  assert same(dataclasses.replace(state, params=before.params), before)


def tiles_alone(config):
  return dataclasses.replace(config, training=dataclasses.replace(config.training, train_only='tiles'))


def test_new_tiles_start_in_an_earlier_model(earlier):
  """As many as the config says, and each as wide as those of the earlier model."""
  trained, config = earlier(), tiles_alone(tiny(tiles=1, d_ff=8, routing='dense', gate='one_hot'))
  before = state_of(config)
  state = warm_start.start_from(config, CORPUS, before)
  assert state.params['layer_0']['ffn']['up'].shape == (1, 16, 8)
  assert same(state.params['layer_0']['ffn'], before.params['layer_0']['ffn'])
  rest, theirs = ({**params, 'layer_0': {**params['layer_0'], 'ffn': {}}} for params in (state.params, trained.params))
  assert same(rest, theirs)
  wider = tiles_alone(tiny(tiles=1, d_ff=16))
  with pytest.raises(InputError, match='d_ff / tiles 8 -> 16'):
    warm_start.start_from(wider, CORPUS, state_of(wider))


def test_tiles_alone_need_a_model_around_them():
  for change in ({'start_from': ''}, {'clusters': 2}):
    config = configuration.default_config()
    config.training.update({'train_only': 'tiles', 'start_from': change.get('start_from', 'earlier')})
    config.model.clusters = change.get('clusters', 0)
    with pytest.raises(InputError, match='train_only = tiles needs the model around the tiles'):
      configuration.parse(config)


@pytest.mark.slow
def test_an_index_is_that_of_its_tiles(earlier):
  settings = {'tiles': 4, 'clusters': 2, 'probes': 1, 'balance_bias': True}
  trained, config = earlier(**settings), tiny(**settings)
  before = state_of(config)
  state = warm_start.start_from(config, CORPUS, before)
  assert same(state.routing_state, trained.routing_state) and not same(state.routing_state, before.routing_state)
  other = tiny(**settings | {'balance_bias': False})
  with pytest.raises(InputError, match=r'start_from: .* its index would be lost'):
    warm_start.start_from(other, CORPUS, state_of(other))


@pytest.mark.parametrize(
  'model',
  fast_first(
    [{'heads': 4}, {'activation': 'relu'}, {'signature': 'sign'}, {'context': 4}, {'d_ff': 64}, {'tiles': 2}], 2
  ),
)
def test_another_model_is_refused_by_what_differs(earlier, model):
  earlier()
  config = tiny(**model)
  with pytest.raises(InputError, match=rf'start_from: the model in earlier is another one \({next(iter(model))} '):
    warm_start.start_from(config, CORPUS, state_of(config))


def test_a_gate_that_was_not_trained_is_refused(earlier):
  earlier()
  config = tiny(routing='learned')
  with pytest.raises(InputError, match=r'start_from: .* other parameters'):
    warm_start.start_from(config, CORPUS, state_of(config))


@pytest.mark.slow
def test_who_makes_no_teacher_is_told_why(earlier):
  config, trained = tiny(), earlier()
  assert same(warm_start.load_teacher(config, CORPUS).params, trained.params)
  for settings, words in (
    ({'routing': 'random'}, 'routes at random'),
    ({'context': 4}, 'has a context of 4'),
    ({'vocabulary': 'abce'}, 'another vocabulary'),
  ):
    earlier(**settings)
    with pytest.raises(InputError, match=rf'config\.loss\.teacher: .*{words}'):
      warm_start.load_teacher(config, CORPUS)
  assert warm_start.load_teacher(configuration.RunConfig(), CORPUS) is None
