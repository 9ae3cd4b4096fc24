"""A text of six kinds of lines, after the original's six patterns, to see which tile answers which kind."""

import pathlib

import numpy as np

from trix_jax import files

KINDS = ('counting', 'letters', 'mirrored', 'repeated', 'brackets', 'words')
WORDS = ('tile', 'vote', 'sign', 'key', 'value', 'index', 'route', 'weight', 'token', 'score')
LINES, SEED = 12_000, 0


def text() -> str:
  """Lines of every kind in random order; each starts with its kind's number, so that a reader can tell them apart."""
  rng = np.random.default_rng(SEED)
  return ''.join(f'{kind}:{_line(KINDS[kind], rng)}\n' for kind in rng.integers(0, len(KINDS), LINES))


def _line(kind: str, rng: np.random.Generator) -> str:
  if kind == 'counting':
    start, step = rng.integers(0, 50), rng.integers(1, 5)
    return ' '.join(str(start + step * i) for i in range(8))
  if kind == 'letters':
    start = rng.integers(0, 16)
    return ' '.join(chr(ord('a') + (start + i) % 26) for i in range(12))
  if kind == 'mirrored':
    half = ''.join(rng.choice(list('abcdef'), 10))
    return half + half[::-1]
  if kind == 'repeated':
    return ''.join(rng.choice(list('xyz+-'), 4)) * 5
  if kind == 'brackets':
    depth = rng.integers(2, 10)
    return '(' * depth + '[' * depth + ']' * depth + ')' * depth
  return ' '.join(rng.choice(WORDS, 5))


def write(path: pathlib.Path) -> None:
  """The text as a file."""
  files.write_whole(path, text().encode())


def kinds_of(part: str) -> np.ndarray:
  """Index into `KINDS` of every character of a part of the text, -1 before its first whole line: int [N]."""
  kind_N = np.full(len(part), -1)
  position = part.find('\n') + 1
  for line in part[position:].splitlines(keepends=True):
    kind_N[position:position + len(line)] = int(line[0])
    position += len(line)
  return kind_N
