"""Every file in configs/ is a run that works, for one step as well."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from trix_jax import configuration, trainer

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / 'configs').glob('*.py'))


def load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_runs_for_one_step(path, tmp_path, capsys):
  module = load(path)
  assert f'--config=configs/{path.name}' in module.__doc__
  config = module.get_config()
  configuration.validate(config)
  # Small, but of the same kind.
  (tmp_path / 'text').write_text(''.join(np.random.default_rng(0).choice(list('to be \n'), 600)))
  config.corpus, config.file, config.sample_length = 'file', str(tmp_path / 'text'), 2
  config.training.steps = 1
  config.training.batch_size = 2 * config.training.accumulation
  config.model.update({'layers': 1, 'd_model': 16, 'heads': 2, 'd_ff': 32, 'context': 16})
  trainer.train(config, tmp_path / 'run')
  assert 'step 1/1' in capsys.readouterr().out
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  assert [(row['step'], row['split']) for row in rows] == [(1, 'train'), (1, 'validation')]
