"""Every file in configs/ is a run that works, for one step as well."""

import pathlib
import runpy

import jax
import numpy as np
import pytest

from trix_jax import configuration, devices, training

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / 'configs').glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_trains_a_step_of_one(path):
  module = runpy.run_path(str(path))
  assert f'--config=configs/{path.name}' in module['__doc__']
  config = module['get_config']()
  config.training.steps = 1
  # Small, but of the same kind.
  config.training.batch_size = 2 * config.training.accumulation
  config.model.update({'layers': 1, 'd_model': 16, 'heads': 2, 'd_ff': 8 * config.model.tiles, 'context': 16})
  configuration.validate(config)
  model = training.make_model(config, 'to be')
  mesh = devices.data_mesh(2)
  state = devices.replicate(training.init_state(config, model), mesh)
  before = jax.device_get(state.params)
  windows = np.random.default_rng(0).integers(0, 5, (config.training.batch_size, 17), np.int32)
  state, metrics = training.make_train_step(config, model, mesh)(state, devices.split_batch(windows, mesh), 0)
  assert metrics['finite'] and metrics['learning_rate'] == config.optimizer.learning_rate
  unmoved = [jax.tree_util.keystr(path) for path, same in jax.tree_util.tree_leaves_with_path(
      jax.tree.map(np.array_equal, before, jax.device_get(state.params))) if same]
  assert not unmoved, unmoved
