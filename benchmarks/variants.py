"""Shared code of benchmarks with many variants: each variant runs in its own process, and the variants take turns."""

import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trix_jax.errors import InputError
from trix_jax.system import files, host


def installed(names: Iterable[str]) -> list[str]:
  """List the variants that can run here; those named torch... need PyTorch."""
  try:
    import torch  # noqa: F401
  except ImportError:
    print("PyTorch is not installed (pip install -e '.[torch]'): measuring ours alone", file=sys.stderr)
    return [name for name in names if 'torch' not in name]
  return list(names)


def take_turns(
  names: Iterable[str],
  rounds: int,
  flags: Iterable[str],
  show: Callable[[Any], str],
  environment: Callable[[str], Mapping[str, str]] = lambda name: {},
) -> dict[str, list[Any]]:
  """Run this program once a round for each variant, as `--variant=NAME` with `flags`.

  Args:
    names: the variants.
    rounds: how often to measure each variant.
    flags: further flags for every process.
    show: turns a measurement into text for the line of progress.
    environment: variables for the process of a variant; `host.ALLOCATOR`, which makes glibc keep its memory, is the
      default.

  Returns:
    For every variant the values that its processes printed as JSON in their last line.
  """
  names = list(names)
  results: dict[str, list[Any]] = {name: [] for name in names}
  start, total = time.perf_counter(), rounds * len(names)
  for done, (round_, name) in enumerate(((r, n) for r in range(rounds) for n in names), start=1):
    process = subprocess.run(
      [sys.executable, sys.argv[0], f'--variant={name}', *flags],
      stdout=subprocess.PIPE,
      env={**os.environ, 'GLIBC_TUNABLES': host.ALLOCATOR, **environment(name)},
      text=True,
      check=True,
    )
    results[name].append(json.loads(process.stdout.splitlines()[-1]))
    left = (time.perf_counter() - start) / done * (total - done)
    print(f'round {round_ + 1}/{rounds}  {name:<36}{show(results[name][-1])}  ({left / 60:.0f} min left)', flush=True)
  return results


def take_turns_here(runs: Mapping[Any, Callable[[], Any]], rounds: int, repeats: int = 1) -> dict[Any, list[float]]:
  """Call each variant once a round in this process; return its seconds in every round, the best of `repeats` calls."""
  seconds: dict[Any, list[float]] = {name: [] for name in runs}
  for round_ in range(rounds):
    for name, run in runs.items():
      best = math.inf
      for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
      seconds[name].append(best)
    print(f'round {round_ + 1}/{rounds}', file=sys.stderr, flush=True)
  return seconds


def check_writable(path: str) -> None:
  """Check that the file can be written, to fail before the measurements."""
  try:
    if path:
      files.check_writable(pathlib.Path(path))
  except InputError as error:
    sys.exit(f'error: {error}')


def clusters_of(tiles: int) -> int:
  """Return the number of clusters: the square root of the tiles, rounded down to a power of two."""
  return 1 << math.isqrt(tiles).bit_length() - 1


def write(path: str, rows: list[dict]) -> None:
  """Write the rows and their machine to a file."""
  if path:
    machine = {'cores': os.cpu_count(), 'processor': host.processor()}
    with open(path, 'w') as file:
      json.dump([{**row, **machine} for row in rows], file, indent=1)
