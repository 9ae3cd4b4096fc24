"""The kernels without Python: compiled with sanitizers, and looked at as machine code."""

import pathlib
import platform
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SOURCE = ROOT / 'xla_kernels' / 'csrc'
# The file of each instruction set of this processor, and its flags.
ISA_FLAGS = {
  f'isa/{name}.cc': flags
  for processor, name, *flags in (
    line.split() for line in (SOURCE / 'isa/flags.txt').read_text().splitlines() if not line.startswith('#')
  )
  if processor == platform.machine()
}
PLAIN = ('isa/portable.cc', 'cpu.cc', 'paths.cc', *sorted(f'ops/{file.name}' for file in (SOURCE / 'ops').glob('*.cc')))

pytestmark = pytest.mark.skipif(shutil.which('g++') is None, reason='no g++')


def compile_object(name, folder, *flags):
  output = folder / f'{pathlib.Path(name).stem}.o'
  subprocess.run(
    [
      'g++',
      '-std=c++20',
      '-ffp-contract=off',
      '-Wall',
      '-Wextra',
      f'-I{SOURCE}',
      *flags,
      '-c',
      str(SOURCE / name),
      '-o',
      str(output),
    ],
    check=True,
    timeout=300,
  )
  return output


def test_the_extension_is_named_for_the_python_versions_it_runs_on():
  module = pytest.importorskip('xla_kernels._native')
  stable = sys.version_info >= (3, 12)
  assert ('abi3' in pathlib.Path(module.__file__).name) == stable


@pytest.mark.slow
@pytest.mark.parametrize('sanitizers', ['address,undefined', 'thread'])
def test_every_path_under_sanitizers(sanitizers, tmp_path):
  flags = ['-O1', '-g', f'-fsanitize={sanitizers}', '-fno-sanitize-recover=all']
  objects = [compile_object(name, tmp_path, *flags, *ISA_FLAGS.get(name, [])) for name in (*PLAIN, *ISA_FLAGS)]
  program = tmp_path / 'paths_test'
  subprocess.run(
    [
      'g++',
      '-std=c++20',
      *flags,
      f'-I{SOURCE}',
      str(ROOT / 'tests/native/paths_test.cc'),
      *map(str, objects),
      '-o',
      str(program),
      '-pthread',
    ],
    check=True,
    timeout=300,
  )
  result = subprocess.run([str(program)], capture_output=True, text=True, timeout=300)
  assert result.returncode == 0, result.stdout + result.stderr[-3000:]
  assert 'portable: the same integers' in result.stdout and 'threads: the same bits' in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != 'x86_64' or shutil.which('objdump') is None, reason='needs x86 and objdump')
def test_accumulators_stay_in_registers(tmp_path):
  """GCC spills them around the intrinsic of vpdpbusd, which costs half the speed."""
  name = 'isa/avx512_vnni.cc'
  compiled = compile_object(name, tmp_path, '-O3', *ISA_FLAGS[name])
  listing = subprocess.run(
    ['objdump', '-d', '--no-show-raw-insn', str(compiled)], capture_output=True, text=True, check=True
  ).stdout
  # Address and text of every instruction; a loop is what a jump backwards spans.
  code = [(int(at, 16), text) for at, text in re.findall(r'^\s*([0-9a-f]+):\s+(.*)$', listing, re.MULTILINE)]
  jumps = [(int(match[1], 16), at) for at, text in code if (match := re.match(r'j\w+\s+([0-9a-f]+) ', text))]
  loops = [[text for at, text in code if start <= at <= end] for start, end in jumps if start < end]
  products = [loop for loop in loops if sum('vpdpbusd' in text for text in loop) >= 4 and len(loop) < 100]
  assert len(products) >= 12  # Wide and narrow blocks times one to six tokens.
  for loop in products:
    assert not [text for text in loop if re.match(r'vmov\w+\s+%zmm\d+,.*\(%r[sb]p', text)], '\n'.join(loop)
