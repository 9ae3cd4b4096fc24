"""Files that are written whole or not at all."""

import contextlib
import itertools
import os
import pathlib

_count = itertools.count()


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Replace a file: a reader sees the old one or the new one, whoever else writes it at the same time.

  A symbolic link stays one, and the file that it names is replaced.

  Raises:
    OSError: when it cannot be written; then nothing is left behind. For what is there and no file, such as a folder or
      a device, which is left alone.
  """
  if path.exists() and not path.is_file():
    raise FileExistsError(0, 'it is there and no ordinary file', str(path))
  path = pathlib.Path(os.path.realpath(path))
  partial = path.with_name(f'{path.name}.{os.getpid()}-{next(_count)}.partial')
  try:
    partial.write_bytes(content)
    partial.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
    raise
