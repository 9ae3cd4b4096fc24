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
  """Check before long work that a file can be written; raise InputError if not. An existing file stays unchanged."""
  try:
    partial = _partial(path)
    partial.touch()
    partial.unlink()
  except OSError as error:
    raise InputError(f'cannot write {path}: {error.strerror}; choose another file') from error


def follow_links(path: pathlib.Path) -> pathlib.Path:
  """Return the path that links lead to. `Path.resolve` fails where they go in a circle."""
  return pathlib.Path(os.path.realpath(path))


def is_inside(path: pathlib.Path, folder: pathlib.Path) -> bool:
  """Return whether a path is a folder or in it, whatever links lead there."""
  return follow_links(path).is_relative_to(follow_links(folder))


@contextlib.contextmanager
def hold_lock(path: pathlib.Path, in_use: InputError) -> Iterator[None]:
  """Hold the lock of a file, and create the file if it is missing.

  The system frees the lock when the process ends for any reason. A second holder is refused, even in the same process.

  Raises:
    InputError: when the file cannot be opened, or its file system has no locks; `in_use` when the lock is held.
  """
  try:
    path.open('a').close()
  except OSError as error:
    raise InputError(f'cannot write {path}: {error.strerror}; choose another folder') from error
  # A soft lock is a file that exists while the lock is held. It would outlive a killed process.
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
  """Replace a file. A reader sees the whole old file or the whole new one, even with several writers.

  A symbolic link stays a link; the file that it names is replaced.

  Raises:
    OSError: when the file cannot be written; no partial file remains. Also for a path that is no ordinary file, such as
      a folder or a device, which stays unchanged.
  """
  partial = _partial(path)
  try:
    partial.write_bytes(content)
    partial.replace(os.path.realpath(path))
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
    raise


def write_text(path: pathlib.Path, text: str) -> None:
  """Replace a file by UTF-8 text, as `write_whole` does."""
  write_whole(path, text.encode())


def _partial(path: pathlib.Path) -> pathlib.Path:
  """Return a temporary path beside the file that a path or link names. Raise OSError when that is no ordinary file."""
  if path.exists() and not path.is_file():
    raise FileExistsError(0, 'it is there and no ordinary file', str(path))
  path = pathlib.Path(os.path.realpath(path))
  return path.with_name(f'{path.name}.{os.getpid()}-{next(_count)}.partial')
