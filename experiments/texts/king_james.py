"""The King James Bible, a line a verse without its number: 4,137,850 characters, 63 of them distinct.

The text is that of Debian's package `bible-kjv`, version 4.38. Nobody tuned a setting of this project on it.
"""

import functools
import hashlib
import shutil
import subprocess

from trix_jax.errors import InputError

PROGRAM = 'bible'
FIRST_TO_LAST = 'Gen1:1-Rev22:21'
SHA256 = 'b5c4940bcfeee072c0935b5200d0f9d88a00a0199cb0961d16133458fcdfae5d'


@functools.cache
def text() -> str:
  """Return the text. Raise InputError without the program that holds it, or for another text."""
  if not shutil.which(PROGRAM):
    raise InputError(f'the text comes from the program {PROGRAM!r}: apt-get install bible-kjv')
  printed = subprocess.run([PROGRAM, '-f', FIRST_TO_LAST], check=True, capture_output=True, text=True).stdout
  found = strip_numbers(printed)
  if hashlib.sha256(found.encode()).hexdigest() != SHA256:
    raise InputError(f'{PROGRAM!r} prints another text than that of bible-kjv 4.38; install that version')
  return found


def strip_numbers(verses: str) -> str:
  """Return lines such as `Ge1:1 In the beginning` without their first word."""
  return ''.join(line.split(' ', 1)[1] + '\n' for line in verses.splitlines())
