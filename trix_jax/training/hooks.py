"""What a run does beside its steps: log, validate, save, profile.

`Log` takes the metrics of a step, which arrive when the next step already runs. `Validate` and `Save` take the state
after a step, when they are due.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from trix_jax.configuration import TrainingConfig
from trix_jax.errors import TrainingStopped
from trix_jax.evaluation.evaluator import Evaluator, convert_loss
from trix_jax.runs.checkpoints import Checkpoints
from trix_jax.runs.metrics import MetricWriter
from trix_jax.runs.state import TrainState
from trix_jax.training.clock import Clock

# A trace starts PROFILE_AFTER steps into a session, after compilation, and covers PROFILE_STEPS.
PROFILE_AFTER, PROFILE_STEPS = 10, 5

_PER_LAYER = (
  'tile_load',
  'tiles_used',
  'routing_entropy',
  'routing_margin',
  'routing_ties',
  'signature_zeros',
  'signature_diversity',
)


@dataclasses.dataclass
class Validate:
  """Evaluates on the validation split, and saves the best state so far as `best`.

  Attributes:
    settings, evaluate, writer, checkpoints, clock: of the run.
    best_loss: of the run so far, NaN before the first evaluation.
    loss: of the last evaluation in this session, NaN before.
  """

  settings: TrainingConfig
  evaluate: Evaluator
  writer: MetricWriter
  checkpoints: Checkpoints
  clock: Clock
  best_loss: float
  loss: float = math.nan

  def is_due(self, step: int) -> bool:
    """Return whether this many steps call for an evaluation."""
    return step % self.settings.eval_every == 0 or step == self.settings.steps

  def __call__(self, step: int, state: TrainState) -> None:
    """Evaluate. Raise TrainingStopped when the loss is not finite."""
    with self.clock.paused():
      row = self.evaluate(state.params, state.routing_state)
    self.loss = row['loss']
    if not math.isfinite(self.loss):
      raise explain_divergence(f'the validation loss at step {step} is not finite', self.checkpoints)
    of_layers = {name: row[name] for name in (*_PER_LAYER, 'dead_tiles')}
    self.writer.write({'step': step, 'split': 'validation', **convert_loss(self.loss), **of_layers})
    print(
      f'step {step}: validation loss {self.loss:.4f}, perplexity {row["perplexity"]:.3f}, '
      f'dead tiles {sum(row["dead_tiles"])}',
      flush=True,
    )
    if math.isnan(self.best_loss) or self.loss < self.best_loss:
      self.best_loss = self.loss
      with self.clock.paused():
        self.checkpoints.save('best', state, self.best_loss)


@dataclasses.dataclass
class Save:
  """Saves the state as `last`, from which a run goes on, with the best loss that `validate` knows."""

  settings: TrainingConfig
  checkpoints: Checkpoints
  clock: Clock
  validate: Validate

  def is_due(self, step: int) -> bool:
    """Return whether this many steps call for a checkpoint."""
    return step % self.settings.checkpoint_every == 0 or step == self.settings.steps

  def __call__(self, _: int, state: TrainState) -> None:
    with self.clock.paused():
      self.checkpoints.save('last', state, self.validate.best_loss)


@dataclasses.dataclass
class Log:
  """Writes the metrics of every `log_every`-th step, and prints progress and the time left."""

  settings: TrainingConfig
  writer: MetricWriter
  clock: Clock
  validate: Validate

  def __call__(self, step: int, values: Mapping[str, Any]) -> None:
    self.clock.tick(step)
    steps = self.settings.steps
    if step % self.settings.log_every and step != steps:
      return
    loss, rate = float(values['loss']), self.clock.rate()
    self.writer.write(
      {
        'step': step,
        'split': 'train',
        **convert_loss(loss),
        'learning_rate': float(values['learning_rate']),
        'grad_norm': float(values['grad_norm']),
        'tokens_per_second': round(rate, 1) or None,
        **{name: np.asarray(values[name], np.float64).round(6).tolist() for name in _PER_LAYER},
        # Count the tiles that no token of this batch reached.
        'dead_tiles': np.sum(values['tile_load'] == 0, axis=-1).tolist(),
      }
    )
    validation = '-' if math.isnan(self.validate.loss) else f'{self.validate.loss:.4f}'
    print(
      f'step {step:>{len(str(steps))}}/{steps}  loss {loss:.4f}  validation {validation}  '
      f'{f"{rate:,.0f}" if rate else "-"} tokens/s  {self.clock.left(steps - step)} left',
      flush=True,
    )


class Profile:
  """Traces a few steps of a session into a folder; None for no trace. Leaving its `with` block ends the trace."""

  def __init__(self, folder: pathlib.Path | None, first_step: int, steps: int):
    self._folder, self._tracing = folder, False
    self._start = max(first_step, min(first_step + PROFILE_AFTER, steps - PROFILE_STEPS))

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._tracing:
      jax.profiler.stop_trace()

  def before_step(self, step: int, state: TrainState) -> None:
    """Start or end the trace where it is time; `step` steps are done."""
    if self._folder is not None and step == self._start:
      jax.block_until_ready(state)
      jax.profiler.start_trace(str(self._folder))
      self._tracing = True
    elif step == self._start + PROFILE_STEPS:
      self.end(state)

  def end(self, state: TrainState) -> None:
    """End the trace if it still runs."""
    if not self._tracing:
      return
    jax.block_until_ready(state)
    jax.profiler.stop_trace()
    self._tracing = False
    print(f'trace of up to {PROFILE_STEPS} steps written to {self._folder}; open it with xprof or Perfetto', flush=True)


def explain_divergence(what: str, checkpoints: Checkpoints) -> TrainingStopped:
  """Return the error for a run whose numbers are no longer finite."""
  step = checkpoints.latest_step('last')
  saved = 'nothing was saved yet' if step is None else f'the checkpoint of step {step} is intact'
  return TrainingStopped(f'{what}; {saved}; try a smaller --config.optimizer.learning_rate in another --workdir')
