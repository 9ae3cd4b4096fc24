"""The worked example of CONTRIBUTING.md does what the page says."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from programs import TINY

ROOT = pathlib.Path(__file__).parents[1]


def apply_diff(diff, folder):
  """Apply a diff whose hunks have no line numbers: each must fit one place of its file."""
  (name,) = re.findall(r'^\+\+\+ b/(.*)$', diff, re.M)
  text = (folder / name).read_text()
  for hunk in re.split(r'^@@\n', diff, flags=re.M)[1:]:
    lines = hunk.splitlines(keepends=True)
    before, after = (''.join(line[1:] for line in lines if line[0] in kept) for kept in (' -', ' +'))
    assert text.count(before) == 1, before
    text = text.replace(before, after)
  (folder / name).write_text(text)


@pytest.mark.slow
def test_a_gate_is_one_function_and_one_line(tmp_path):
  [diff] = re.findall(r'```diff\n(.*?)```', (ROOT / 'CONTRIBUTING.md').read_text(), re.S)
  for package in ('trix_jax', 'xla_kernels', 'configs'):
    shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns('__pycache__', 'csrc'))
  apply_diff(diff, tmp_path)
  (tmp_path / 'text.txt').write_text('so they say, and so it is; ' * 200)

  def trix(program, *arguments):
    start = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); from trix_jax.cli import launcher; launcher.trix()'
    # An installed checkout would put itself before the copy.
    clean = 'import sys; sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]; '
    return subprocess.run(
      [sys.executable, '-c', clean + start, program, *arguments],
      cwd=tmp_path,
      env={**os.environ, 'PYTHONPATH': ''},
      capture_output=True,
      text=True,
      check=True,
    ).stdout

  trained = trix('train', *TINY, '--config.file=text.txt', '--config.model.gate=sigmoid', '--workdir=run')
  assert 'emergent' in trained
  evaluated = trix('eval', '--workdir=run', '--backend=packed')
  [row] = re.findall(r'^emergent +\S+ +([+-]\S+) ', evaluated, re.M)  # What packing changes in the loss.
  assert abs(float(row)) < 0.01
  trix('export', '--workdir=run', '--out=model.safetensors')
  assert len(trix('generate', '--model=model.safetensors', '--prompt=so ', '--length=20')) > 20
