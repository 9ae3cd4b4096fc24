"""Every tutorial does what it says: its own commands, run in order in an empty folder, print what the page shows.

A block of a page is run by its language:

  bash    in one folder for the page, by `bash -euo pipefail`
  python  with a file as its title: written there; all others of a page together: one script, run at the end
  text    compared with what the commands above it printed; numbers may differ

A block whose title is in RULES is treated in another way, which the table gives a reason for. A title without a rule
is an error.

`arm_board.md` needs an emulated board: `tests/arm/prepare.sh FOLDER sysroot`, then `TRIX_ARM=FOLDER pytest -m slow
tests/test_tutorials.py`.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ROOT / 'docs' / 'tutorials'
# What a page takes as given.
BEFORE = {
  'arm_board': 'trix train --config=smoke --workdir=runs/mine',  # The run of `own_text`, with less to compute.
}
INTERRUPT, BOARD, SKIP, UNCOMPARED = 'interrupt', 'board', 'skip', 'uncompared'
RULES = {
  'stop it with Ctrl-C': (INTERRUPT, 'sent once the first validation loss is printed'),
  'on the board': (BOARD, 'run by the emulated Python, in a folder of its own'),
  'for example': (UNCOMPARED, 'a text or a tile that another machine has otherwise'),
  'install': (SKIP, 'tests run what is installed'),
  'if you want curves': (SKIP, 'serves until somebody stops it'),
  'hours': (SKIP, 'takes hours; the same command runs with a smaller budget'),
  'a virtual environment on the board': (SKIP, "Debian's unpacked Python has no ensurepip; a folder does instead"),
}


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block of a page: its language, title, text and line."""

  language: str
  title: str
  text: str
  line: int

  @property
  def rule(self) -> str:
    """What is done with it; empty for the usual. KeyError for a title that no rule is for."""
    if not self.title or (self.language == 'python' and self.title.endswith('.py')):
      return ''
    return RULES[self.title][0]


def blocks_of(page: str) -> list[Block]:
  """The fenced blocks of a page, in order."""
  return [
    Block(found[1], found[2] or '', found[3], page[: found.start()].count('\n') + 1)
    for found in re.finditer(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
  ]


def stable(text: str) -> list[str]:
  """Lines with their numbers and commits masked, and without what a page leaves out with `...`."""
  lines = (re.sub(r'commit \S+|[-+]?\d[\d.,]*', '#', ' '.join(line.split())) for line in text.splitlines())
  return [line for line in lines if line and line != '...']


@pytest.mark.parametrize('page', sorted(PAGES.glob('*.md')), ids=lambda path: path.stem)
def test_every_block_of_a_tutorial_has_a_rule(page):
  text = page.read_text()
  blocks = blocks_of(text)
  assert text.count('\n```') == 2 * len(blocks)
  for block in blocks:
    assert block.language in ('bash', 'python', 'text')
    assert block.rule in ('', INTERRUPT, BOARD, SKIP, UNCOMPARED)
  assert any(block.language != 'text' and not block.rule for block in blocks)


def test_blocks_keep_their_order_titles_and_lines():
  page = 'a\n\n```bash\nls\n```\n\n```python title="x.py"\n\n1\n```\n```text\n```\n'
  assert blocks_of(page) == [
    Block('bash', '', 'ls\n', 3),
    Block('python', 'x.py', '\n1\n', 7),
    Block('text', '', '', 11),
  ]
  with pytest.raises(KeyError):
    print(Block('bash', 'later', 'ls', 1).rule)


def test_only_numbers_and_spaces_of_an_output_may_differ():
  assert stable('step  20/200  loss 2.9926\n...\n\n') == stable('step 1/2 loss 3.1') != stable('step 1/2 loss nan')


class Page:
  """A tutorial while it is run."""

  def __init__(self, name: str, folder: pathlib.Path):
    self.path, self.folder = PAGES / f'{name}.md', folder
    self.environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}  # As users run it.
    self.environment['PATH'] = f'{pathlib.Path(sys.executable).parent}:{self.environment["PATH"]}'
    self.printed = ''

  def run(self) -> None:
    script: list[Block] = []
    to_compare: list[Block] = []
    for block in blocks_of(self.path.read_text()):
      if block.rule == SKIP:
        continue
      if block.language == 'text':
        if block.rule == UNCOMPARED:
          continue
        if script:
          to_compare.append(block)
        else:
          self.compare(block)
      elif block.language == 'bash':
        {'': self.bash, INTERRUPT: self.interrupted, BOARD: self.on_the_board}[block.rule](block)
      elif block.title:
        (self.folder / block.title).write_text(block.text)
      else:
        script.append(block)
    if script:
      (self.folder / 'page.py').write_text('\n\n'.join(block.text for block in script))
      self.bash(Block('bash', '', 'python page.py', script[0].line))
      for block in to_compare:
        self.compare(block)

  def bash(self, block: Block, folder: pathlib.Path | None = None, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
      ['bash', '-euo', 'pipefail', '-c', block.text],
      cwd=folder or self.folder,
      env=environment or self.environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      timeout=1200,
    )
    self.printed = done.stdout
    assert not done.returncode, f'{self.path.name}:{block.line} exits with {done.returncode}:\n{done.stdout}'

  def interrupted(self, block: Block) -> None:
    """Run a training, and send what Ctrl-C sends once it has printed a validation loss."""
    self.printed = ''
    with subprocess.Popen(
      ['bash', '-euo', 'pipefail', '-c', block.text],
      cwd=self.folder,
      env=self.environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    ) as process:
      assert process.stdout is not None
      for line in process.stdout:
        # Once: a second one would not let it save.
        if ': validation loss' in line and ': validation loss' not in self.printed:
          os.killpg(process.pid, signal.SIGINT)
        self.printed += line
    assert process.returncode, f'{self.path.name}:{block.line} was not stopped:\n{self.printed}'
    assert 'saved; run the same command to go on' in self.printed, self.printed

  def on_the_board(self, block: Block) -> None:
    programs = self.folder.parent / 'board_programs'
    environment = {
      **self.environment,
      'PATH': f'{programs}:{self.environment["PATH"]}',
      'QEMU_CPU': 'neoverse-n1',  # What a Raspberry Pi 5 has: dot products, no int8 matrix products.
      # Otherwise a program would start itself again, past the emulator.
      'GLIBC_TUNABLES': '',
    }
    environment.pop('PYTHONPATH', None)
    self.bash(block, self.folder.parent / 'board', environment)

  def compare(self, block: Block) -> None:
    """Fail unless the lines of a block were printed, in this order."""
    printed = iter(stable(self.printed))
    for line in stable(block.text):
      assert line in printed, f'{self.path.name}:{block.line} shows {line!r}, which was not printed in:\n{self.printed}'


def run(name: str, folder: pathlib.Path, environment: dict[str, str] | None = None) -> Page:
  page = Page(name, folder)
  page.environment |= environment or {}
  if name in BEFORE:
    page.bash(Block('bash', '', BEFORE[name], 0))
  page.run()
  return page


@pytest.fixture
def _program():
  assert shutil.which('trix', path=f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'), (
    "the program trix is not installed; pip install -e '.[test]'"
  )


@pytest.mark.slow
@pytest.mark.usefixtures('_program')
def test_own_text(tmp_path):
  run('own_text', tmp_path)
  assert (tmp_path / 'mine.safetensors').stat().st_size > 100_000


@pytest.mark.slow
def test_own_jax_model(tmp_path):
  page = run('own_jax_model', tmp_path)
  assert 'trix_jax' not in page.path.read_text()


@pytest.mark.slow
def test_own_suite(tmp_path):
  run('own_suite', tmp_path, {'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'})  # It is about a clone.
  report = (tmp_path / 'runs' / 'my_results' / 'report.html').read_text()
  assert '<h2 id="my_suite">Four tiles or eight</h2>' in report


SCP = """#!/usr/bin/env bash
# Copies between this folder and the board, which is a folder too.
files=("${@:1:$#-1}") target=${@: -1:1}
cp "${files[@]/#board:/BOARD/}" "${target/#board:/BOARD/}"
"""
PIP = """#!/usr/bin/env bash
# Installs for the board by this machine's pip: an emulated one would take many minutes.
platforms=(--platform manylinux2014_aarch64)
for minor in {17..36}; do  # Debian 12 has glibc 2.36.
  platforms+=(--platform "manylinux_2_${minor}_aarch64")
done
exec PYTHON -m pip "$1" -q --disable-pip-version-check --target SITE "${platforms[@]}" --only-binary=:all: \
  --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none "${@:2}"
"""
PYTHON3 = """#!/usr/bin/env bash
export QEMU_LD_PREFIX=ARM/sysroot PYTHONPATH=SITE
exec qemu-aarch64-static ARM/sysroot/usr/bin/python3.11 "$@"
"""
TRIX = """#!/usr/bin/env bash
exec python3 SITE/bin/trix "$@"
"""


@pytest.mark.slow
@pytest.mark.usefixtures('_program')
def test_arm_board(tmp_path):
  arm = os.environ.get('TRIX_ARM')
  if not arm:
    pytest.skip('set TRIX_ARM to a folder that `tests/arm/prepare.sh FOLDER sysroot` has filled')
  clone, pc, board = (tmp_path / name for name in ('clone', 'pc_programs', 'board_programs'))
  tracked = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
  for name in tracked.split('\0'):
    if name and not name.startswith('results/') and (ROOT / name).is_file():
      (clone / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(ROOT / name, clone / name)
  (clone / 'runs').mkdir()
  (clone / 'runs' / 'arm').symlink_to(pathlib.Path(arm).absolute())
  (tmp_path / 'board').mkdir()
  names = {'BOARD': tmp_path / 'board', 'SITE': tmp_path / 'site', 'ARM': pathlib.Path(arm).absolute()}
  programs = {pc / 'scp': SCP, board / 'pip': PIP, board / 'python3': PYTHON3, board / 'trix': TRIX}
  for path, text in programs.items():
    path.parent.mkdir(exist_ok=True)
    for name, value in {**names, 'PYTHON ': f'{sys.executable} '}.items():
      text = text.replace(name, str(value))
    path.write_text(text)
    path.chmod(0o755)
  run('arm_board', clone, {'PATH': f'{pc}:{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'})
  assert len((tmp_path / 'board' / 'board.txt').read_text()) == len('The ') + 60 + 1
