"""Choose among the compiled kernels, and register them with XLA.

XLA's FFI has versions. A runtime accepts handlers of older headers and refuses those of newer headers. XLA checks the
handlers when its CPU backend starts, and one refused handler keeps the whole backend from starting. So importing this
package registers nothing. The first operation registers the handlers after the backend has started; then a refusal
disables the kernels only.
"""

import functools
import importlib
import logging
import os
import pathlib
import re
import threading
from typing import Any

import jax
import jaxlib

REFERENCE = 'reference'
VARIABLE = 'TRIX_KERNEL'
# This number counts changes of a handler's operands, results or attributes, here and in csrc/ffi/module.cc.
INTERFACE = 6
_WHAT_TO_DO = (
  'everything runs on the slower jnp reference. To have the kernels, install trix-jax again with a C++ compiler and '
  "Python's headers, or install a newer jax; see BUILD.md"
)


def _load() -> Any:
  """Import the extension. Return None, with one warning, if it is missing or this jaxlib would refuse its handlers."""
  try:
    module = importlib.import_module('xla_kernels._native')
    if getattr(module, 'interface', 1) != INTERFACE:
      raise ImportError('they were built from another version of the sources')
    built, installed = module.ffi_version, _ffi_version()
    if installed and not (built[0] == installed[0] and built[1] <= installed[1]):
      raise ImportError(
        f'they were built with version {built[0]}.{built[1]} of XLA FFI, and jaxlib {jaxlib.__version__} has '
        f'{installed[0]}.{installed[1]}'
      )
    return module
  except ImportError as error:
    _warn(error)
    return None


def _ffi_version() -> tuple[int, int] | None:
  """Read the version of XLA FFI from the headers that jaxlib ships. Return None if they cannot be read."""
  try:
    header = (pathlib.Path(jax.ffi.include_dir()) / 'xla/ffi/api/c_api.h').read_text()
  except (OSError, RuntimeError, UnicodeDecodeError):
    return None
  found = [re.search(rf'^#define XLA_FFI_API_{part} (\d+)$', header, re.MULTILINE) for part in ('MAJOR', 'MINOR')]
  return (int(found[0][1]), int(found[1][1])) if found[0] and found[1] else None


def _warn(reason: object) -> None:
  logging.getLogger('xla_kernels').warning('no native kernels (%s): %s', reason, _WHAT_TO_DO)


_native = _load()
_registering = threading.Lock()


def register() -> bool:
  """Register the kernels with XLA, once. Operations do so themselves.

  Call it before you run a program that `jax.export` wrote in another process. It starts JAX's CPU backend.

  Returns:
    Whether operations call native kernels on CPU.
  """
  with _registering:  # The first operations may come from several threads.
    return _register()


@functools.cache
def _register() -> bool:
  global _native
  if _native is None or _FORCED == REFERENCE:
    return False
  try:
    jax.local_devices(backend='cpu')
  except (RuntimeError, AssertionError):  # JAX_PLATFORMS excludes the CPU, so nothing will run there.
    return False
  try:
    for name, handler in _native.handlers().items():
      jax.ffi.register_ffi_target(name, handler, platform='cpu')
  except (RuntimeError, ValueError, TypeError) as error:
    _native = None
    _warn(' '.join(str(error).split()))
    return False
  return True


def available_paths() -> tuple[str, ...]:
  """List the paths that this CPU can run, best first; the last is `reference`, plain jnp."""
  return (*(_native.paths() if _native else ()), REFERENCE)


def active_path() -> str:
  """Name the path in use: the best, unless TRIX_KERNEL named another when this package was imported."""
  return _native.active_path() if _native is not None and _FORCED != REFERENCE else REFERENCE


def force(path: str) -> None:
  """Use a native path from now on, in compiled functions too.

  Raises:
    ValueError: when this CPU has no such path. Also for `reference`, which only TRIX_KERNEL can choose, at import.
  """
  native = [path for path in available_paths() if path != REFERENCE]
  if path not in native:
    raise ValueError(f'kernel path {path!r} is not possible here; choose one of {", ".join(native) or "none"}')
  _native.force_path(path)


_FORCED = os.environ.get(VARIABLE)
if _FORCED and _FORCED not in available_paths():
  raise ValueError(f'{VARIABLE}={_FORCED} is not possible here; choose one of {", ".join(available_paths())}')
if _FORCED and _FORCED != REFERENCE:
  force(_FORCED)
