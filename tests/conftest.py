"""Two CPU devices for every test, so that what only works on one is found, and one compilation of equal programs.

Most of the time of the tests is XLA's, so it does not optimise what it compiles, unless XLA_FLAGS says otherwise:
`XLA_FLAGS= pytest` tests the code that users run.
"""

import importlib.metadata
import os
import pathlib
import tempfile

import pytest

flags = ['--xla_backend_optimization_level=0']
# These nearly halve the rest, but come without a promise, and XLA ends a program that has a flag it does not know.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  flags += [
    '--xla_cpu_use_fusion_emitters=false',
    '--xla_cpu_parallel_codegen_split_count=1',
    '--xla_llvm_disable_expensive_passes=true',
  ]
os.environ.setdefault('XLA_FLAGS', ' '.join(flags))

import jax
import numpy as np

jax.config.update('jax_num_cpu_devices', 2)
_cache = tempfile.TemporaryDirectory()
jax.config.update('jax_compilation_cache_dir', _cache.name)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
  """Take two workers for the whole suite, and none for files that are named: a worker starts as long as they take."""
  whole_suite = config.args_source == pytest.Config.ArgsSource.TESTPATHS
  if whole_suite and getattr(config.option, 'numprocesses', 0) is None and not hasattr(config, 'workerinput'):
    config.option.numprocesses = 2
    config.option.dist = 'worksteal'


@pytest.fixture(scope='session')
def text(tmp_path_factory):
  path = tmp_path_factory.mktemp('text') / 'text.txt'
  words = np.random.default_rng(0).choice(['to', 'be', 'or', 'not', 'that', 'is', '42', 'the', 'question.\n'], 3000)
  path.write_text(' '.join(words))
  return path


@pytest.fixture(scope='session')
def trained(text, tmp_path_factory) -> tuple[pathlib.Path, str]:
  """Train from the first step to the last, undisturbed: the workdir, and what was printed."""
  import programs

  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  result = programs.train(text, workdir)
  assert result.returncode == 0, result.stderr
  return workdir, result.stdout


@pytest.fixture(scope='session')
def exported(trained, tmp_path_factory):
  import programs

  path = tmp_path_factory.mktemp('model') / 'model.safetensors'
  return path, programs.run('export', f'--workdir={trained[0]}', f'--out={path}')
