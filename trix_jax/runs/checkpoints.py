"""Orbax checkpoints of a run: `last` to resume from and `best` by validation loss; a run keeps the newest of each."""

import dataclasses
import errno
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from trix_jax.configuration import RunConfig
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.nn import transformer
from trix_jax.runs import workdirs
from trix_jax.runs.state import TrainState

KINDS = ('best', 'last')


class Checkpoints:
  """The checkpoints under `workdir/checkpoints`. Each is written whole or not at all."""

  def __init__(self, workdir: pathlib.Path, read_only: bool = False, keep: int = 2):
    """Open the folder of the checkpoints.

    Args:
      workdir: of the run.
      read_only: create and delete nothing; only the training that owns the workdir may write.
      keep: how many of the newest `last` checkpoints to keep; the newest two `best` ones always stay.
    """
    self._read_only, self._keep = read_only, {'last': keep, 'best': 2}
    self._folders = {kind: (workdir / 'checkpoints' / kind).absolute() for kind in KINDS}
    self._managers: dict[str, ocp.CheckpointManager] = {}

  def save(self, kind: str, state: TrainState, validation_loss: float) -> None:
    """Write the state; `validation_loss` is the best so far, or NaN before the first evaluation.

    Raises:
      OSError: when the disk refuses the checkpoint; earlier checkpoints stay.
    """
    step = int(state.step)
    manager = self._manager(kind)
    if step in manager.all_steps():
      return
    try:
      manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(jax.device_get(_tree(state))),
          progress=ocp.args.JsonSave({'best_loss': None if math.isnan(validation_loss) else validation_loss}),
        ),
      )
      manager.wait_until_finished()
    except Exception as error:  # Orbax and TensorStore raise several types for a full or vanished disk.
      raise OSError(errno.EIO, _reason(error), str(self._folders[kind] / str(step))) from error

  def latest_step(self, kind: str) -> int | None:
    """Return the step of the newest checkpoint, or None."""
    return self._manager(kind).latest_step() if self._folders[kind].is_dir() else None

  def steps(self, kind: str) -> list[int]:
    """List the steps that have checkpoints, ascending."""
    return sorted(self._manager(kind).all_steps()) if self._folders[kind].is_dir() else []

  def restore(self, kind: str, like: TrainState, step: int | None = None) -> tuple[TrainState, float]:
    """Return a checkpoint, by default the newest, and the best validation loss up to it.

    Args:
      kind: one of `KINDS`.
      like: gives structure, shapes and dtypes. Without `opt_state` the state of the optimiser is not read.
      step: one of `steps`.

    Raises:
      InputError: when the checkpoint is missing or damaged, or of another model.
    """
    step = self.latest_step(kind) if step is None else step
    if step is None:
      raise InputError(self._nothing_in(kind))
    folder, manager = self._folders[kind] / str(step), self._manager(kind)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), _tree(like))
    try:
      if other := _different(ocp.PyTreeCheckpointHandler().metadata(folder / 'state'), abstract):
        raise ValueError(other)
      wanted = (
        ocp.args.PyTreeRestore(abstract, ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=True)
        if like.opt_state is None
        else ocp.args.StandardRestore(abstract)
      )
      restored = manager.restore(step, args=ocp.args.Composite(state=wanted, progress=ocp.args.JsonRestore()))
      best_loss = restored['progress']['best_loss']
    # For damaged files Orbax, TensorStore and JSON raise about a dozen different types.
    except Exception as error:
      raise InputError(
        f'checkpoint {folder} cannot be read as the model of config.json and run.json; restore those if '
        'they were changed, or else move this folder away to use the checkpoint before it, if any '
        f'({_reason(error)})'
      ) from error
    tree = restored['state']
    state = TrainState(tree['step'], tree['params'], tree.get('opt_state'), tree.get('routing', {}))
    return state, math.nan if best_loss is None else best_loss

  def _nothing_in(self, kind: str) -> str:
    other = next(other for other in KINDS if other != kind)
    advice = (
      f'there is one in {self._folders[other]}: --checkpoint={other}'
      if self.latest_step(other) is not None
      else 'train first, or point --workdir at the folder of a run'
    )
    return f'there is no checkpoint in {self._folders[kind]}; {advice}'

  def forget_after(self, step: int) -> bool:
    """Delete `best` checkpoints after a step, because a resumed run repeats those steps. Return whether any is left."""
    manager = self._manager('best')
    for saved in manager.all_steps():
      if saved > step:
        manager.delete(saved)
    left = bool(manager.all_steps())
    self.close()
    return left

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self) -> None:
    """Wait until all checkpoints are written."""
    for manager in self._managers.values():
      manager.close()
    self._managers.clear()

  def _manager(self, kind: str) -> ocp.CheckpointManager:
    if kind not in self._managers:
      options = (
        ocp.CheckpointManagerOptions(read_only=True, create=False)
        if self._read_only
        else ocp.CheckpointManagerOptions(
          max_to_keep=self._keep[kind], enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
      )
      self._managers[kind] = ocp.CheckpointManager(self._folders[kind], options=options)
    return self._managers[kind]


def _reason(error: Exception) -> str:
  """Return an exception's message as one line."""
  return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _tree(state: TrainState) -> dict[str, Any]:
  """Return the state as a dict without empty parts, which Orbax refuses, such as the routing of many models."""
  tree = {'step': state.step, 'params': state.params, 'opt_state': state.opt_state, 'routing': state.routing_state}
  return {name: part for name, part in tree.items() if jax.tree.leaves(part)}


def _different(saved: Any, expected: Any) -> str:
  """Name the first array of the model whose shape is not what a checkpoint holds, or return an empty text."""
  shapes, wanted = (
    {
      jax.tree_util.keystr(path, simple=True, separator='.'): tuple(leaf.shape)
      for part in ('params', 'routing')
      for path, leaf in jax.tree_util.tree_leaves_with_path({part: tree[part]} if part in tree else {})
    }
    for tree in (saved, expected)
  )
  for name in sorted(shapes.keys() | wanted.keys()):
    if shapes.get(name) != wanted.get(name):
      return f'{name} has the shape {shapes.get(name)} there, and {wanted.get(name)} in this model'
  return ''


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model loaded from a workdir, with parameters and routing state on one device.

  Attributes:
    config: of the run.
    model, vocabulary: the model that uses `params` and `routing_state`, and its vocabulary.
    run: the content of `run.json`.
    checkpoint, step: kind and step of the checkpoint.
    validation_loss: best validation loss of the run up to that step, in nats; NaN before the first evaluation.
  """

  config: RunConfig
  model: transformer.TransformerLM
  vocabulary: str
  run: dict[str, Any]
  checkpoint: str
  step: int
  validation_loss: float
  params: Any
  routing_state: Any

  @property
  def provenance(self) -> dict[str, Any]:
    """Return the origin of the parameters, for readers who do not have the workdir."""
    corpus = {name: self.run['corpus'][name] for name in ('name', 'sha256')}
    session = {name: self.run.get(name) for name in ('parameters', 'command', 'commit', 'versions', 'machine')}
    loss = None if math.isnan(self.validation_loss) else self.validation_loss
    return {
      'corpus': corpus,
      'checkpoint': self.checkpoint,
      'step': self.step,
      'best_validation_loss': loss,
      **session,
      **({workdirs.ORIGINS: self.run[workdirs.ORIGINS]} if workdirs.ORIGINS in self.run else {}),
    }

  def corpus(self) -> corpora.Corpus:
    """Load the corpus of the training run. Raise InputError when its text has changed since."""
    corpus = corpora.load_corpus(self.config.corpus, self.config.file, self.config.tokenizer)
    if corpus.sha256 != self.run['corpus']['sha256']:
      raise InputError(
        f'corpus {self.config.file or self.config.corpus} is not the text the model was trained on '
        '(its sha256 differs); bring back the text, or evaluate on another with --file'
      )
    return corpus


def load_trained(workdir: pathlib.Path | str, kind: str, step: int | None = None) -> Trained:
  """Load a `best` or `last` checkpoint, by default the newest. Raise InputError when a file is missing or damaged."""
  if kind not in KINDS:
    raise InputError(f'checkpoint kind is {kind!r}; choose one of {", ".join(KINDS)}')
  workdir = pathlib.Path(workdir)
  config, run = workdirs.read_config(workdir), workdirs.read_run(workdir)
  vocabulary = run['corpus']['vocabulary']
  model = transformer.TransformerLM(config.model, len(vocabulary))

  def without_optimizer() -> TrainState:
    params, routing_state = transformer.init(model, jax.random.key(0))
    return TrainState(jnp.zeros((), jnp.int32), params, None, routing_state)

  like = jax.eval_shape(without_optimizer)
  with Checkpoints(workdir, read_only=True) as saved:
    state, best_loss = saved.restore(kind, like, step)
  return Trained(config, model, vocabulary, run, kind, int(state.step), best_loss, state.params, state.routing_state)
