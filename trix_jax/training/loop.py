"""Run a training from its first step, or from its last checkpoint, to its last step."""

import math
import pathlib
import signal
import sys
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from trix_jax import configuration, inference
from trix_jax.data import corpora
from trix_jax.errors import InputError, TrainingStopped
from trix_jax.evaluation import tables
from trix_jax.evaluation.evaluator import Evaluator, convert_loss, evaluate_routings
from trix_jax.nn import transformer
from trix_jax.runs import checkpoints, metrics, workdirs
from trix_jax.system import devices
from trix_jax.training import warm_start
from trix_jax.training.step import first_non_finite, init_state, make_train_step

# A trace starts PROFILE_AFTER steps into a session, after compilation, and covers PROFILE_STEPS.
PROFILE_AFTER, PROFILE_STEPS = 10, 5


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Train a config into a workdir, resuming where an earlier call stopped, and print the final table.

  An interrupted run ends bit-identical to an uninterrupted one on the same machine, versions and devices. On SIGTERM
  and SIGINT the run saves a checkpoint before it stops.

  Raises:
    InputError: for unusable settings, texts or workdirs; nothing is overwritten.
    TrainingStopped: on a signal, or when the loss is no longer finite.
  """
  configuration.validate(config)
  if config.file:  # An absolute path lets evaluation find the text from any folder.
    config = config.copy_and_resolve_references()
    config.file = str(pathlib.Path(config.file).resolve())
  corpus = corpora.load_corpus(config.corpus, config.file)
  for split in ('train', 'validation'):
    corpora.check_context(getattr(corpus, split), config.model.context, split)
  with workdirs.opened(workdir, config):
    run = _Run(config, workdir, corpus)
    try:
      run.to_the_end()
    finally:
      run.close()


class _Run:
  """The moving parts of a run."""

  def __init__(self, config, workdir, corpus):
    self.config, self.workdir, self.corpus = config, workdir, corpus
    self.model = transformer.make_model(config.model, corpus.vocabulary)
    self.mesh = devices.data_mesh(config.training.batch_size // config.training.accumulation)
    workdirs.check_corpus(workdir, corpus)
    self.teacher = warm_start.teacher_of(config, corpus)
    self.checkpoints = checkpoints.Checkpoints(workdir, keep=config.training.keep_checkpoints)
    state = init_state(config, self.model)
    self.best_loss = math.nan
    if self.checkpoints.latest_step('last') is not None:
      state, self.best_loss = self.checkpoints.restore('last', state)
      print(f'resuming from step {int(state.step)} of {config.training.steps} in {workdir}', flush=True)
    else:
      self._refuse_to_start_over()
      if config.training.start_from:
        state = warm_start.start_from(config, corpus, state)
    self.step = int(state.step)
    if not self.checkpoints.forget_after(self.step):
      self.best_loss = math.nan
    workdirs.write_run(workdir, config, corpus, state.params, state.routing, self.mesh, self.step)
    self.writer = metrics.MetricWriter(workdir, self.step)
    self.state = devices.replicate(state, self.mesh)
    self.evaluate = Evaluator(self.model.config, corpus.vocabulary, corpus.validation)
    self.validation_loss = math.nan
    self.tracing = False
    self.clock = _Clock(config.training.batch_size * config.model.context)

  def _refuse_to_start_over(self) -> None:
    """Raise InputError when the checkpoints of a run that has saved some are missing."""
    rows = metrics.read_metrics(self.workdir) if (self.workdir / 'metrics.jsonl').exists() else []
    reached = max([row['step'] for row in rows] + [self.checkpoints.latest_step('best') or 0])
    if reached > self.config.training.checkpoint_every:
      raise InputError(
        f'workdir {self.workdir} holds a run that reached step {reached}, but no checkpoint to go on '
        'from; bring back its checkpoints/last, or choose another --workdir to start over'
      )

  def to_the_end(self) -> None:
    """Train the remaining steps, then evaluate every routing and write a sample."""
    settings = self.config.training
    train_step = make_train_step(self.config, self.model, self.mesh, self.teacher)
    counts = workdirs.parameter_counts(self.config, self.state.params, self.state.routing)
    print(
      f'{counts["parameters"]["total"]:,} parameters, {counts["parameters"]["active_per_token"]:,} active per '
      f'character; {len(self.corpus.train):,} training characters, {self.mesh.size} '
      f'{jax.default_backend()} device(s)',
      flush=True,
    )
    trace_from = max(self.step, min(self.step + PROFILE_AFTER, settings.steps - PROFILE_STEPS))
    pending: tuple[int, Any] | None = None
    with _Signals() as signals:
      while self.step < settings.steps and not signals.received:
        if self.config.profile:
          self._profile(self.step == trace_from, self.step == trace_from + PROFILE_STEPS)
        self.state, step_metrics = train_step(self.state, self._batch(self.step), self.step)
        # Fetch the metrics of a step after dispatching the next one, so that the device never waits for Python.
        self._finish(pending)
        self.step += 1
        pending = (self.step, step_metrics)
        last = self.step == settings.steps
        if self.step % settings.eval_every == 0 or self.step % settings.checkpoint_every == 0 or last:
          self._finish(pending)
          pending = None
          if self.step % settings.eval_every == 0 or last:
            self._validate()
          if self.step % settings.checkpoint_every == 0 or last:
            self._save()
      self._finish(pending)
      self._profile(stop=True)
      if signals.received:
        self._save()
        raise TrainingStopped(
          f'stopped by {signals.received.name} at step {self.step}, saved; run the same command to go on',
          128 + signals.received,
        )
    self._conclude()

  def close(self) -> None:
    try:
      self.writer.close()
    finally:
      self.checkpoints.close()

  def _batch(self, step):
    settings = self.config.training
    windows = corpora.training_batch(
      self.corpus.train, self.config.model.context, settings.batch_size, self.config.seed, step
    )
    return devices.split_batch(windows, self.mesh)

  def _finish(self, pending) -> None:
    """Check the metrics of a finished step: stop if they are not finite, and log them when due."""
    if pending is None:
      return
    step, values = pending[0], jax.device_get(pending[1])
    if not values['finite']:
      # The bad step and later ones left the state unchanged, so it is still the state before the bad step.
      name = first_non_finite(self.config, self.model, self.mesh, self.state, self._batch(step - 1), self.teacher)
      raise self._diverged(f'not finite at step {step}: {name}')
    self.clock.tick(step)
    if step % self.config.training.log_every == 0 or step == self.config.training.steps:
      loss = float(values['loss'])
      self.writer.write(
        {
          'step': step,
          'split': 'train',
          **convert_loss(loss),
          'learning_rate': float(values['learning_rate']),
          'grad_norm': float(values['grad_norm']),
          'tokens_per_second': round(self.clock.rate(), 1) or None,
          **{name: np.asarray(values[name], np.float64).round(6).tolist() for name in _PER_LAYER},
          # Count the tiles that no token of this batch reached.
          'dead_tiles': np.sum(values['tile_load'] == 0, axis=-1).tolist(),
        }
      )
      self._progress(step, loss)

  def _progress(self, step, loss):
    steps = self.config.training.steps
    left = self.clock.left(steps - step)
    validation = '-' if math.isnan(self.validation_loss) else f'{self.validation_loss:.4f}'
    rate = f'{self.clock.rate():,.0f}' if self.clock.rate() else '-'
    print(
      f'step {step:>{len(str(steps))}}/{steps}  loss {loss:.4f}  validation {validation}  {rate} tokens/s  {left} left',
      flush=True,
    )

  def _validate(self) -> None:
    with self.clock.paused():
      params, routing_state = self.state.params, self.state.routing
      row = self.evaluate(params, routing_state)
    self.validation_loss = row['loss']
    if not math.isfinite(row['loss']):
      raise self._diverged(f'the validation loss at step {self.step} is not finite')
    self.writer.write(
      {
        'step': self.step,
        'split': 'validation',
        **convert_loss(row['loss']),
        **{name: row[name] for name in (*_PER_LAYER, 'dead_tiles')},
      }
    )
    print(
      f'step {self.step}: validation loss {row["loss"]:.4f}, perplexity {row["perplexity"]:.3f}, '
      f'dead tiles {sum(row["dead_tiles"])}',
      flush=True,
    )
    if math.isnan(self.best_loss) or row['loss'] < self.best_loss:
      self.best_loss = row['loss']
      with self.clock.paused():
        self.checkpoints.save('best', self.state, self.best_loss)

  def _diverged(self, what: str) -> TrainingStopped:
    step = self.checkpoints.latest_step('last')
    saved = 'nothing was saved yet' if step is None else f'the checkpoint of step {step} is intact'
    return TrainingStopped(f'{what}; {saved}; try a smaller --config.optimizer.learning_rate in another --workdir')

  def _save(self) -> None:
    with self.clock.paused():
      self.checkpoints.save('last', self.state, self.best_loss)

  def _profile(self, start: bool = False, stop: bool = False) -> None:
    if start:
      jax.block_until_ready(self.state)
      jax.profiler.start_trace(str(self.workdir / 'profile'))
      self.tracing = True
    elif stop and self.tracing:
      jax.block_until_ready(self.state)
      jax.profiler.stop_trace()
      self.tracing = False
      print(
        f'trace of up to {PROFILE_STEPS} steps written to {self.workdir / "profile"}; open it with xprof or Perfetto',
        flush=True,
      )

  def _conclude(self) -> None:
    """Print the table and the sample from the best checkpoint, or from the last one if the best was removed."""
    kind = 'last' if self.checkpoints.latest_step('best') is None else 'best'
    state, _ = self.checkpoints.restore(kind, jax.device_get(self.state))
    config, vocabulary = self.model.config, self.corpus.vocabulary
    print(f'\n{kind} checkpoint, of step {int(state.step)}, under the routing it was trained with and under others:')
    rows = evaluate_routings(config, vocabulary, self.corpus.validation, state.params, state.routing)
    print(tables.routing_table(rows, config.ffn.routing))
    print(tables.tile_load(rows, config.ffn.routing), flush=True)
    name = 'eval_sparse' if kind == 'best' else f'eval_sparse_{kind}'
    tables.write_rows(self.workdir / f'{name}.json', rows, kind, int(state.step), 'validation')
    if self.config.sample_length:
      prompt = self.corpus.validation[1 : 1 + min(32, config.context)]
      print('\nsample, after the prompt ' + repr(corpora.decode(prompt, vocabulary)) + ':')
      model = inference.as_trained(self.model, vocabulary, state.params, state.routing)
      for (piece,) in model.stream([prompt], self.config.sample_length):
        print(piece, end='', flush=True)
      print()


_PER_LAYER = (
  'tile_load',
  'tiles_used',
  'routing_entropy',
  'routing_margin',
  'routing_ties',
  'signature_zeros',
  'signature_diversity',
)


class _Clock:
  """Measure tokens a second over the latest steps, without the time of compilation, evaluation and saving."""

  def __init__(self, tokens_per_step: int):
    self._tokens = tokens_per_step
    self._marks: list[tuple[int, float]] = []
    self._lost = 0.0

  def tick(self, step: int) -> None:
    """Count a finished step. The first step of a session only starts the clock, because it includes compilation."""
    self._marks = [*self._marks, (step, time.perf_counter() - self._lost)][-50:]

  def rate(self) -> float:
    """Return tokens a second over up to 50 steps, or 0 before the second step."""
    (first, start), (last, end) = self._marks[0], self._marks[-1]
    return (last - first) * self._tokens / (end - start) if last > first else 0.0

  def left(self, steps: int) -> str:
    """Return the time that so many steps take at this rate, h:mm:ss."""
    if not self.rate():
      return '-:--:--'
    seconds = round(steps * self._tokens / self.rate())
    return f'{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}'

  def paused(self):
    """Stop the clock inside a `with` block."""
    return _Paused(self)

  def lose(self, seconds: float) -> None:
    self._lost += seconds


class _Paused:
  def __init__(self, clock: _Clock):
    self._clock = clock

  def __enter__(self):
    self._start = time.perf_counter()

  def __exit__(self, *_):
    self._clock.lose(time.perf_counter() - self._start)


class _Signals:
  """Remember the first SIGTERM or SIGINT without ending the program; a second one ends it as usual."""

  def __init__(self):
    self.received: signal.Signals | None = None

  def __enter__(self):
    self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
    return self

  def __exit__(self, *_):
    self._restore()

  def _restore(self):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number, _):
    self.received = signal.Signals(number)
    self._restore()
    print(
      f'{self.received.name}: finishing the step and saving; once more to stop without saving',
      file=sys.stderr,
      flush=True,
    )
