"""Packages import one way only: each imports those before it, and no others. Public functions name their settings."""

import ast
import pathlib
import re

import pytest

from trix_jax.nn import controls

ROOT = pathlib.Path(__file__).parents[1]
# A line names packages that do not import one another.
ORDER = (
  ('errors',),
  ('settings', 'system'),
  ('core',),
  ('nn',),
  ('editing',),
  ('data',),
  ('configuration',),
  ('runs',),
  ('inference',),
  ('evaluation',),
  ('inspection', 'training'),
  ('cli',),
  ('carve', 'edit', 'export', 'graft', 'lookup'),  # Scripts, as are those at the top.
)
EXPERIMENTS_ORDER = (
  ('claims', 'texts'),
  ('suites',),
  ('measures',),
  ('runner',),
  ('report',),
  ('run', 'single'),
)


def imported_by(path, package):
  """Names of the parts of a package that a file imports, inside functions too."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module == package:
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith(f'{package}.'):
      yield node.module.split('.')[1]
    elif isinstance(node, ast.Import):
      yield from (alias.name.split('.')[1] for alias in node.names if alias.name.startswith(f'{package}.'))


@pytest.mark.parametrize('package, order', [('trix_jax', ORDER), ('experiments', EXPERIMENTS_ORDER)])
def test_packages_import_one_way_only(package, order):
  place = {name: number for number, names in enumerate(order) for name in names}
  seen = set()
  for path in (ROOT / package).rglob('*.py'):
    if path.parent.name == 'configs' or path == ROOT / package / '__init__.py':
      continue
    own = path.relative_to(ROOT / package).with_suffix('').parts[0]
    seen.add(own)
    for name in set(imported_by(path, package)) - {own}:
      assert place[name] < place[own], f'{path} imports {name}'
  assert seen == place.keys()


def test_the_library_knows_no_experiments_and_the_kernels_no_library():
  for package, unknown in (('trix_jax', 'experiments'), ('xla_kernels', 'trix_jax'), ('xla_kernels', 'experiments')):
    for path in (ROOT / package).rglob('*.py'):
      assert f'import {unknown}' not in path.read_text() and f'from {unknown}' not in path.read_text(), path


def test_programs_prepare_the_cpu_before_anything_imports_jax():
  """JAX reads how many devices to make while it is imported."""
  for path in [*(ROOT / 'experiments').rglob('*.py'), *(ROOT / 'benchmarks').rglob('*.py')]:
    text = path.read_text()
    before, called, _ = text.partition('prepare_cpu()')
    if called and '\nimport' in text.split('prepare_cpu()')[1]:
      for line in before.splitlines():
        if line.startswith(('import ', 'from ')):
          assert 'jax' not in line or line == 'from trix_jax.system import host', f'{path}: {line}'


def test_layers_know_no_controls():
  names = set(controls.TABLE) - {'none', 'hash'}
  for path in [*(ROOT / 'trix_jax' / 'core').glob('*.py'), *(ROOT / 'trix_jax' / 'nn').glob('*ffn.py')]:
    assert not re.search(r'^from .*\bcontrols\b', path.read_text(), re.M), path
    spelled = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    assert not names & {value for value in spelled if isinstance(value, str)}, path


def test_public_functions_say_which_settings_they_take():
  for path in (ROOT / 'trix_jax').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
        for argument in (*node.args.args, *node.args.kwonlyargs):
          if argument.arg in ('config', 'settings') and path.name != 'settings.py':
            assert argument.annotation and ast.unparse(argument.annotation) != 'Any', f'{path}: {node.name}'
