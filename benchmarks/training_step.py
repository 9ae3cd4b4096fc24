"""A training step on made-up characters, for benchmarks that time it. Import it after the CPU is prepared."""

from typing import Any

import numpy as np

from trix_jax.configuration import RunConfig
from trix_jax.nn import transformer
from trix_jax.system import devices
from trix_jax.training.step import init_state, make_train_step


def prepare(config: RunConfig, vocabulary_size: int) -> tuple[Any, Any, Any]:
  """Return the step of a config, its first state, and a batch that is split over the devices."""
  batch, context = config.training.batch_size, config.model.context
  model = transformer.TransformerLM(config.model, vocabulary_size)
  mesh = devices.data_mesh(batch)
  windows = np.random.default_rng(0).integers(0, vocabulary_size, (batch, context + 1), np.int32)
  state = devices.replicate(init_state(config, model), mesh)
  return make_train_step(config, model, mesh), state, devices.split_batch(windows, mesh)
