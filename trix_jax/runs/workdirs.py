"""The files of a run: config, provenance, and the lock of the program that writes them."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax

from trix_jax import configuration
from trix_jax.configuration import TILES, RunConfig
from trix_jax.data import corpora
from trix_jax.errors import InputError, WorkdirInUse
from trix_jax.nn import indexed_ffn, transformer
from trix_jax.nn.model_config import ModelConfig
from trix_jax.system import files, host

CHECKOUT = pathlib.Path(__file__).parents[2]
# The field of `run.json` with the origins of tiles of other runs; see `runs.origins`.
ORIGINS = 'tiles_of_other_runs'
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


@contextlib.contextmanager
def open_workdir(workdir: pathlib.Path, config: RunConfig):
  """Create or check a workdir, and lock it against other training runs meanwhile.

  A workdir without any finished work, for example after a failed start, accepts another config.

  Raises:
    InputError: when the workdir cannot be written or belongs to another config. Then nothing changes.
    WorkdirInUse: when another training is writing to it.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    files.write_text(workdir / 'writable', '')
    (workdir / 'writable').unlink()
  except OSError as error:
    raise InputError(f'cannot write to workdir {workdir}: {error.strerror}; choose another --workdir') from error
  with files.hold_lock(
    workdir / 'lock',
    WorkdirInUse(f'another training is running in workdir {workdir}; wait for it or choose another --workdir'),
  ):
    path, begun = workdir / 'config.json', _begun(workdir)
    if path.exists() and begun:
      changed = configuration.differences(config, read_config(workdir))
      changed = [line for line in changed if not line.startswith('profile:')]
      if changed:
        raise InputError(
          f'workdir {workdir} holds a run with other settings ({"; ".join(changed[:5])}'
          f'{"; ..." if len(changed) > 5 else ""}); resume it with its own, or choose another --workdir'
        )
    else:
      (workdir / 'run.json').unlink(missing_ok=True)
      files.write_text(path, configuration.to_json(config) + '\n')
    yield


def _begun(workdir: pathlib.Path) -> bool:
  """Return whether there is a checkpoint or a line of metrics."""
  lines = workdir / 'metrics.jsonl'
  return any((workdir / 'checkpoints').glob('*/*')) or (lines.exists() and lines.stat().st_size > 0)


def read_config(workdir: pathlib.Path) -> RunConfig:
  """Read the config of a run. Raise InputError when there is none."""
  path = workdir / 'config.json'
  return configuration.from_json(_read(path), str(path))


def read_run(workdir: pathlib.Path) -> dict[str, Any]:
  """Read `run.json`. Raise InputError when there is none."""
  path = workdir / 'run.json'
  text = _read(path)
  try:
    run = json.loads(text)
    missing = {'vocabulary', 'sha256', 'name'} - set(run['corpus']) or {'sessions'} - set(run)
    if missing:
      raise KeyError(', '.join(missing))
    if not isinstance(run['sessions'], list):
      raise TypeError('sessions must be a list')
    vocabulary = run['corpus']['vocabulary']
    if not isinstance(vocabulary, str) or not 0 < len(vocabulary) == len(set(vocabulary)):
      raise TypeError('vocabulary must be distinct characters, at least one')
    for origin in run.get(ORIGINS, []):
      if not isinstance(origin['text'], str) or not isinstance(origin['corpus']['sha256'], str):
        raise TypeError(f'{ORIGINS} must name texts and their sha256')
      numbers = [origin['step'], *(tile for of_layer in origin['tiles'] for tile in of_layer)]
      if not all(isinstance(number, int) for number in numbers):
        raise TypeError(f'{ORIGINS} must hold numbers of steps and tiles')
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(f'{path} is damaged ({error!r}); give the folder of a run') from error
  return run


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text()
  except (OSError, UnicodeDecodeError) as error:
    reason = error.strerror if isinstance(error, OSError) else error
    raise InputError(f'cannot read {path}: {reason}; give the folder of a run') from error


def check_corpus(workdir: pathlib.Path, corpus: corpora.Corpus) -> None:
  """Raise InputError when the run in a workdir was trained on another text."""
  if (workdir / 'run.json').exists():
    known = read_run(workdir)['corpus']
    if known['sha256'] != corpus.sha256:
      raise InputError(
        f'workdir {workdir} was trained on another text (corpus {known["name"]}, sha256 '
        f'{known["sha256"][:12]}..., now {corpus.sha256[:12]}...); choose another --workdir'
      )


def write_run(
  workdir: pathlib.Path,
  config: RunConfig,
  corpus: corpora.Corpus,
  params: Any,
  routing_state: Any,
  mesh: jax.sharding.Mesh,
  step: int,
  origins: Sequence[dict[str, Any]] | None = None,
) -> None:
  """Write `run.json`, or add a session to it when a run goes on.

  Args:
    workdir, config, corpus, params, routing_state, mesh, step: of the run.
    origins: of tiles of other runs, see `runs.origins`; by default those of the run that training starts from.
  """
  path = workdir / 'run.json'
  session = {
    'started_at_step': step,
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'command': shlex.join(sys.argv),
    'commit': read_commit(),
    'versions': read_versions(),
    'machine': {
      'system': platform.platform(),
      'processor': host.processor(),
      'cores': os.cpu_count(),
      'backend': jax.default_backend(),
      'devices': mesh.size,
      **({} if jax.default_backend() == 'cpu' else {'device': mesh.devices.flat[0].device_kind}),
    },
  }
  described = {
    'name': corpus.name,
    'sha256': corpus.sha256,
    'vocabulary': corpus.vocabulary,
    'train_characters': len(corpus.train),
    'validation_characters': len(corpus.validation) - 1,
  }
  if path.exists():
    run = read_run(workdir)
  else:
    run = {**describe_parameters(config.model, params, routing_state), 'corpus': described, 'sessions': []}
    if origins := _carried_origins(config) if origins is None else origins:
      run[ORIGINS] = list(origins)
  # The top level repeats the latest session, for readers who want one answer.
  run.update({name: session[name] for name in ('command', 'commit', 'versions', 'machine')})
  run['sessions'].append(session)
  files.write_text(path, json.dumps(run, indent=2) + '\n')


def _carried_origins(config: RunConfig) -> list[dict[str, Any]]:
  """Return the origins of the tiles that training starts from; new tiles have none."""
  training = config.training
  if not training.start_from or training.train_only == TILES:
    return []
  origins: list[dict[str, Any]] = read_run(pathlib.Path(training.start_from)).get(ORIGINS, [])
  return origins


def read_versions() -> dict[str, str]:
  """Return the versions of Python and of the packages that a result depends on."""
  return {'python': platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def describe_parameters(config: ModelConfig, params: Any, routing_state: Any) -> dict[str, Any]:
  """Count `parameters` (total, routing: those of gates, active_per_token) and `routing_state` (untrained numbers).

  A token uses `top_k` tiles of each layer, or all of them under dense routing, and everything outside the tiles.
  """
  ffn = config.ffn
  layers = [layer['ffn'] for name, layer in params.items() if name.startswith('layer_')]
  in_tiles = sum(layer[name].size for layer in layers for name in indexed_ffn.name_tile_parameters(layer, ffn))
  idle = 0 if ffn.way.takes_all else in_tiles * (ffn.tiles - ffn.top_k) // ffn.tiles
  total = transformer.count_parameters(params)
  return {
    'parameters': {
      'total': total,
      'routing': transformer.count_parameters([layer.get('gate', {}) for layer in layers]),
      'active_per_token': total - idle,
    },
    'routing_state': transformer.count_parameters(routing_state),
  }


def read_commit() -> str | None:
  """Return the commit of this package's checkout, with `-dirty` if files differ from it; None outside a checkout."""
  if not (CHECKOUT / '.git').exists():  # An installed package may be inside another project's checkout.
    return None
  try:
    return subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*'],
      cwd=CHECKOUT,
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None
