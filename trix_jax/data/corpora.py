"""Corpora by name, their characters or bytes as tokens, and batches as a function of (seed, step)."""

import codecs
import dataclasses
import hashlib
import logging
import os
import pathlib
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import platformdirs

from trix_jax.errors import InputError
from trix_jax.system import files

CORPORA = ('tinyshakespeare', 'python_stdlib', 'file')
TOKENIZERS = ('char', 'byte')
# The vocabulary of `byte`: all bytes in their order, as characters. Python's surrogate escapes stand for the bytes
# beyond ASCII. No text has those, so this is never the vocabulary of a text's characters.
BYTES = bytes(range(256)).decode('ascii', 'surrogateescape')
TRAIN_FRACTION = 0.9

TINYSHAKESPEARE_URL = 'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt'
TINYSHAKESPEARE_SHA256 = '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed'
# Seconds to wait for an answer, or for the next part of it.
DOWNLOAD_TIMEOUT = 30

# These modules hold 1.5 times the text of TinyShakespeare. Every Python from 3.11 on has them.
STDLIB_MODULES = (
  'argparse',
  'ast',
  'base64',
  'bdb',
  'calendar',
  'cmd',
  'codecs',
  'configparser',
  'contextlib',
  'copy',
  'csv',
  'dataclasses',
  'difflib',
  'doctest',
  'enum',
  'fileinput',
  'fnmatch',
  'fractions',
  'functools',
  'getopt',
  'glob',
  'gzip',
  'heapq',
  'inspect',
  'ipaddress',
  'locale',
  'mimetypes',
  'os',
  'pdb',
  'pickle',
  'platform',
  'posixpath',
  'pprint',
  'queue',
  'random',
  'shlex',
  'shutil',
  'statistics',
  'string',
  'subprocess',
  'tempfile',
  'textwrap',
)


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A text as token arrays.

  Attributes:
    name: the name that `load_corpus` was given.
    vocabulary: the distinct characters of the text, sorted, or `BYTES`; a token is an index into it.
    train: first 90 % of the tokens, int32.
    validation: the last training token, then the rest of the text; so every validation token has a predecessor.
    sha256: of the UTF-8 text.
  """

  name: str
  vocabulary: str
  train: np.ndarray
  validation: np.ndarray
  sha256: str


def load_corpus(name: str, file: str = '', tokenizer: str = 'char') -> Corpus:
  """Load a corpus.

  Args:
    name: `tinyshakespeare`, `python_stdlib` or `file`. `tinyshakespeare` comes from `$TRIX_DATA_DIR`, else from a
      cache, else from a download into that cache; its hash is checked. `python_stdlib` is source text of the running
      Python's standard library.
    file: path of any UTF-8 text, for `file`.
    tokenizer: `char`, a token for each distinct character of the text; or `byte`, one for each byte of its UTF-8 form.

  Raises:
    InputError: for an unknown name, or a text that cannot be read or downloaded.
  """
  if name not in CORPORA:
    raise InputError(f'unknown corpus {name!r}; choose one of {", ".join(CORPORA)}')
  if tokenizer not in TOKENIZERS:
    raise InputError(f'unknown tokenizer {tokenizer!r}; choose one of {", ".join(TOKENIZERS)}')
  if (name == 'file') != bool(file):
    raise InputError(f'corpus {name!r} with file={file!r}; give a path with corpus "file", and only with it')
  if name == 'tinyshakespeare':
    text = _tinyshakespeare()
  elif name == 'python_stdlib':
    text = _python_stdlib()
  else:
    text = read_text(file)
  vocabulary = BYTES if tokenizer == 'byte' else ''.join(sorted(set(text)))
  tokens = encode(text, vocabulary)
  cut = int(len(tokens) * TRAIN_FRACTION)
  if cut < 2 or cut == len(tokens):
    raise InputError(
      f'corpus {file or name} holds {len(tokens)} characters; too few to split into training and '
      'validation text; give a longer one'
    )
  return Corpus(name, vocabulary, tokens[:cut], tokens[cut - 1 :], hashlib.sha256(text.encode()).hexdigest())


def read_text(file: str) -> str:
  """Read a whole UTF-8 file. Raise InputError when it is missing, empty or not UTF-8."""
  try:
    text = pathlib.Path(file).read_bytes().decode('utf-8-sig')  # A byte order mark is not text.
  except OSError as error:
    raise InputError(f'cannot read {file}: {error.strerror}; give the path of a UTF-8 text file') from error
  except UnicodeDecodeError as error:
    raise InputError(
      f'{file} is not UTF-8 text (byte {error.start}); convert it first, for example with iconv -t UTF-8'
    ) from error
  if not text:
    raise InputError(f'{file} is empty; give a file with text in it')
  return text


def encode(text: str, vocabulary: str) -> np.ndarray:
  """Turn text into int32 tokens. Raise InputError, which names them, for characters that the vocabulary lacks."""
  if vocabulary == BYTES:
    try:
      return np.frombuffer(text.encode('utf-8', 'surrogateescape'), np.uint8).astype(np.int32)
    except UnicodeEncodeError as error:
      raise InputError(f'{text[error.start]!r} is no character of a text; leave it out') from error
  unknown = sorted(set(text) - set(vocabulary))
  if unknown:
    shown = ' '.join(repr(character) for character in unknown[:10])
    raise InputError(
      f'the text has {len(unknown)} character(s) the model has never seen: {shown}'
      f'{" ..." if len(unknown) > 10 else ""}; leave them out'
    )
  table = {character: token for token, character in enumerate(vocabulary)}
  return np.fromiter((table[character] for character in text), np.int32, len(text))


def decode(tokens, vocabulary: str) -> str:
  """Turn tokens into text. Bytes that are no UTF-8 become U+FFFD. Raise InputError for a token out of range."""
  return make_decoder(vocabulary)(tokens, True)


def make_decoder(vocabulary: str) -> Callable[[Sequence[int] | np.ndarray, bool], str]:
  """Make a function that turns the next tokens of a text into characters.

  Its second argument says whether they are the last. It keeps the bytes of an unfinished character until then.
  """
  if vocabulary == BYTES:
    bytes_decoder = codecs.getincrementaldecoder('utf-8')('replace')
    return lambda tokens, last: bytes_decoder.decode(
      _look_up(tokens, vocabulary).encode('ascii', 'surrogateescape'), last
    )
  return lambda tokens, _: _look_up(tokens, vocabulary)


def name_unit(vocabulary: str) -> str:
  """Return what tokens are, for messages: `characters` or `bytes`."""
  return 'bytes' if vocabulary == BYTES else 'characters'


def quote(symbol: str) -> str:
  r"""Return a symbol of a vocabulary in quotes, for people. A byte beyond ASCII has its number, such as '\xc3'."""
  if '\udc80' <= symbol <= '\udcff':
    return repr(symbol.encode('ascii', 'surrogateescape'))[1:]
  return repr(symbol)


def _look_up(tokens, vocabulary):
  tokens = np.asarray(tokens)
  if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(vocabulary):
    raise InputError(f'tokens go from {tokens.min()} to {tokens.max()}; the vocabulary has 0 to {len(vocabulary) - 1}')
  return ''.join(vocabulary[token] for token in tokens)


def draw_batch(tokens: np.ndarray, context: int, batch_size: int, seed: int, step: int) -> np.ndarray:
  """Return the windows of one step, [batch_size, context + 1]: a pure function of its arguments.

  An epoch is a random permutation of non-overlapping windows that start at a random offset. So windows differ between
  epochs, and the model predicts every character equally often. The exception is the two ends of the text: some offsets
  leave out characters there, in all fewer than two windows hold.
  """
  check_context(tokens, context, 'training')
  windows = max(1, (len(tokens) - context) // context)
  slack = len(tokens) - 1 - windows * context
  index = np.arange(step * batch_size, (step + 1) * batch_size)
  starts = np.empty(batch_size, np.int64)
  for epoch in np.unique(index // windows):
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    offset = generator.integers(0, slack + 1)
    order = generator.permutation(windows)
    here = index // windows == epoch
    starts[here] = order[index[here] % windows] * context + offset
  return tokens[starts[:, None] + np.arange(context + 1)]


def cut_windows(tokens: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
  """Cut a split into non-overlapping windows in which every token after the first is a target exactly once.

  Returns:
    windows [W, context + 1] int32, the last one padded with 0, and the number of true targets in each, [W].
  """
  if len(tokens) < 2:
    raise InputError(f'{len(tokens)} character(s) leave nothing to predict; give a longer text')
  targets = len(tokens) - 1
  count = -(-targets // context)
  padded = np.zeros(count * context + 1, tokens.dtype)
  padded[: len(tokens)] = tokens
  windows = padded[np.arange(count)[:, None] * context + np.arange(context + 1)]
  return windows, np.minimum(context, targets - np.arange(count) * context)


def batches(size: int, *arrays: np.ndarray) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
  """Yield arrays of one length in parts of `size`, the last padded with 0, each with its start index."""
  for start in range(0, len(arrays[0]), size):
    parts = [array[start : start + size] for array in arrays]
    yield start, tuple(np.pad(part, [(0, size - len(part))] + [(0, 0)] * (part.ndim - 1)) for part in parts)


def check_context(tokens: np.ndarray, context: int, split: str) -> None:
  """Raise InputError unless at least one window of `context` predictions fits into the split."""
  if len(tokens) < context + 1:
    raise InputError(
      f'model.context = {context} needs at least {context + 1} characters of {split} text, and there '
      f'are {len(tokens)}; choose a shorter context or a longer text'
    )


def _tinyshakespeare() -> str:
  if directory := os.environ.get('TRIX_DATA_DIR'):
    path = pathlib.Path(directory) / 'tinyshakespeare' / 'input.txt'
    if not path.is_file():
      raise InputError(f'TRIX_DATA_DIR is set, but there is no {path}; put the corpus there or unset TRIX_DATA_DIR')
  else:
    path = platformdirs.user_cache_path('trix_jax', appauthor=False) / 'tinyshakespeare' / 'input.txt'
    if not path.is_file():
      _download(TINYSHAKESPEARE_URL, path)
  try:
    content = path.read_bytes()
  except OSError as error:
    raise InputError(f'cannot read {path}: {error.strerror}') from error
  if hashlib.sha256(content).hexdigest() != TINYSHAKESPEARE_SHA256:
    raise InputError(f'{path} is not the TinyShakespeare text (its sha256 differs); delete it and run again')
  return content.decode('utf-8')


def _download(url: str, path: pathlib.Path) -> None:
  """Download a text into a file. Raise InputError when the download, its hash check or the writing fails."""
  import pooch  # Imported only here, because it imports slowly and most programs download nothing.

  logger = pooch.get_logger()
  level = logger.level
  logger.setLevel(logging.WARNING)  # Lower levels print the name of the temporary file.
  try:
    # Download into an empty folder, so that pooch replaces nothing. Only the owner could read a file that pooch makes.
    with tempfile.TemporaryDirectory() as folder:
      # Download in one piece: when a part fails to come, pooch leaves the connection open.
      downloader = pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT, stream=False)
      file = pooch.retrieve(url, f'sha256:{TINYSHAKESPEARE_SHA256}', path.name, folder, downloader=downloader)
      content = pathlib.Path(file).read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, content)
  except (OSError, ValueError) as error:
    reason = error if isinstance(error, OSError) else 'what came is another text'
    raise InputError(
      f'cannot download TinyShakespeare from {url} ({reason}); put the text at {path}, or set '
      'TRIX_DATA_DIR to a folder that holds tinyshakespeare/input.txt, or train on '
      '--config.corpus=python_stdlib'
    ) from error
  finally:
    logger.setLevel(level)


def _python_stdlib() -> str:
  folder = pathlib.Path(sysconfig.get_paths()['stdlib'])
  texts = []
  for module in STDLIB_MODULES:
    path = folder / f'{module}.py'
    if not path.is_file():
      path = folder / module / '__init__.py'
    if path.is_file():
      texts.append(path.read_text(encoding='utf-8'))
  # A few docstrings hold a non-ASCII character, which would enlarge the vocabulary.
  text = ''.join(texts).encode('ascii', 'ignore').decode('ascii')
  if not text:
    raise InputError(
      f'this Python ships without the source of its standard library (looked in {folder}); '
      'train on another corpus, for example --config.corpus=file --config.file=TEXT'
    )
  return text
