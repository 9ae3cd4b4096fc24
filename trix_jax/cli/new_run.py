"""Write an edited model as the folder of a run, which every other program takes."""

import contextlib
import glob
import pathlib
import secrets
import shutil
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from trix_jax.configuration import RunConfig
from trix_jax.core.finite import first_not_finite
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.evaluation import tables
from trix_jax.runs import checkpoints, workdirs
from trix_jax.runs.state import TrainState
from trix_jax.system import devices, files
from trix_jax.training import optimizers

_PARTIAL = '.{}.{}.partial'  # Beside the new run: its name, and a mark of the program that writes it.


def load_source(workdir: pathlib.Path, kind: str) -> checkpoints.Trained:
  """Load the checkpoint of a run that is to be edited. Raise InputError where any weight is not finite."""
  trained = checkpoints.load_trained(workdir, kind)
  for tree in (trained.params, trained.routing_state):
    if name := first_not_finite(tree, separator='.'):
      raise InputError(f'{name} of the {kind} checkpoint in {workdir} has values that are not finite; choose another')
  return trained


def check_free(out: pathlib.Path, *sources: pathlib.Path) -> None:
  """Raise InputError unless a folder for a new run is missing or empty, can be written, and is outside of `sources`."""
  if (out / 'checkpoints' / 'last').exists():
    raise InputError(f'{out} holds a run already; choose another --out')
  for source in sources:
    if files.is_inside(out, source):
      raise InputError(f'{out} is inside of the run {source}, which stays as it is; choose another --out')
  try:
    if out.exists() and any(out.iterdir()):
      raise InputError(f'{out} is not empty; choose another --out')
    partial = _partial(out)
    missing = [folder for folder in (partial, *partial.parents) if not folder.exists()]
    partial.mkdir(parents=True)
    for folder in missing:
      with contextlib.suppress(OSError):  # Another program may have written there since.
        folder.rmdir()
  except OSError as error:
    raise InputError(f'cannot write {out}: {error.strerror}; choose another --out') from error


def write(
  out: pathlib.Path,
  config: RunConfig,
  corpus: corpora.Corpus,
  params: Any,
  routing_state: Any,
  step: int,
  figures: dict[str, Any],
  origins: Sequence[dict[str, Any]] = (),
) -> None:
  """Write a run whole or not at all. The state of its optimizer starts anew.

  Args:
    out: its folder, see `check_free`.
    config, corpus: of the run.
    params, routing_state: of the model.
    step: steps of training that the model had.
    figures: of the model by `Evaluator`.
    origins: of tiles of other runs; see `runs.origins`.
  """
  _remove_abandoned(out)
  partial = _partial(out)
  try:
    partial.mkdir(parents=True)
    with workdirs.open_workdir(partial, config), checkpoints.Checkpoints(partial) as saved:
      optimizer = optimizers.make_optimizer(config.optimizer, config.training)
      state = TrainState(jnp.int32(step), params, optimizer.init(params), routing_state)
      workdirs.write_run(partial, config, corpus, params, routing_state, devices.data_mesh(1), step, origins)
      for kind in checkpoints.KINDS:
        saved.save(kind, state, figures['loss'])
      row = {'routing': config.model.ffn.routing, 'backend': 'xla', **figures}
      tables.write_rows(partial / 'eval_sparse.json', [row], 'best', step, 'validation')
    try:
      partial.rename(files.follow_links(out))
    except OSError as error:  # Since `check_free` another program wrote a run there.
      raise InputError(f'cannot write {out}: {error.strerror}; choose another --out') from error
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def _partial(out: pathlib.Path) -> pathlib.Path:
  """Return a new name each time: a killed process leaves its folder behind, and in a container the next has its id."""
  out = files.follow_links(out)
  return out.with_name(_PARTIAL.format(out.name, secrets.token_hex(4)))


def _remove_abandoned(out: pathlib.Path) -> None:
  """Remove folders of killed programs that wrote the same run. Running programs hold their locks."""
  out = files.follow_links(out)
  for folder in out.parent.glob(_PARTIAL.format(glob.escape(out.name), '?' * 8)):
    if (folder / 'lock').exists():  # Otherwise its program may be about to lock it.
      with contextlib.suppress(InputError), files.hold_lock(folder / 'lock', InputError(f'{folder} is being written')):
        shutil.rmtree(folder, ignore_errors=True)
