"""The compiled kernels: registered with XLA where they were built, and the choice among them."""

import importlib
import logging
import os
from typing import Any

import jax

REFERENCE = 'reference'
VARIABLE = 'TRIX_KERNEL'
# Of the handlers, see csrc/module.cc: an extension that a newer source left behind would be called wrongly.
INTERFACE = 2


def _load() -> Any:
  """The extension module, its handlers registered with XLA; None, with one warning, where that is not possible."""
  try:
    module = importlib.import_module('xla_kernels._native')
    if getattr(module, 'interface', 1) != INTERFACE:
      raise ImportError('they were built from another version of the sources')
    for name, handler in module.handlers().items():
      jax.ffi.register_ffi_target(name, handler, platform='cpu')
    return module
  # XLA refuses handlers that were built for a version of its interface that it does not know.
  except (ImportError, jax.errors.JaxRuntimeError) as error:
    logging.getLogger('xla_kernels').warning(
      'no native kernels (%s): everything runs on the slower jnp reference. To have them, install again with a C++ '
      'compiler, the headers of Python and this version of JAX; see BUILD.md',
      error,
    )
    return None


_native = _load()


def available_paths() -> tuple[str, ...]:
  """What this CPU can run, best first; the last is `reference`, plain jnp."""
  return (*(_native.paths() if _native else ()), REFERENCE)


def active_path() -> str:
  """The path in use: the best, unless TRIX_KERNEL named another when this package was imported."""
  return _native.active_path() if enabled() else REFERENCE


def enabled() -> bool:
  """Whether operations call native kernels on CPU."""
  return _native is not None and _FORCED != REFERENCE


def force(path: str) -> None:
  """Use a native path from now on, in compiled functions too.

  Raises:
    ValueError: when there is no such path here. `reference` is none: it is chosen at import, by TRIX_KERNEL.
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
