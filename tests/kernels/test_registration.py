"""How the kernels reach XLA: never at import, and never where this jaxlib would refuse them."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import xla_kernels
from xla_kernels import native, reference

x_ND = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
codes_MD = np.random.default_rng(1).integers(-1, 2, (8, 16)).astype(np.int8)
scales_M = np.ones(8, np.float32)

needs_kernels = pytest.mark.skipif(native._native is None, reason='no native kernels')


@pytest.fixture
def unregistered(monkeypatch):
  """Give a process that has not registered anything yet, and leave the kernels registered after it."""
  monkeypatch.setattr(native, '_native', native._native)
  native._register.cache_clear()
  jax.clear_caches()
  yield
  native._register.cache_clear()
  jax.clear_caches()


@needs_kernels
def test_headers_of_the_installed_jaxlib_are_read():
  assert native._ffi_version() >= native._native.ffi_version


@needs_kernels
@pytest.mark.parametrize(
  ('installed', 'accepted'), [((0, 3), True), ((0, 4), True), ((0, 2), False), ((1, 3), False), (None, True)]
)
def test_handlers_of_newer_headers_than_jaxlibs_are_left_out(installed, accepted, monkeypatch, caplog):
  class Module:
    interface, ffi_version = native.INTERFACE, (0, 3)

  monkeypatch.setattr(native.importlib, 'import_module', lambda _: Module)
  monkeypatch.setattr(native, '_ffi_version', lambda: installed)
  assert (native._load() is Module) == accepted
  assert accepted != ('0.3 of XLA FFI' in caplog.text and 'install' in caplog.text)


@needs_kernels
def test_a_refusal_costs_the_kernels_alone(unregistered, monkeypatch, caplog):
  def refuse(*_, **__):
    raise jax.errors.JaxRuntimeError('INVALID_ARGUMENT: an API version that is too old')

  monkeypatch.setattr(jax.ffi, 'register_ffi_target', refuse)
  y_NM = xla_kernels.ternary_matmul(x_ND, xla_kernels.pack(codes_MD), scales_M)
  np.testing.assert_array_equal(y_NM, jax.jit(reference.ternary_matmul)(x_ND, xla_kernels.pack(codes_MD), scales_M))
  assert xla_kernels.available_paths() == ('reference',)
  assert len(caplog.records) == 1 and 'too old' in caplog.text


def run_python(program, *arguments, **environment):
  return subprocess.run(
    [sys.executable, '-c', program, *arguments],
    capture_output=True,
    text=True,
    timeout=120,
    env={**os.environ, **environment},
  )


@pytest.mark.slow
def test_an_import_starts_no_backend():
  """JAX takes no number of CPU devices once its backend is up."""
  program = 'import jax, xla_kernels\njax.config.update("jax_num_cpu_devices", 3)\nprint(len(jax.devices()))'
  result = run_python(program, JAX_PLATFORMS='cpu', XLA_FLAGS='', JAX_NUM_CPU_DEVICES='2')
  assert result.stdout.strip() == '3', result.stderr


@pytest.mark.slow
def test_an_unknown_path_is_refused_at_import():
  result = run_python('import xla_kernels', TRIX_KERNEL='bogus')
  assert result.returncode == 1
  assert result.stderr.strip().splitlines()[-1].startswith('ValueError: TRIX_KERNEL=bogus is not possible here; choose')


@pytest.mark.slow
@needs_kernels
def test_an_exported_program_runs_in_a_process_that_registers(tmp_path):
  pytest.importorskip('flatbuffers')
  packed = xla_kernels.pack(codes_MD)
  function = jax.jit(lambda x_ND: xla_kernels.ternary_matmul(x_ND, packed, scales_M))
  allowed = [jax.export.DisabledSafetyCheck.custom_call('trix_ternary_matmul')]
  exported = jax.export.export(function, disabled_checks=allowed)(jax.ShapeDtypeStruct(x_ND.shape, x_ND.dtype))
  (tmp_path / 'exported').write_bytes(exported.serialize())
  np.save(tmp_path / 'x.npy', x_ND)
  program = (
    'import sys, jax, numpy as np, xla_kernels\n'
    'assert xla_kernels.register()\n'
    'exported = jax.export.deserialize(open(sys.argv[1] + "/exported", "rb").read())\n'
    'np.save(sys.argv[1] + "/y.npy", exported.call(np.load(sys.argv[1] + "/x.npy")))'
  )
  result = run_python(program, str(tmp_path))
  assert result.returncode == 0, result.stderr
  np.testing.assert_array_equal(np.load(tmp_path / 'y.npy'), function(x_ND))
