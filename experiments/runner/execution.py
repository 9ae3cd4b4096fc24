"""Run the programs of one run: its training, and those that it needs, with output in its log."""

import pathlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from experiments import suites
from experiments.runner.jobs import Jobs
from experiments.runner.planning import Carve, Run
from experiments.runner.progress import Progress, say
from trix_jax.errors import InputError, WorkdirInUse
from trix_jax.system import files

ROOT = pathlib.Path(__file__).parents[2]
# Seconds between two lines of progress.
EVERY = 30


class RunFailed(Exception):
  """A training or its measurement ended with an error; the message is the last line of its log."""


def sort_runs(runs: list[Run], jobs: int) -> list[Run]:
  """Return runs in their order of start. With several jobs, runs that others need come first, and their users last.

  In another order a job would wait for a run that another job trains.
  """
  needed = {of.digest for run in runs for of in run.needs}
  return runs if jobs == 1 else sorted(runs, key=lambda run: (run.digest not in needed, bool(run.needs)))


def train(run: Run, progress: Progress, jobs: Jobs) -> None:
  """Train a run to its end, after the runs that it starts from or learns from."""
  for needed in run.needs:
    try:
      train(needed, progress, jobs)
    except RunFailed as error:
      raise RunFailed(f'{needed} failed, which it needs: {error}') from error
  if not run.finished:
    run.workdir.parent.mkdir(parents=True, exist_ok=True)
    for carve in run.carves:
      _carve(carve, run, progress, jobs)
    with progress.timed(run):
      call(
        [
          sys.executable,
          'train.py',
          f'--config={suites.CONFIG}',
          f'--workdir={run.workdir}',
          *(f'--config.{name}={value}' for name, value in run.settings.items()),
        ],
        run,
        progress,
        jobs,
        lambda: run.finished,
      )


def _carve(carve: Carve, run: Run, progress: Progress, jobs: Jobs) -> None:
  """Carve a finished dense run, unless that was done. Wait where another job or runner is doing it."""
  sizes = f'--tiles={carve.tiles}', f'--top_k={carve.top_k}'
  command = [sys.executable, '-m', 'trix_jax.carve', f'--workdir={carve.dense}', *sizes, f'--out={carve.out}']
  while not carve.out.exists():
    try:
      with files.hold_lock(carve.out.with_name(f'.{carve.out.name}.lock'), _BeingCarved('')):
        call(command, run, progress, jobs, carve.out.exists)
    except _BeingCarved:
      say(f'{progress}  {run}: what it starts from is being carved by another job, waiting for it')
      jobs.sleep(EVERY)


class _BeingCarved(InputError):
  """Another job or program holds the lock of a carve."""


def call(
  command: list[str], run: Run, progress: Progress, jobs: Jobs, done: Callable[[], bool] = lambda: False
) -> None:
  """Run a program with its output in the run's log and report its progress, unless `done()`.

  It waits when another program trains the run, such as one that a killed runner left behind.
  """
  log = run.beside('.log')
  while not done():
    code = jobs.call(command, ROOT, log, EVERY, lambda: say(f'{progress}  {run}: {last_line(log)}'))
    if not code:
      return
    if code != WorkdirInUse.exit_code:
      if code < 0:  # Its output does not tell why.
        raise RunFailed(
          f'killed by signal {-code}, which the system sends where memory runs out (output: {log})'
          if code == -signal.SIGKILL
          else f'killed by signal {-code} (output: {log})'
        )
      raise RunFailed(f'exit code {code}: {last_line(log)} (all of it: {log})')
    say(f'{progress}  {run}: being trained by another program, waiting for it')
    jobs.sleep(EVERY)


def last_line(log: pathlib.Path) -> str:
  """Return the last line of a log that is not empty."""
  lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
  return lines[-1].strip() if lines else 'starting'


def describe_sessions(sessions: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Return commit, machine and versions of a run. If they changed between sessions, return all in their order."""

  def all_of(name):
    together: dict[str, list[Any]] = {}
    for session in sessions:
      for key, value in session[name].items():
        if value not in together.setdefault(key, []):
          together[key].append(value)
    return {
      key: values[0] if len(values) == 1 else ', then '.join(map(str, values)) for key, values in together.items()
    }

  return {
    'commit': ', '.join(dict.fromkeys(str(session['commit']) for session in sessions)),
    'machine': all_of('machine'),
    'versions': all_of('versions'),
  }
