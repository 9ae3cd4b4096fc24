"""Texts that suites train on, beyond the corpora of the library. A setting names one in braces: `'file': PATTERNS`."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from experiments.texts import king_james, patterns
from trix_jax.system import files


class Text(NamedTuple):
  """A text of `TEXTS`.

  Attributes:
    read: makes the text.
    sha256: returns the hash of its UTF-8 bytes, even where the text cannot be made.
    words: what the report calls it.
  """

  read: Callable[[], str]
  sha256: Callable[[], str]
  words: str


PATTERNS = '{patterns}'
KING_JAMES = '{king_james}'
TEXTS = {
  PATTERNS: Text(patterns.text, patterns.sha256, 'a text of six kinds of lines'),
  KING_JAMES: Text(king_james.text, lambda: king_james.SHA256, 'the King James Bible'),
}


def path_of(name: str, folder: pathlib.Path) -> pathlib.Path:
  """Return the file of a text in a folder of runs."""
  return folder / f'{name[1:-1]}.txt'


def write(name: str, folder: pathlib.Path) -> None:
  """Write a text into a folder of runs. Raise InputError where it cannot be made."""
  files.write_text(path_of(name, folder), TEXTS[name].read())
