"""A tiny model in training, and a text that it can learn."""

import jax
import numpy as np

from trix_jax import configuration
from trix_jax.data import corpora
from trix_jax.nn import transformer
from trix_jax.system import devices
from trix_jax.training.step import (
  init_state,
  make_train_step,
)

VOCABULARY = ' .0abc\n'


def tiny(**overrides):
  config = configuration.default_config()
  config.model.update({'layers': 1, 'd_model': 16, 'heads': 2, 'd_ff': 32, 'context': 16, 'dropout': 0.0})
  config.training.update({'steps': 60, 'batch_size': 4})
  for name, value in overrides.items():
    section, key = name.split('__')
    config[section][key] = value
  return configuration.parse(config)


def start(config, mesh_size=2):
  model = transformer.TransformerLM(config.model, len(VOCABULARY))
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:mesh_size]), (devices.AXIS,))
  state = devices.replicate(init_state(config, model), mesh)
  return model, mesh, state


def text(length=400):
  """A text with something to learn: a noisy cycle through the vocabulary."""
  rng = np.random.default_rng(0)
  return ((np.arange(length) + (rng.random(length) < 0.1)) % len(VOCABULARY)).astype(np.int32)


def batch(config, mesh, step=0):
  settings = config.training
  return devices.split_batch(corpora.draw_batch(text(), config.model.context, settings.batch_size, 0, step), mesh)


def run(config, steps, mesh_size=2):
  model, mesh, state = start(config, mesh_size)
  step = make_train_step(config, model, mesh)
  losses = []
  for index in range(steps):
    state, metrics = step(state, batch(config, mesh, index), index)
    losses.append(float(metrics['loss']))
  return state, losses, metrics
