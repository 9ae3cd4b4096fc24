"""Files that are written whole or not at all."""

import contextlib
import fcntl
import itertools
import os
import pathlib
from collections.abc import Iterator

from trix_jax.errors import InputError

_count = itertools.count()


def check_writable(path: pathlib.Path) -> None:
  """Before long work, that its results can be written: InputError when not. What is there is not touched."""
  try:
    partial = _partial(path)
    partial.touch()
    partial.unlink()
  except OSError as error:
    raise InputError(f'cannot write {path}: {error.strerror}; choose another file') from error


@contextlib.contextmanager
def locked(path: pathlib.Path, in_use: InputError) -> Iterator[None]:
  """Hold the lock of a file, which is made where there is none.

  Raises:
    InputError: when it cannot be opened, or `in_use` when another program holds it.
  """
  try:
    lock = path.open('a')
  except OSError as error:
    raise InputError(f'cannot write {path}: {error.strerror}; choose another folder') from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise in_use from error
    yield


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Replace a file: a reader sees the old one or the new one, whoever else writes it at the same time.

  A symbolic link stays one, and the file that it names is replaced.

  Raises:
    OSError: when it cannot be written; then nothing is left behind. For what is there and no file, such as a folder or
      a device, which is left alone.
  """
  partial = _partial(path)
  try:
    partial.write_bytes(content)
    partial.replace(os.path.realpath(path))
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
    raise


def _partial(path: pathlib.Path) -> pathlib.Path:
  """A file of our own beside the one that a path, or a link, names; OSError where that is there and no file."""
  if path.exists() and not path.is_file():
    raise FileExistsError(0, 'it is there and no ordinary file', str(path))
  path = pathlib.Path(os.path.realpath(path))
  return path.with_name(f'{path.name}.{os.getpid()}-{next(_count)}.partial')
