"""Files that are written whole or not at all."""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Iterator

import filelock

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

  The system frees the lock when the process ends, however it ends. A second holder in the same process is refused like
  one in another.

  Raises:
    InputError: when the file cannot be opened, or its file system has no locks; `in_use` when the lock is held.
  """
  try:
    path.open('a').close()
  except OSError as error:
    raise InputError(f'cannot write {path}: {error.strerror}; choose another folder') from error
  # A soft lock, which is a file that is there or not, would outlive a killed process.
  lock = filelock.FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
  try:
    lock.acquire()
  except filelock.Timeout as error:
    raise in_use from error
  except OSError as error:
    raise InputError(
      f'cannot lock {path}: {error.strerror}; choose a folder on a file system that has locks, such as a local disk'
    ) from error
  try:
    yield
  finally:
    lock.release()


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
