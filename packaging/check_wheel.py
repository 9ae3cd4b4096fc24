"""Check what wheels hold and which machines their names promise.

  python packaging/check_wheel.py dist/*.whl

Needs the standard library alone. The newest glibc that a name may ask for is jaxlib's own minimum.
"""

import pathlib
import re
import sys
import zipfile

ROOT = pathlib.Path(__file__).parent.parent
NEWEST_GLIBC = 27
TOO_LARGE = 5e6  # Bytes: a model or a debug build slipped in.


def main() -> None:
  wheels = sys.argv[1:]
  if not wheels:
    sys.exit('usage: python packaging/check_wheel.py WHEEL ...')
  mistakes = [f'{pathlib.Path(wheel).name}: {mistake}' for wheel in wheels for mistake in check(pathlib.Path(wheel))]
  if mistakes:
    sys.exit('\n'.join(mistakes))
  for wheel in wheels:
    print(f'{pathlib.Path(wheel).name}: contents and tags are right')


def check(wheel: pathlib.Path) -> list[str]:
  """Say what is wrong with a wheel; nothing where all is right."""
  _, version, python, abi, platform = wheel.stem.split('-')
  with zipfile.ZipFile(wheel) as archive:
    files = set(archive.namelist()) - {name for name in archive.namelist() if name.endswith('/')}
    entry_points = archive.read(f'trix_jax-{version}.dist-info/entry_points.txt').decode()
  mistakes = []
  allowed = {'trix_jax', 'xla_kernels', f'trix_jax-{version}.dist-info'}
  if extra := {name.split('/')[0] for name in files} - allowed:
    mistakes.append(f'unexpected at the top: {", ".join(sorted(extra))}')
  if unwanted := [name for name in files if re.search(r'/csrc/|\.(cc|c|h|safetensors|pyc)$', name)]:
    mistakes.append(f'unwanted files: {", ".join(sorted(unwanted))}')
  if wheel.stat().st_size > TOO_LARGE:
    mistakes.append(f'{wheel.stat().st_size} bytes')
  expected = {'trix_jax/py.typed', 'xla_kernels/py.typed'}
  expected |= {f'trix_jax/configs/{config.name}' for config in (ROOT / 'configs').glob('*.py')}
  for package in ('trix_jax', 'xla_kernels'):
    expected |= {str(module.relative_to(ROOT)) for module in (ROOT / package).rglob('*.py')}
  if missing := expected - files:
    mistakes.append(f'missing: {", ".join(sorted(missing))}')
  if 'trix = ' not in entry_points:
    mistakes.append('no program `trix`')

  extensions = [name for name in files if '_native' in name]
  machine = 'aarch64' if platform.endswith('aarch64') else 'x86_64'
  wanted = {
    ('cp311', 'cp311'): f'xla_kernels/_native.cpython-311-{machine}-linux-gnu.so',
    ('cp312', 'abi3'): 'xla_kernels/_native.abi3.so',
  }.get((python, abi))
  if extensions != [wanted]:
    mistakes.append(f'tag {python}-{abi} with the extensions {extensions}, not {wanted}')
  glibc = [re.fullmatch(r'manylinux_2_(\d+)_' + machine, tag) for tag in platform.split('.')]
  if not all(glibc) or any(int(match[1]) > NEWEST_GLIBC for match in glibc if match):
    mistakes.append(f'tag {platform}; expected manylinux with glibc 2.{NEWEST_GLIBC} or older')
  return mistakes


if __name__ == '__main__':
  main()
