"""Every file in configs/ is a run that works, for one step as well."""

import functools
import json
import pathlib
import runpy

import jax
import numpy as np
import pytest

from trix_jax import configuration
from trix_jax.errors import InputError
from trix_jax.nn import transformer
from trix_jax.system import devices
from trix_jax.training.step import init_state, make_train_step

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / 'configs').glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_valid_and_says_how_to_run_it(path):
  module = runpy.run_path(str(path))
  assert f'--config=configs/{path.name}' in module['__doc__']
  configuration.parse(module['get_config']())


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_trains_a_step_of_one(path):
  settings = runpy.run_path(str(path))['get_config']()
  settings.training.steps = 1
  # Small, but of the same kind.
  settings.training.batch_size = 2 * settings.training.accumulation
  settings.model.update({'layers': 1, 'd_model': 16, 'heads': 2, 'd_ff': 8 * settings.model.tiles, 'context': 16})
  config = configuration.parse(settings)
  model = transformer.TransformerLM(config.model, len('to be'))
  mesh = devices.data_mesh(2)
  state = devices.replicate(init_state(config, model), mesh)
  before = jax.device_get(state.params)
  windows = np.random.default_rng(0).integers(0, 5, (config.training.batch_size, 17), np.int32)
  state, metrics = make_train_step(config, model, mesh)(state, devices.split_batch(windows, mesh), 0)
  assert metrics['finite'] and metrics['learning_rate'] == config.optimizer.learning_rate
  unmoved = [
    jax.tree_util.keystr(path)
    for path, same in jax.tree_util.tree_leaves_with_path(
      jax.tree.map(np.array_equal, before, jax.device_get(state.params))
    )
    if same
  ]
  assert not unmoved, unmoved


def test_a_config_of_an_earlier_version_means_what_it_did():
  values = configuration.default_config().to_dict()
  for name in configuration.later_settings():
    *sections, key = name.split('.')
    del functools.reduce(dict.__getitem__, sections, values)[key]
  assert configuration.from_json(json.dumps(values), 'config.json') == configuration.RunConfig()
  del values['model']['tiles']
  with pytest.raises(InputError, match=r'lacks model\.tiles'):
    configuration.from_json(json.dumps(values), 'config.json')
  with pytest.raises(InputError, match='is not a config'):
    configuration.from_json('{}', 'config.json')


def test_what_clusters_carry_is_refused_where_there_is_nothing_to_carry():
  settings = configuration.default_config()
  settings.model.update({'tiles': 16, 'clusters': 4, 'cluster_bias': 'mean', 'balance_bias': True})
  settings.loss.balance_bias_rate = 0.02
  configuration.parse(settings)
  for name, value in (('clusters', 0), ('balance_bias', False)):
    changed = settings.copy_and_resolve_references()
    changed.model[name], changed.loss.balance_bias_rate = value, 0.02 * (name == 'clusters')
    with pytest.raises(InputError, match=r'model\.cluster_bias = mean carries the balance biases of tiles behind'):
      configuration.parse(changed)


def test_a_config_says_what_it_was_written_with():
  settings = configuration.default_config()
  settings.training.keep_checkpoints = 7  # A later setting, with a default for earlier configs.
  config = configuration.parse(settings)
  assert configuration.from_json(configuration.to_json(config), 'config.json') == config
  values = settings.to_dict()
  values['training']['stepps'] = 3
  with pytest.raises(InputError, match=r'unknown settings training\.stepps'):
    configuration.from_json(json.dumps(values), 'config.json')
