"""Make a text of six kinds of lines, after the original's six patterns, to see which tile answers which kind."""

import functools
import hashlib

import numpy as np

KINDS = ('counting', 'letters', 'mirrored', 'repeated', 'brackets', 'words')
WORDS = ('tile', 'vote', 'sign', 'key', 'value', 'index', 'route', 'weight', 'token', 'score')
LINES, SEED = 12_000, 0


def text() -> str:
  """Return lines of every kind in random order."""
  return ''.join(line for _, line in _lines())


@functools.cache
def _lines() -> list[tuple[int, str]]:
  rng = np.random.default_rng(SEED)
  return [(int(kind), _line(KINDS[kind], rng) + '\n') for kind in rng.integers(0, len(KINDS), LINES)]


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


def sha256() -> str:
  """Return the hash of the text."""
  return hashlib.sha256(text().encode()).hexdigest()


def kinds() -> np.ndarray:
  """Return the index into `KINDS` of every character of the text: int [N]."""
  return np.repeat([kind for kind, _ in _lines()], [len(line) for _, line in _lines()])
