"""Packages import one way only: each imports those before it, and no others."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
# A line names packages that do not import one another.
ORDER = (
  ('errors',),
  ('settings', 'system'),
  ('core',),
  ('nn',),
  ('data',),
  ('configuration',),
  ('runs',),
  ('inference',),
  ('evaluation',),
  ('inspection', 'training'),
  ('cli',),
  ('export', 'lookup'),  # Scripts, as are those at the top.
)
PLACE = {name: place for place, names in enumerate(ORDER) for name in names}


def imported_by(path):
  """Names of the packages of trix_jax that a file imports, inside functions too."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module == 'trix_jax':
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('trix_jax.'):
      yield node.module.split('.')[1]
    elif isinstance(node, ast.Import):
      yield from (alias.name.split('.')[1] for alias in node.names if alias.name.startswith('trix_jax.'))


def test_packages_import_one_way_only():
  seen = set()
  for path in (ROOT / 'trix_jax').rglob('*.py'):
    if path.parent.name == 'configs' or path == ROOT / 'trix_jax' / '__init__.py':
      continue
    own = path.relative_to(ROOT / 'trix_jax').with_suffix('').parts[0]
    seen.add(own)
    for name in set(imported_by(path)) - {own}:
      assert PLACE[name] < PLACE[own], f'{path} imports {name}'
  assert seen == PLACE.keys()


def test_the_library_knows_no_experiments_and_the_kernels_no_library():
  for package, unknown in (('trix_jax', 'experiments'), ('xla_kernels', 'trix_jax'), ('xla_kernels', 'experiments')):
    for path in (ROOT / package).rglob('*.py'):
      assert f'import {unknown}' not in path.read_text() and f'from {unknown}' not in path.read_text(), path


def test_public_functions_say_which_settings_they_take():
  for path in (ROOT / 'trix_jax').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
        for argument in (*node.args.args, *node.args.kwonlyargs):
          assert argument.arg not in ('config', 'settings') or argument.annotation, f'{path}: {node.name}'
