"""The compiled kernels: registered with XLA where they were built, and the choice among them."""

import logging
import os

import jax

REFERENCE = 'reference'
VARIABLE = 'TRIX_KERNEL'

try:
  from xla_kernels import _native  # type: ignore[attr-defined]
except ImportError as error:
  _native = None
  logging.getLogger('xla_kernels').warning(
      'the native kernels cannot be loaded (%s); everything runs on the slower jnp reference. Reinstall with a C++ '
      'compiler and the headers of Python to have them', error)


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


def _register() -> None:
  if _native is not None:
    for name, handler in _native.handlers().items():
      jax.ffi.register_ffi_target(name, handler, platform='cpu')
  if VARIABLE in os.environ:
    try:
      force(os.environ[VARIABLE])
    except ValueError as error:
      raise ValueError(f'{VARIABLE}: {error}') from None


_register()
