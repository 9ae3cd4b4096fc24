"""Run the programs, in this process or in one of their own, and look at what they leave."""

import contextlib
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from trix_jax.cli import launcher
from trix_jax.runs import checkpoints
from trix_jax.training.step import init_state

ROOT = pathlib.Path(__file__).parent.parent
# A model that trains in a second or two; saving takes long enough to be interrupted.
TINY = (
  '--config=smoke',
  '--config.corpus=file',
  '--config.model.layers=1',
  '--config.model.d_model=16',
  '--config.model.d_ff=32',
  '--config.model.context=32',
  '--config.sample_length=8',
  '--config.training.checkpoint_every=1',
)


def run(name, *arguments):
  """Run `trix NAME` in this process, which has compiled most of it already."""
  module = launcher.PROGRAMS[name][0]
  if module in sys.modules:  # With flags that nobody has parsed.
    importlib.reload(sys.modules[module])
  arguments = [str(argument) for argument in arguments]
  code, out, err = 0, io.StringIO(), io.StringIO()
  with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    patch.setattr(sys, 'argv', ['trix', name, *arguments])
    patch.chdir(ROOT)
    try:
      launcher.run(module, [f'trix {name}', *arguments])
    except SystemExit as left:
      code = left.code or 0
  return subprocess.CompletedProcess(['trix', name, *arguments], code, out.getvalue(), err.getvalue())


def train(text, workdir, *arguments):
  return run('train', *TINY, f'--config.file={text}', f'--workdir={workdir}', *arguments)


def command(program, *arguments):
  return [sys.executable, program, *map(str, arguments)]


def environment():
  return {
    **os.environ,
    'PYTHONUNBUFFERED': '1',
    'JAX_ENABLE_X64': '1',  # As some machines prefer; programs compute the same there.
    'JAX_NUM_CPU_DEVICES': '2',
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }


def run_process(program, *arguments, prefix=(), **variables):
  """Run a script of the repository in a process of its own."""
  return subprocess.run(
    [*prefix, *command(program, *arguments)],
    cwd=ROOT,
    env={**environment(), **variables},
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )


def bad(result, *parts, code=2):
  """Check that a program ended with one line, which says all of `parts`."""
  assert result.returncode == code, result.stdout + result.stderr
  assert result.stderr.count('\n') == 1 and result.stderr.startswith('error: '), result.stderr
  for part in parts:
    assert part in result.stderr


def state_of(workdir):
  config = json.loads((workdir / 'config.json').read_text())
  loaded = checkpoints.load_trained(workdir, 'last')
  assert config['training']['steps'] == loaded.step
  like = jax.eval_shape(lambda: init_state(loaded.config, loaded.model))
  return checkpoints.Checkpoints(workdir).restore('last', like)[0]


def rows_of(workdir):
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [{name: value for name, value in row.items() if name != 'tokens_per_second'} for row in rows]


def assert_same_run(workdir, other):
  jax.tree.map(np.testing.assert_array_equal, state_of(workdir), state_of(other))
  assert rows_of(workdir) == rows_of(other)


def wait_for(condition, process):
  for _ in range(30_000):
    if condition():
      return
    if process.poll() is not None:
      raise AssertionError(f'ended early: {process.communicate()}')
    time.sleep(0.02)
  raise AssertionError('waited too long')


def interrupted(text, workdir, number, when, *arguments):
  """Start a training and send it a signal once `when()`; returns the finished process and what it said."""
  process = subprocess.Popen(
    command('train.py', *TINY, f'--config.file={text}', f'--workdir={workdir}', *arguments),
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  wait_for(when, process)
  process.send_signal(number)
  output = process.communicate(timeout=600)
  return process.returncode, ''.join(output)
