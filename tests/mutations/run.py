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
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from mutations.mutation import Mutation
from mutations.mutations import MUTATIONS

ROOT = pathlib.Path(__file__).parents[2]
NOTICED = ('fast', 'slow')
# How tests end that name no failure.
ENDS = ('crash', 'timeout')
NO_TESTS = 5  # Exit code of pytest where no test was selected.
# It compares the table with the code, so every mutation makes it fail.
OWN_TEST = 'tests/test_mutations.py'
# An installed checkout puts itself before every other copy. This file, read at the start of Python, takes it out.
SITE = """import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if 'ScikitBuild' not in type(finder).__name__]
"""
# A plugin: Hypothesis looks for a simpler example of each failure, which takes minutes where each has to be compiled.
PLUGIN, PLUGIN_TEXT = (
  'first_example',
  """import hypothesis

settings = hypothesis.settings
load = settings.load_profile


def load_without_shrinking(name):
  load(name)
  phases = [phase for phase in settings.default.phases if phase.name not in ('shrink', 'explain')]
  settings.register_profile('first_example', settings.default, phases=phases)
  load('first_example')


# What a conftest.py loads later as well, since a test takes its settings where it is defined.
type.__setattr__(settings, 'load_profile', staticmethod(load_without_shrinking))
load_without_shrinking('default')
""",
)


@dataclasses.dataclass(frozen=True)
class Stage:
  """Some tests: the `files`, or all where there are none, of the fast or of the slow tier."""

  tier: str
  files: tuple[str, ...] = ()

  @property
  def arguments(self) -> list[str]:
    # Few files are done sooner by one process, and in the order of the table.
    return [
      *(['-m', 'slow'] if self.tier == 'slow' else []),
      *(['--numprocesses=0'] if self.files else []),
      *self.files,
    ]

  def __str__(self) -> str:
    return f'{self.tier} tests' + (f' of {", ".join(self.files)}' if self.files else '')


def stages(mutation: Mutation) -> list[Stage]:
  """The stages of a mutation, in their order."""
  return [Stage(tier, files) for files in (mutation.tests, ()) for tier in NOTICED]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What pytest said: the first test that failed, `crash` or `timeout`; empty where all passed."""

  test: str
  seconds: float
  output: str


class TableError(Exception):
  """A mutation that cannot be tried."""


class TestsFail(Exception):
  """Tests fail without a mutation, so nothing can be said."""


class Copy:
  """A copy of the checkout to break, with kernels of its own."""

  def __init__(self, folder: pathlib.Path, native: pathlib.Path | None):
    self.folder, self._site, self._build = folder / 'copy', folder / 'site', folder / 'build'
    self._process: subprocess.Popen | None = None
    for name in tracked():
      target = self.folder / name
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, target)
    self._site.mkdir()
    (self._site / 'sitecustomize.py').write_text(SITE)
    (self._site / f'{PLUGIN}.py').write_text(PLUGIN_TEXT)
    if native is not None:
      shutil.copy2(native, self.folder / 'xla_kernels')
    self._check_imports()

  @property
  def environment(self) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(self._site), str(self.folder), os.environ.get('PYTHONPATH')]))
    # Python takes a changed file for unchanged where size and second are the same, so it shall keep nothing.
    return {**os.environ, 'PYTHONPATH': path, 'PYTHONDONTWRITEBYTECODE': '1'}

  def _check_imports(self) -> None:
    for name in ('trix_jax', 'xla_kernels'):
      code = f'import importlib.util; print(importlib.util.find_spec({name!r}).origin)'
      origin = self._output([sys.executable, '-c', code]).strip()
      if not pathlib.Path(origin).is_relative_to(self.folder):
        raise SystemExit(f'Python imports {name} from {origin} instead of the copy; uninstall it from this environment')

  def _output(self, command: Sequence[str]) -> str:
    return subprocess.run(
      command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True
    ).stdout

  @contextlib.contextmanager
  def broken(self, mutation: Mutation) -> Iterator[None]:
    """Inside, the copy has the mutation, its kernels too."""
    path = self.folder / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
      raise TableError(f'{mutation.file} has the old text {text.count(mutation.old)} times')
    native = {lib: lib.read_bytes() for lib in self._libraries()}
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
      if mutation.file.startswith('xla_kernels/csrc/'):
        self.build()
      yield
    finally:
      path.write_text(text)
      for lib in self._libraries():
        lib.unlink()
      for lib, content in native.items():
        lib.write_bytes(content)

  def _libraries(self) -> list[pathlib.Path]:
    return list((self.folder / 'xla_kernels').glob('_native*.so'))

  def build(self) -> None:
    """Compile the kernels, only what changed since the last time; TableError with the compiler's words."""
    python = f'-DPython_EXECUTABLE={sys.executable}'
    for command in (
      ['cmake', '-S', str(self.folder), '-B', str(self._build), '-G', 'Ninja', python],
      ['ninja', '-C', str(self._build)],
    ):
      if command[0] == 'cmake' and (self._build / 'build.ninja').exists():
        continue
      done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
      if done.returncode:
        raise TableError(f'{command[0]}: {(done.stdout + done.stderr)[-1500:]}')
    for old in self._libraries():
      old.unlink()
    for new in self._build.glob('_native*.so'):
      shutil.copy2(new, self.folder / 'xla_kernels')

  def paths(self) -> set[str]:
    """Kernel paths of this CPU."""
    code = 'import xla_kernels; print(*xla_kernels.available_paths())'
    return set(self._output([sys.executable, '-c', code]).split())

  def test(self, stage: Stage, timeout: float) -> Outcome:
    """Run a stage to its first failure."""
    shutil.rmtree(self.folder / '.hypothesis', ignore_errors=True)  # Examples that failed for another mutation.
    options = ['-x', '-q', '-p', 'no:cacheprovider', '-p', PLUGIN, '--color=no', f'--ignore={OWN_TEST}']
    command = [sys.executable, '-m', 'pytest', *options, *stage.arguments]
    start = time.monotonic()
    with tempfile.TemporaryFile('w+') as log:
      self._process = subprocess.Popen(
        command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
      )
      try:
        code: int | None = self._process.wait(timeout)
      except subprocess.TimeoutExpired:
        code = None
      finally:
        self.stop()
      log.seek(0)
      output = log.read()
    return Outcome(verdict(code, output), round(time.monotonic() - start, 1), output)

  def stop(self) -> None:
    """End the tests that run here, and what they started."""
    if self._process is not None:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._process.pid, signal.SIGKILL)
      self._process.wait()


def verdict(code: int | None, output: str) -> str:
  """The first test that failed, by pytest's exit code and output; `timeout` for None, empty where none failed."""
  if code is None:
    return 'timeout'
  if code in (0, NO_TESTS):
    return ''
  if found := re.search(r'^(?:FAILED|ERROR) (.+?)(?: - .*)?$', output, re.MULTILINE):
    return found[1]
  if code == 4:  # The command line of pytest.
    raise TableError(output[-500:])
  return 'crash'


def tracked() -> list[str]:
  """Files of the checkout that git knows, as they are now."""
  names = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
  return [name for name in names.split('\0') if name and (ROOT / name).is_file()]


@functools.cache
def commit() -> str:
  """The commit of the checkout, with `+` where files differ from it."""
  command = ['git', 'describe', '--always', '--exclude=*', '--dirty=+']
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def digest_of_checkout() -> str:
  """Changes with any file that tests see."""
  digest = hashlib.sha256()
  for name in tracked():
    if name.startswith('tests/mutations/') or name == OWN_TEST:
      continue
    digest.update(f'{name}\0'.encode() + hashlib.sha256((ROOT / name).read_bytes()).digest())
  return digest.hexdigest()[:12]


def native_library() -> pathlib.Path | None:
  """The compiled kernels that this environment has for the checkout, None without."""
  code = (
    "import importlib.util; spec = importlib.util.find_spec('xla_kernels._native'); print(spec.origin if spec else '')"
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False)
  return pathlib.Path(done.stdout.strip()) if done.stdout.strip() else None


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


class Results:
  """The lines of --out."""

  def __init__(self, path: pathlib.Path):
    self._path, self._lock = path, threading.Lock()
    lines = path.read_text(errors='replace').splitlines() if path.exists() else []
    try:
      self._rows = [json.loads(line) for line in lines]
    except ValueError as error:
      raise SystemExit(f'{path} holds something else than results ({error}); name another file') from error

  @property
  def clean(self) -> list[dict[str, Any]]:
    return [row for row in self._rows if 'clean' in row]

  def of(self, mutation: Mutation) -> dict[str, Any] | None:
    """The latest result of a mutation with this text."""
    change = change_of(mutation)
    return next(
      (row for row in reversed(self._rows) if row.get('name') == mutation.name and row['change'] == change), None
    )

  def add(self, row: dict[str, Any]) -> None:
    with self._lock:
      self._rows.append(row)
      with self._path.open('a') as file:
        file.write(json.dumps(row) + '\n')


def change_of(mutation: Mutation) -> str:
  """A digest of the text of a mutation."""
  return hashlib.sha256(f'{mutation.file}\0{mutation.old}\0{mutation.new}'.encode()).hexdigest()[:12]


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


def table(mutations: Sequence[Mutation], results: Results) -> str:
  """The results in Markdown: a line a room, then a line a mutation."""
  rows = [(mutation, results.of(mutation)) for mutation in mutations]
  kinds = ('fast', 'slow', 'unnoticed', 'error', 'left out')
  lines = ['| room | mutations | fast | slow | unnoticed | error | left out |', '|---|---:|---:|---:|---:|---:|---:|']
  for room in [*dict.fromkeys(mutation.room for mutation in mutations), 'all']:
    of = [row for mutation, row in rows if room in (mutation.room, 'all')]
    counts = [sum(row is not None and row['result'] == kind for row in of) for kind in kinds]
    lines.append(f'| {room} | {len(of)} | ' + ' | '.join(map(str, counts)) + ' |')
  tried_at = sorted({(row.get('date', 'a day'), row.get('commit', 'a commit')) for _, row in rows if row})
  lines += ['', 'Tried on ' + ', '.join(f'{date} at {commit_}' for date, commit_ in tried_at)]
  lines += ['', '| mutation | file | noticed by | first test that fails | seconds |', '|---|---|---|---|---:|']
  for mutation, row in rows:
    result, test, seconds = (row['result'], row['test'], f'{row["seconds"]:.0f}') if row else ('not tried', '', '')
    test = ' '.join(test.split())[:160].replace('|', r'\|')
    name = mutation.name.replace('_', ' ')
    lines.append(f'| {name} | `{mutation.file}` | {result} | {f"`{test}`" if test else ""} | {seconds} |')
  return '\n'.join(lines)


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
