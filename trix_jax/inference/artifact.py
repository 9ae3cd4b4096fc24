"""A packed model as one safetensors file: arrays, config, vocabulary and provenance, without code of any kind.

The arrays are those of `weights.layout`, in the bytes that every kernel reads. Files of format version 1 have the first
layout of packed codes, which the reader brings to the present one. The metadata is text: `format`, `format_version`,
`config` (JSON), `vocabulary`, `provenance` (JSON) and `sha256` (JSON). A model of bytes has `tokenizer` instead of
`vocabulary`. `sha256` covers every array, the config, the vocabulary and the provenance. The reader trusts nothing in a
file. It names and refuses every entry that is missing, superfluous, damaged or out of range, before it allocates memory
for it.
"""

import dataclasses
import hashlib
import json
import pathlib
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from trix_jax.core import routing
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.inference import weights
from trix_jax.inference.weights import Entry, InferenceConfig
from trix_jax.nn import model_config
from trix_jax.system import files
from xla_kernels import packing

FORMAT, FORMAT_VERSION = 'trix-jax', '2'
FIRST_VERSION = '1'
DESCRIBED = ('config', 'vocabulary', 'provenance')
MAX_CONTEXT = 1 << 16
# Training stays far below these limits, and products of scales overflow far above them.
MAX_FLOAT, MAX_BIAS = 2.0**16, 2.0**32
_DTYPES = {'float32': 'F32', 'int32': 'I32', 'int8': 'I8', 'uint8': 'U8', 'uint16': 'U16'}


@dataclasses.dataclass(frozen=True)
class Artifact:
  """The content of a file: NumPy arrays by name, and their description."""

  config: InferenceConfig
  vocabulary: str
  arrays: Mapping[str, np.ndarray]
  provenance: Mapping[str, Any]


def write(path: pathlib.Path, artifact: Artifact) -> None:
  """Write a file, whole or not at all. Raise InputError when the file cannot be written."""
  described = {
    'config': json.dumps(_config_to_dict(artifact.config), sort_keys=True),
    **({'tokenizer': 'byte'} if artifact.vocabulary == corpora.BYTES else {'vocabulary': artifact.vocabulary}),
    'provenance': json.dumps(dict(artifact.provenance), sort_keys=True),
  }
  arrays = {name: np.ascontiguousarray(artifact.arrays[name]) for name in weights.layout(artifact.config)}
  digests = {
    **{name: _sha256(text.encode()) for name, text in described.items()},
    **{name: _sha256(array.tobytes()) for name, array in arrays.items()},
  }
  metadata = {
    'format': FORMAT,
    'format_version': FORMAT_VERSION,
    **described,
    'sha256': json.dumps(digests, sort_keys=True),
  }
  try:
    files.write_whole(path, safetensors.numpy.save(arrays, metadata))
  except OSError as error:
    raise InputError(f'cannot write {path}: {error.strerror}; choose another file') from error


def read(path: pathlib.Path) -> Artifact:
  """Read a file and check all of it.

  Raises:
    InputError: when `write` did not write this file; the message names the wrong field.
  """
  try:
    if path.exists() and not path.is_file():  # Reading from a pipe would block for ever.
      raise OSError(0, 'it is no ordinary file')
    path.open('rb').close()  # Python explains an error of the file system better than safetensors.
  except (OSError, ValueError) as error:
    reason = error.strerror if isinstance(error, OSError) else error
    raise InputError(f'cannot read {path}: {reason}; give a file that trix export wrote') from error
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      return _read(file)
  except InputError as error:
    raise InputError(f'{path}: {error}; export the model again') from error
  # safetensors raises its own errors, and Python's for headers that are not text.
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise InputError(
      f'{path}: header: {" ".join(str(error).split())[:200]}; give a file that trix export wrote'
    ) from error


def _read(file) -> Artifact:
  metadata = file.metadata() or {}
  _require(metadata.get('format') == FORMAT, 'format', f'is {_shown(metadata.get("format"))}, not {FORMAT!r}')
  version = metadata.get('format_version')
  versions = (FIRST_VERSION, FORMAT_VERSION)
  _require(version in versions, 'format_version', f'is {_shown(version)}; this version reads {" and ".join(versions)}')
  names = set(file.keys())
  described = [name if name != 'vocabulary' or 'tokenizer' not in metadata else 'tokenizer' for name in DESCRIBED]
  extra = set(metadata) - {'format', 'format_version', 'sha256', *described}
  _require(not extra, min(extra, default=''), 'is not part of the metadata of this format')
  digests = _json(metadata, 'sha256')
  _require(set(digests) == names | set(described), 'sha256', 'does not name exactly what the file holds')
  for name in described:
    _require(name in metadata, name, 'is missing')
    _require(
      _sha256(metadata[name].encode('utf-8', 'surrogatepass')) == digests[name], name, 'is damaged: its sha256 differs'
    )

  tokenizer = metadata.get('tokenizer', 'byte')
  _require(tokenizer == 'byte', 'tokenizer', f"is {_shown(tokenizer)}; this version reads 'byte', or a vocabulary")
  vocabulary = metadata.get('vocabulary', corpora.BYTES)
  _require(0 < len(vocabulary) == len(set(vocabulary)), 'vocabulary', 'must be distinct characters, at least one')
  config = _config_from_dict(_json(metadata, 'config'), len(vocabulary), len(names))
  entries = weights.layout(config)
  if version == FIRST_VERSION:
    entries = {name: _first_entry(entry) for name, entry in entries.items()}
  for name in sorted(entries.keys() ^ names):
    _require(name in names, name, 'is missing')
    _require(name in entries, name, 'is no array of such a model')
  for name, entry in entries.items():  # Check all entries before reading the first.
    part = file.get_slice(name)
    _require(part.get_dtype() == _DTYPES[entry.dtype], name, f'is {part.get_dtype()}, not {_DTYPES[entry.dtype]}')
    _require(tuple(part.get_shape()) == entry.shape, name, f'has shape {part.get_shape()}, not {list(entry.shape)}')
  arrays = {}
  for name, entry in entries.items():
    arrays[name] = file.get_tensor(name)
    _require(_sha256(arrays[name].tobytes()) == digests[name], name, 'is damaged: its sha256 differs')
    _check_values(name, arrays[name], entry)
    if entry.matrix and version == FIRST_VERSION:
      arrays[name] = np.asarray(packing.repack(arrays[name], *entry.matrix))
  return Artifact(config, vocabulary, arrays, _json(metadata, 'provenance'))


def _first_entry(entry: Entry) -> Entry:
  """Return the entry of a file of format version 1."""
  if not entry.matrix:
    return entry
  bytes_ = packing.packed_bytes(*entry.matrix, packing.FIRST_MULTIPLE)
  return dataclasses.replace(entry, shape=(*entry.shape[:-1], bytes_))


def _check_values(name: str, array: np.ndarray, entry: Entry) -> None:
  if entry.dtype == 'float32':
    most = MAX_BIAS if 'bias' in name else MAX_FLOAT
    _require(bool((np.abs(array) <= most).all()), name, f'holds a value that is not finite or beyond {most:g}')
    if name.endswith('.address.gates'):
      _require(bool(((array >= 0) & (array <= 1)).all()), name, 'holds a gate that is not from 0 to 1')
  elif entry.dtype == 'uint16':
    _require(int(array.max(initial=0)) < entry.below, name, f'holds a number that is not below {entry.below}')
    ordered = np.sort(array, axis=-1)
    _require(not np.any(ordered[..., 1:] == ordered[..., :-1]), name, 'holds a number twice in one row')
  elif entry.dtype == 'int32':
    _require(
      np.array_equal(np.sort(array, axis=None), np.arange(array.size)),
      name,
      f'does not hold each number from 0 to {array.size - 1} once',
    )
  elif entry.dtype == 'int8':
    _require(not array.size or int(array.min()) >= -weights.INT8_MAX, name, 'holds -128; values are -127 to 127')
  else:
    # A code has two bits. The lower three planes have no code 3; the top plane has no code 2, which would mean -2.
    _require(not np.any(array & (array >> 1) & 0b010101), name, 'holds a code that is not -1, 0 or 1')
    _require(not np.any(array >> 6 == 2), name, 'holds a code that is not -1, 0 or 1')


def _config_to_dict(config: InferenceConfig) -> dict[str, Any]:
  return {**model_config.flatten_model(config.model), 'attention': config.attention, 'head': config.head}


def _config_from_dict(values: dict[str, Any], vocabulary_size: int, arrays: int) -> InferenceConfig:
  types: dict[str, type] = {'attention': str, 'head': str}
  for described in (model_config.ModelConfig, model_config.FFNConfig):
    types |= {name: hint for name, hint in typing.get_type_hints(described).items() if name != 'ffn'}
  values = {**model_config.model_values_before(), **values}
  for name in sorted(types.keys() ^ values.keys()):
    _require(name in values, f'config.{name}', 'is missing')
    _require(name in types, f'config.{name}', 'is no setting of this format')
  for name, kind in types.items():
    fits = type(values[name]) is kind or (kind is float and type(values[name]) is int)
    _require(fits, f'config.{name}', f'is {_shown(values[name])}, not of type {kind.__name__}')
    _require(
      kind is not str or len(values[name]) <= 40,
      f'config.{name}',
      f'is {_shown(values[name])}; no name of this format is so long',
    )
  _require(values['layers'] <= arrays, 'config.layers', f'is {values["layers"]}, more than the file has arrays')
  _require(values['context'] <= MAX_CONTEXT, 'config.context', f'is {values["context"]}, more than {MAX_CONTEXT}')
  attention, head = values.pop('attention'), values.pop('head')
  _require(attention and head, 'config', 'names no precision of attention or of the head')
  try:
    config = InferenceConfig(model_config.parse_model(values), vocabulary_size, attention, head)
  except InputError as error:
    raise InputError(f'config: {error}') from error
  name = config.model.ffn.routing
  _require(not routing.ROUTINGS[name].is_random, 'config.routing', f'is {name!r}, which a packed model cannot be')
  return config


def _json(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
  try:
    value = json.loads(metadata[name])
    if not isinstance(value, dict):
      raise ValueError('it is no object')
  except KeyError as error:
    raise InputError(f'{name}: is missing') from error
  except (ValueError, RecursionError) as error:
    raise InputError(f'{name}: is not the JSON it should be ({" ".join(str(error).split())[:100]})') from error
  return value


def _require(condition: bool, field: str, problem: str) -> None:
  if not condition:
    raise InputError(f'{_shown(field)[1:-1]}: {problem}')


def _shown(value: Any) -> str:
  """Show any value in one short line."""
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:77]}...'


def _sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()
