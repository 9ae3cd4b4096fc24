"""What is imported by those who want little: the kernels alone, or a model at inference."""

import subprocess
import sys

import pytest

import trix_jax


def imported_by(statement, before='pass'):
  """Names of the top-level packages, without the standard library's, that a statement imports after another one."""
  code = (
    f'import sys; {before}; known = set(sys.modules); {statement}\n'
    'print(*{name.partition(".")[0] for name in set(sys.modules) - known} - set(sys.stdlib_module_names))'
  )
  return set(subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.split())


def test_kernels_need_jax_and_numpy_alone():
  assert imported_by('import xla_kernels', before='import jax, jax.numpy, numpy') == {'xla_kernels'}
  # Nor is anything else that JAX happens to load on its own.
  assert not {'trix_jax', 'flax', 'optax', 'orbax', 'absl'} & imported_by('import xla_kernels')


@pytest.mark.parametrize(
  ('module', 'unwanted'),
  [
    ('inference', ('orbax', 'tensorboardX', 'pooch', 'requests', 'scipy', 'matplotlib', 'optax', 'ml_collections')),
    ('data.corpora', ('pooch', 'requests', 'jax')),
    ('system.files', ('jax', 'numpy')),
    ('system.host', ('jax', 'numpy')),
    ('errors', ('jax', 'numpy')),
  ],
)
def test_a_module_does_not_import_what_only_others_need(module, unwanted):
  found = imported_by(f'import trix_jax.{module}')
  assert 'trix_jax' in found and not set(unwanted) & found


def test_public_names_are_imported_when_they_are_asked_for():
  assert 'jax' not in imported_by('import trix_jax')
  assert all(hasattr(trix_jax, name) for name in trix_jax.__all__ if name != '__version__')
  assert not hasattr(trix_jax, 'nothing')
