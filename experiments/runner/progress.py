"""Say how far a call is, and how much time is left."""

import contextlib
import threading
import time
from collections.abc import Sequence

from experiments.runner.planning import Run


def say(line: str) -> None:
  """Print a line at once and in one piece, because several jobs print."""
  print(f'{line}\n', end='', flush=True)


class Progress:
  """Report the number of the run and the time left, if further training is as fast as so far.

  It assumes `jobs` jobs at a time, as long as there are as many runs. Jobs call it from their own threads.
  """

  def __init__(self, runs: Sequence[Run], jobs: int = 1):
    self._jobs, self._lock = jobs, threading.Lock()
    self._runs, self._open = len(runs), {str(run) for run in runs}
    # Count by workdirs, because suites share them.
    self._left = {run.digest: run.windows for wanted in runs for run in (*wanted.needs, wanted) if not run.finished}
    self._windows, self._seconds = 0, 0.0

  @contextlib.contextmanager
  def timed(self, run: Run):
    """Time the training of a run inside a `with` block."""
    start = time.monotonic()
    try:
      yield
    finally:  # A failed run costs no more time either.
      with self._lock:
        self._left.pop(run.digest, None)
    with self._lock:
      self._windows += run.windows
      self._seconds += time.monotonic() - start

  def done(self, run: Run, failure: str = '') -> None:
    """Report a run as done or failed. A run that is done without being expected is not reported."""
    with self._lock:
      self._left.pop(run.digest, None)  # If a run that it needs has failed, this one was not trained.
    if failure or str(run) in self._open:
      say(f'{self}  {run}: ' + (f'FAILED, {failure}' if failure else 'done'))
    self._open.discard(str(run))

  def __str__(self) -> str:
    with self._lock:
      windows = list(self._left.values())
      side_by_side = max(1, min(self._jobs, len(windows)))
      left = _hours(self._seconds / self._windows * sum(windows) / side_by_side) if self._windows else '-:--'
    return f'[{self._runs - max(0, len(self._open) - 1)}/{self._runs}, {left} left]'


def _hours(seconds: float) -> str:
  return f'{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}'
