"""Run a training from its first step, or from its last checkpoint, to its last step."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections

from trix_jax import configuration, inference
from trix_jax.configuration import RunConfig
from trix_jax.data import corpora
from trix_jax.errors import InputError, TrainingStopped
from trix_jax.evaluation import tables
from trix_jax.evaluation.evaluator import Evaluator, evaluate_routings
from trix_jax.nn.transformer import TransformerLM
from trix_jax.runs import metrics, workdirs
from trix_jax.runs.checkpoints import Checkpoints
from trix_jax.runs.state import TrainState
from trix_jax.system import devices
from trix_jax.system.signals import StopSignals
from trix_jax.training import hooks, warm_start
from trix_jax.training.clock import Clock
from trix_jax.training.others import NO_OTHERS, Others
from trix_jax.training.step import first_non_finite, init_state, make_train_step


def train(settings: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Train a config into a workdir, resuming where an earlier call stopped, and print the final table.

  An interrupted run ends bit-identical to an uninterrupted one on the same machine, versions and devices. On SIGTERM
  and SIGINT the run saves a checkpoint before it stops.

  Raises:
    InputError: for unusable settings, texts or workdirs; nothing is overwritten.
    TrainingStopped: on a signal, or when the loss is no longer finite.
  """
  config = configuration.parse(settings)
  if config.file:  # An absolute path lets evaluation find the text from any folder.
    config = dataclasses.replace(config, file=str(pathlib.Path(config.file).resolve()))
  corpus = corpora.load_corpus(config.corpus, config.file, config.tokenizer)
  for split in ('train', 'validation'):
    corpora.check_context(getattr(corpus, split), config.model.context, split)
  model = TransformerLM(config.model, len(corpus.vocabulary))
  with (
    workdirs.open_workdir(workdir, config),
    Checkpoints(workdir, keep=config.training.keep_checkpoints) as checkpoints,
  ):
    workdirs.check_corpus(workdir, corpus)
    others = warm_start.load_others(config, corpus)
    run = Run(config, model, corpus, workdir, checkpoints)
    state, best_loss = resume(run)
    state = run_steps(run, state, best_loss, others)
    conclude(run, state)


class Run(NamedTuple):
  """What every part of a run needs: its settings, its model, the text, and where it is kept."""

  config: RunConfig
  model: TransformerLM
  corpus: corpora.Corpus
  workdir: pathlib.Path
  checkpoints: Checkpoints


def resume(run: Run) -> tuple[TrainState, float]:
  """Return the state of the newest checkpoint and the best validation loss before it, or the first state and NaN.

  Raises:
    InputError: when the checkpoints of a run that saved some are missing or damaged.
  """
  config, model, corpus, workdir, checkpoints = run
  state, best_loss = init_state(config, model), math.nan
  if checkpoints.latest_step('last') is not None:
    state, best_loss = checkpoints.restore('last', state)
    print(f'resuming from step {int(state.step)} of {config.training.steps} in {workdir}', flush=True)
  else:
    _refuse_to_start_over(config, workdir, checkpoints)
    if config.training.start_from:
      state = warm_start.start_from(config, corpus, state)
  return state, best_loss if checkpoints.forget_after(int(state.step)) else math.nan


def _refuse_to_start_over(config, workdir, checkpoints):
  rows = metrics.read_metrics(workdir) if (workdir / 'metrics.jsonl').exists() else []
  reached = max([row['step'] for row in rows] + [checkpoints.latest_step('best') or 0])
  if reached > config.training.checkpoint_every:
    raise InputError(
      f'workdir {workdir} holds a run that reached step {reached}, but no checkpoint to go on from; bring back its '
      'checkpoints/last, or choose another --workdir to start over'
    )


def run_steps(run: Run, state: TrainState, best_loss: float, others: Others = NO_OTHERS) -> TrainState:
  """Train the remaining steps, log, evaluate and save when due, and return the last state.

  Raises:
    TrainingStopped: on a signal, after saving, or when a number is no longer finite.
  """
  config, model, corpus, workdir, checkpoints = run
  training, first_step = config.training, int(state.step)
  mesh = devices.data_mesh(training.batch_size // training.accumulation)
  workdirs.write_run(workdir, config, corpus, state.params, state.routing_state, mesh, first_step)
  counts = workdirs.describe_parameters(config.model, state.params, state.routing_state)['parameters']
  print(
    f'{counts["total"]:,} parameters, {counts["active_per_token"]:,} active per character; {len(corpus.train):,} '
    f'training {corpora.name_unit(corpus.vocabulary)}, {mesh.size} {jax.default_backend()} device(s)',
    flush=True,
  )
  state = devices.replicate(state, mesh)
  train_step = make_train_step(config, model, mesh, others)
  clock = Clock(training.batch_size * config.model.context)

  def batch(step: int) -> jax.Array:
    windows = corpora.draw_batch(corpus.train, config.model.context, training.batch_size, config.seed, step)
    return devices.split_batch(windows, mesh)

  def check_finite(step: int, values: Mapping[str, Any]) -> None:
    if not values['finite']:
      # The bad step and later ones left the state unchanged, so it is still the state before the bad step.
      name = first_non_finite(config, model, mesh, state, batch(step - 1), others)
      raise hooks.explain_divergence(f'not finite at step {step}: {name}', checkpoints)

  folder = workdir / 'profile' if config.profile else None
  with (
    metrics.MetricWriter(workdir, first_step) as writer,
    hooks.Profile(folder, first_step, training.steps) as profile,
    StopSignals() as signals,
  ):
    evaluate = Evaluator(config.model, corpus.vocabulary, corpus.validation)
    validate = hooks.Validate(training, evaluate, writer, checkpoints, clock, best_loss)
    save = hooks.Save(training, checkpoints, clock, validate)
    pending = _Pending(check_finite, hooks.Log(training, writer, clock, validate))
    step = first_step
    while step < training.steps and not signals.received:
      profile.before_step(step, state)
      state, values = train_step(state, batch(step), step)
      step += 1
      pending.replace(step, values)
      if due := [hook for hook in (validate, save) if hook.is_due(step)]:
        pending.finish()
        for hook in due:
          hook(step, state)
    pending.finish()
    profile.end(state)
    if signals.received:
      save(step, state)
      raise TrainingStopped(
        f'stopped by {signals.received.name} at step {step}, saved; run the same command to go on',
        128 + signals.received,
      )
  return state


class _Pending:
  """The metrics of the step that runs. They are fetched after the next one starts, so no device waits for Python."""

  def __init__(self, *take: Callable[[int, Mapping[str, Any]], None]):
    self._take = take
    self._waiting: tuple[int, Any] | None = None

  def replace(self, step: int, values: Any) -> None:
    """Pass on the metrics of the step before, and keep those of this one."""
    self.finish()
    self._waiting = (step, values)

  def finish(self) -> None:
    """Fetch and pass on the metrics that wait."""
    if self._waiting is not None:
      (step, values), self._waiting = self._waiting, None
      values = jax.device_get(values)
      for take in self._take:
        take(step, values)


def conclude(run: Run, state: TrainState) -> None:
  """Print the table and the sample from the best checkpoint, or from the last one if the best was removed."""
  config, model, corpus, workdir, checkpoints = run
  kind = 'last' if checkpoints.latest_step('best') is None else 'best'
  state, _ = checkpoints.restore(kind, jax.device_get(state))
  vocabulary, routing = corpus.vocabulary, config.model.ffn.routing
  print(f'\n{kind} checkpoint, of step {int(state.step)}, under the routing it was trained with and under others:')
  rows = evaluate_routings(config.model, vocabulary, corpus.validation, state.params, state.routing_state)
  print(tables.format_routings(rows, routing))
  print(tables.format_tile_load(rows, routing), flush=True)
  name = 'eval_sparse' if kind == 'best' else f'eval_sparse_{kind}'
  tables.write_rows(workdir / f'{name}.json', rows, kind, int(state.step), 'validation')
  if config.sample_length:
    prompt = corpus.validation[1 : 1 + min(32, config.model.context)]
    print('\nsample, after the prompt ' + repr(corpora.decode(prompt, vocabulary)) + ':')
    writing = inference.as_trained(model, vocabulary, state.params, state.routing_state)
    for (piece,) in writing.stream([prompt], config.sample_length):
      print(piece, end='', flush=True)
    print()
