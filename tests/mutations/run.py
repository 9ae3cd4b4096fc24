"""Break the code on purpose, one mutation at a time, and see which test notices.

  python tests/mutations/run.py --out=mutations.jsonl             # All of them: hours.
  python tests/mutations/run.py --out=mutations.jsonl --room=core
  python tests/mutations/run.py --out=mutations.jsonl --only=ties_go_to_the_last_tile --again
  python tests/mutations/run.py --out=mutations.jsonl --quick     # Stage 1 alone, while the table is written.
  python tests/mutations/run.py --out=mutations.jsonl --table     # The results so far, in Markdown.

`mutations.py` is the table. The runner copies the tracked files to a temporary folder and breaks the copy. The checkout
stays as it is. Four stages follow one another until a test fails:

  1  the fast tests of the files that the table names
  2  the slow tests of those files
  3  all fast tests
  4  all slow tests

A mutation is noticed by `fast` tests (stages 1 and 3), by `slow` tests (2 and 4), or `unnoticed`. So `slow` may hide a
fast test in a file that the table does not name. A crash or a timeout counts as noticed, unless the tests crash again
without the mutation. Every stage first passes without a mutation; the runner stops where it does not.

The runner compiles mutations of C++ in the copy, with CMake and ninja as pip does. One that does not compile, or whose
old text is gone, is an `error` of the table.

Every result is a line of --out, with date and commit. A later call skips what is there and still has the same text. The
exit code is 1 where a mutation stayed unnoticed or is an error.
"""

import argparse
import concurrent.futures
import functools
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from mutations.copies import ROOT, Copy, Stage, TableError, digest_of_checkout, native_library, stages
from mutations.mutation import Mutation
from mutations.mutations import MUTATIONS
from mutations.results import Results, change_of, table

# How tests end that name no failure.
ENDS = ('crash', 'timeout')


class TestsFail(Exception):
  """Tests fail without a mutation, so nothing can be said."""


@functools.cache
def commit() -> str:
  """The commit of the checkout, with `+` where files differ from it."""
  command = ['git', 'describe', '--always', '--exclude=*', '--dirty=+']
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


class Clean:
  """Which stages pass without a mutation, and how long they take; each is run once a checkout."""

  def __init__(self, results: 'Results', timeout: float):
    self._results, self._timeout, self._lock = results, timeout, threading.Lock()
    self._checkout = digest_of_checkout()

  def seconds(self, copy: Copy, stage: Stage) -> float:
    """How long the tests take; TestsFail where one fails."""
    parts = [Stage(stage.tier, (file,)) for file in stage.files] or [stage]
    return sum(self._of_part(copy, part) for part in parts)

  def _of_part(self, copy: Copy, stage: Stage) -> float:
    with self._lock:
      for row in self._results.clean:
        if (row['clean'], row['checkout']) == (str(stage), self._checkout):
          return float(row['seconds'])
      say(f'without a mutation: {stage}')
      outcome = copy.test(stage, self._timeout)
      if outcome.test:
        raise TestsFail(f'{stage} fail without a mutation: {outcome.test}\n{outcome.output[-3000:]}')
      self._results.add({'clean': str(stage), 'checkout': self._checkout, 'seconds': outcome.seconds})
      return outcome.seconds


def tried(mutation: Mutation, copy: Copy, clean: Clean, timeout: float, quick: bool) -> dict[str, Any]:
  """The result of a mutation, a row of --out; `open` where it is `quick` and stage 1 did not notice."""
  row = {
    'name': mutation.name,
    'room': mutation.room,
    'file': mutation.file,
    'change': change_of(mutation),
    'date': time.strftime('%Y-%m-%d'),
    'commit': commit(),
  }
  if mutation.path and mutation.path not in copy.paths():
    return {**row, 'result': 'left out', 'test': f'this CPU has no path {mutation.path}', 'seconds': 0.0}
  spent = 0.0
  try:
    for stage in stages(mutation)[: 1 if quick else None]:
      usual = clean.seconds(copy, stage)
      limit = min(timeout, 60 + 5 * usual)
      with copy.broken(mutation):
        outcome = copy.test(stage, limit)
      spent = round(spent + outcome.seconds, 1)
      if outcome.test in ENDS and copy.test(stage, limit).test:
        raise TestsFail(f'{stage} end with {outcome.test} without a mutation too:\n{outcome.output[-3000:]}')
      if outcome.test:
        return {**row, 'result': stage.tier, 'test': outcome.test, 'seconds': spent}
  except TableError as error:
    return {**row, 'result': 'error', 'test': str(error), 'seconds': spent}
  return {**row, 'result': 'open' if quick else 'unnoticed', 'test': '', 'seconds': spent}


def say(line: str) -> None:
  print(line, flush=True)


def hours(seconds: float) -> str:
  return f'{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}'


def chosen(only: str, rooms: str) -> list[Mutation]:
  """The mutations that the flags name; SystemExit for names that are none."""
  names, rooms_ = [set(filter(None, flag.split(','))) for flag in (only, rooms)]
  for given, known in ((names, {m.name for m in MUTATIONS}), (rooms_, {m.room for m in MUTATIONS})):
    if unknown := given - known:
      raise SystemExit(f'unknown: {", ".join(sorted(unknown))}; see --list')
  return [m for m in MUTATIONS if (not names or m.name in names) and (not rooms_ or m.room in rooms_)]


def try_all(mutations: Sequence[Mutation], results: Results, jobs: int, timeout: float, quick: bool) -> None:
  """Try mutations, `jobs` at a time, each in a copy of its own."""
  clean, native, start = Clean(results, timeout), native_library(), time.monotonic()
  free: queue.SimpleQueue[Copy] = queue.SimpleQueue()

  def attempt(mutation: Mutation) -> dict[str, Any]:
    copy = free.get()
    try:
      return tried(mutation, copy, clean, timeout, quick)
    finally:
      free.put(copy)

  with tempfile.TemporaryDirectory(prefix='trix-mutations-') as folder:
    copies = [Copy(pathlib.Path(folder, str(job)), native) for job in range(jobs)]
    for copy in copies:
      if native is None:
        copy.build()
      free.put(copy)
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
      waiting = [pool.submit(attempt, mutation) for mutation in mutations]
      for done, future in enumerate(concurrent.futures.as_completed(waiting), 1):
        row = future.result()
        if row['result'] != 'open':
          results.add(row)
        left = (time.monotonic() - start) / done * (len(mutations) - done)
        test = ' '.join(row['test'].split())[-200:]
        say(
          f'[{done}/{len(mutations)}, {hours(left)} left]  {row["name"]}: {row["result"]}  {test}  {row["seconds"]} s'
        )
    except TestsFail as error:
      raise SystemExit(str(error)) from error
    finally:
      pool.shutdown(wait=False, cancel_futures=True)
      for copy in copies:
        copy.stop()
      pool.shutdown()


def main() -> None:
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that the tests that run end too.
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=pathlib.Path, help='file of JSON lines, one a result; a later call goes on with it')
  parser.add_argument('--only', default='', metavar='NAME,...', help='these mutations')
  parser.add_argument('--room', default='', metavar='ROOM,...', help='the mutations of these rooms')
  parser.add_argument('--again', action='store_true', help='also those that --out has a result of')
  parser.add_argument('--quick', action='store_true', help='stage 1 alone; what it does not notice gets no result')
  parser.add_argument('--jobs', type=int, default=1, help='mutations at a time; each runs tests on two processes')
  parser.add_argument('--timeout', type=float, default=3600, help='seconds that a stage may take at most (3600)')
  parser.add_argument('--list', action='store_true', help='name the mutations and do nothing')
  parser.add_argument('--table', action='store_true', help='print the results of --out in Markdown and do nothing')
  arguments = parser.parse_args()
  mutations = chosen(arguments.only, arguments.room)
  if arguments.list:
    say('\n'.join(f'{mutation.room:<14}{mutation.name:<60}{mutation.file}' for mutation in mutations))
    return
  if arguments.out is None:
    parser.error('--out is missing; name a file for the results')
  if arguments.out.is_dir() or not arguments.out.parent.is_dir():
    parser.error(f'--out={arguments.out}: name a file in a folder that is there')
  if arguments.jobs < 1:
    parser.error(f'--jobs={arguments.jobs}: give 1 or more')
  results = Results(arguments.out)
  if arguments.table:
    say(table(mutations, results))
    return
  left = [m for m in mutations if arguments.again or results.of(m) is None]
  try_all(left, results, arguments.jobs, arguments.timeout, arguments.quick)
  found = [row for m in mutations if (row := results.of(m)) and row['result'] in ('unnoticed', 'error')]
  for row in found:
    say(f'{row["result"]}: {row["name"]} in {row["file"]}  {row["test"]}')
  sys.exit(bool(found))


if __name__ == '__main__':
  main()
