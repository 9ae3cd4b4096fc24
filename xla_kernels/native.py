"""The compiled kernels: registered with XLA where they were built, and the choice among them."""

import importlib
import logging
import os
from typing import Any

import jax

REFERENCE = 'reference'
VARIABLE = 'TRIX_KERNEL'


def _load() -> Any:
  """The extension module, its handlers registered with XLA; None, with one warning, where that is not possible."""
  try:
    module = importlib.import_module('xla_kernels._native')
    for name, handler in module.handlers().items():
      jax.ffi.register_ffi_target(name, handler, platform='cpu')
    return module
  # XLA refuses handlers that were built for a version of its interface that it does not know.
  except (ImportError, jax.errors.JaxRuntimeError) as error:
    logging.getLogger('xla_kernels').warning(
        'no native kernels (%s): everything runs on the slower jnp reference. To have them, install again with a C++ '
        'compiler, the headers of Python and this version of JAX; see BUILD.md', error)
    return None


_native = _load()


def available_paths() -> tuple[str, ...]:
  """What this CPU can run, best first; the last is `reference`, plain jnp."""
  return (*(_native.paths() if _native else ()), REFERENCE)


def active_path() -> str:
  """The path in use: the best, unless TRIX_KERNEL names another."""
  return _native.active_path() if enabled() else REFERENCE


def enabled() -> bool:
  """Whether there are native kernels to call on CPU."""
  return _native is not None and os.environ.get(VARIABLE) != REFERENCE


def force(path: str) -> None:
  """Use a native path from now on, in compiled functions too.

  Raises:
    ValueError: when there is no such path here.
  """
  if path not in available_paths():
    raise ValueError(f'kernel path {path!r} is not possible here; choose one of {", ".join(available_paths())}')
  if path != REFERENCE:
    _native.force_path(path)


if VARIABLE in os.environ:
  try:
    force(os.environ[VARIABLE])
  except ValueError as error:
    raise ValueError(f'{VARIABLE}: {error}') from None
