"""Run jobs side by side: each thread has a share of the cores, and the threads' programs stop together."""

import concurrent.futures
import os
import pathlib
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import Any


class Stopped(Exception):
  """All programs were stopped, so this one was stopped or never started."""


class Jobs:
  """Run `count` jobs at a time, in threads that start programs.

  If there is a core for each of several jobs, every job and its programs keep to their own cores. That is faster: a
  training on one core takes less than twice its time on two. On a GPU programs take memory as they need it, instead of
  three quarters of it each. The programs share a cache of compiled XLA code until the end.
  """

  def __init__(self, count: int):
    self.count = count
    self._shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    for share in shares(count):
      self._shares.put(share)
    self._pool = concurrent.futures.ThreadPoolExecutor(count, 'job', self._take_share)
    self._programs: set[subprocess.Popen] = set()
    self._compiled = tempfile.TemporaryDirectory(prefix='trix-compiled-')
    self._lock, self._stopping = threading.Lock(), threading.Event()

  def __enter__(self) -> 'Jobs':
    return self

  def __exit__(self, *_: object) -> None:
    self.stop()

  def _take_share(self) -> None:
    """Bind a starting thread to its cores; its programs inherit them."""
    if not self._shares.empty():
      os.sched_setaffinity(0, self._shares.get())

  def submit(self, function: Callable[..., Any], *args: Any) -> concurrent.futures.Future:
    return self._pool.submit(function, *args)

  def call(
    self, command: list[str], cwd: pathlib.Path, log: pathlib.Path, every: float, tell: Callable[[], None]
  ) -> int:
    """Run a program, append its output to a log, and return its exit code. Call `tell` every `every` seconds.

    Raises:
      Stopped: when `stop` was called, before or meanwhile.
    """
    environment = {
      'JAX_COMPILATION_CACHE_DIR': self._compiled.name,
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.3',
      **({} if self.count == 1 else {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}),
      **os.environ,
    }
    with log.open('a') as file:
      with self._lock:
        if self._stopping.is_set():
          raise Stopped
        # The program has its own session, so that Ctrl-C reaches it only once, through this program.
        process = subprocess.Popen(
          command, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        self._programs.add(process)
      try:
        while True:
          try:
            code = process.wait(timeout=every)
            break
          except subprocess.TimeoutExpired:
            tell()
      finally:
        if process.poll() is None:  # An exception, such as one from `tell`, left it running.
          process.terminate()
          process.wait()
        with self._lock:
          self._programs.remove(process)
      if self._stopping.is_set():
        raise Stopped
      return code

  def sleep(self, seconds: float) -> None:
    """Wait. Raise Stopped when `stop` is called meanwhile."""
    if self._stopping.wait(seconds):
      raise Stopped

  def stop(self) -> None:
    """Start nothing more, tell running programs to save and end, and wait for them."""
    with self._lock:
      self._stopping.set()
      for program in self._programs:
        program.terminate()
    self._pool.shutdown(wait=True, cancel_futures=True)
    self._compiled.cleanup()


def shares(count: int) -> list[set[int]]:
  """Divide the available cores among the jobs. Return [] for one job, too few cores, or an unknown number of cores."""
  if count == 1 or not hasattr(os, 'sched_getaffinity'):
    return []
  cores = sorted(os.sched_getaffinity(0))
  return [set(cores[job::count]) for job in range(count)] if len(cores) >= count else []
