"""Copies of the checkout to break, with kernels of their own, and the tests that run in them."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from mutations.mutation import Mutation

ROOT = pathlib.Path(__file__).parents[2]
NOTICED = ('fast', 'slow')
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
