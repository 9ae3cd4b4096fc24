"""Damaged artifacts: every one must be refused with one line that names a field, without a crash and without memory.

  python tests/artifact_fuzzing.py --mutations=100000

Writes a small model, damages the file in all the ways below, reads it each time, and counts what came of it. A file
that says the same as before (another blank in the padding of its header) may be read, and must then be the same model.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import resource
import struct
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from trix_jax.errors import InputError
from trix_jax.inference import artifact, weights
from trix_jax.nn import model_config, transformer

VOCABULARY = 'abc\né"\\'


def small_artifact(vocabulary: str = VOCABULARY, form: str = 'modern', **settings) -> artifact.Artifact:
  """A model of a few kilobytes."""
  model = model_config.parse_model(
    {
      'form': form,
      'layers': 1,
      'd_model': 16,
      'heads': 2,
      'context': 8,
      'dropout': 0.0,
      'd_ff': 32,
      'tiles': 2,
      'routing': 'learned',
      **settings,
    }
  )
  variables = transformer.TransformerLM(model, len(vocabulary)).init(
    {'params': jax.random.key(0), 'routing': jax.random.key(0)}, jnp.zeros((1, 1), jnp.int32)
  )
  config = weights.InferenceConfig(model, len(vocabulary))
  arrays = weights.pack(variables['params'], variables.get('routing', {}), config)
  return artifact.Artifact(config, vocabulary, jax.device_get(arrays), {'corpus': 'none', 'step': 3})


def split(content: bytes) -> tuple[dict, bytes]:
  """Header and arrays of a safetensors file."""
  length = struct.unpack('<Q', content[:8])[0]
  return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict, arrays: bytes) -> bytes:
  text = json.dumps(header).encode()
  return struct.pack('<Q', len(text)) + text + arrays


def flip_bytes(content, rng):
  damaged = bytearray(content)
  for position in rng.integers(0, len(content), rng.integers(1, 5)):
    damaged[position] ^= int(rng.integers(1, 256))
  return bytes(damaged)


def flip_bytes_of_the_header(content, rng):
  length = 8 + struct.unpack('<Q', content[:8])[0]
  return flip_bytes(content[:length], rng) + content[length:]


def truncate(content, rng):
  return content[: rng.integers(0, len(content))]


def append(content, rng):
  return content + rng.bytes(rng.integers(1, 100))


def cut_out(content, rng):
  start, end = np.sort(rng.integers(0, len(content), 2))
  return content[:start] + content[end + 1 :]


def hostile_length_of_the_header(content, rng):
  return struct.pack('<Q', int(rng.integers(0, 2**63)) >> int(rng.integers(0, 63))) + content[8:]


def some_array(header, rng):
  return header[rng.choice([name for name in header if name != '__metadata__'])]


HOSTILE_SIZES = (-1, 0, 1, 2**31, 2**40, 2**63, 2**64)


def other_shape(content, rng):
  header, arrays = split(content)
  entry = some_array(header, rng)
  how = rng.integers(4)
  if how == 0:
    entry['shape'][rng.integers(len(entry['shape']))] = int(rng.choice(HOSTILE_SIZES))
  elif how == 1:
    entry['shape'] = [int(np.prod(entry['shape'])), *[1] * len(entry['shape'])]
  elif how == 2:
    entry['shape'] = [int(rng.integers(0, 100)) for _ in range(rng.integers(0, 4))]
  else:
    entry['data_offsets'] = [int(rng.choice(HOSTILE_SIZES)) for _ in range(2)]
  return joined(header, arrays)


def other_dtype(content, rng):
  header, arrays = split(content)
  entry = some_array(header, rng)
  kinds = ['F64', 'F32', 'F16', 'BF16', 'I64', 'I32', 'I8', 'U8', 'BOOL', 'F8_E4M3', 'C64', 'X', '']
  entry['dtype'] = str(rng.choice([kind for kind in kinds if kind != entry['dtype']]))
  return joined(header, arrays)


def other_names(content, rng):
  header, arrays = split(content)
  name = str(rng.choice([name for name in header if name != '__metadata__']))
  entry = header.pop(name)
  if rng.integers(2):
    header[name + '.x' if rng.integers(2) else ''] = entry
  return joined(header, arrays)


def other_metadata(content, rng):
  header, arrays = split(content)
  metadata = header['__metadata__']
  name = str(rng.choice(list(metadata)))
  how = rng.integers(4)
  if how == 0:
    del metadata[name]
  elif how == 1:
    metadata[name] = str(rng.choice(['', '{}', '[]', 'null', '{"a":' * 2000, '1e999', '\x00', 'x' * 10**5]))
  elif how == 2:
    metadata[name] = metadata[name][: rng.integers(len(metadata[name]))]
  else:
    metadata['more'] = 'x'
  return joined(header, arrays)


def rewritten(content, rng, change) -> bytes:
  """The file with other arrays or another config, and digests that fit: damage that only a reader of values sees."""
  header, _ = split(content)
  arrays, metadata = safetensors.numpy.load(content), header['__metadata__']
  change(arrays, metadata, rng)
  digests = {name: artifact._sha256(metadata[name].encode()) for name in artifact.DESCRIBED}
  digests |= {name: artifact._sha256(array.tobytes()) for name, array in arrays.items()}
  return safetensors.numpy.save(arrays, {**metadata, 'sha256': json.dumps(digests)})


def codes_out_of_range(content, rng):
  def change(arrays, _, rng):
    array = arrays[rng.choice([name for name, array in arrays.items() if array.dtype == np.uint8])].reshape(-1)
    plane = int(rng.integers(4))
    position = rng.integers(array.size)
    array[position] = int(array[position]) & ~(3 << 2 * plane) & 255 | (2 if plane == 3 else 3) << 2 * plane

  return rewritten(content, rng, change)


def numbers_out_of_range(content, rng):
  def change(arrays, _, rng):
    array = arrays[rng.choice([name for name, array in arrays.items() if array.dtype != np.uint8])].reshape(-1)
    bad = -128 if array.dtype == np.int8 else float(rng.choice([np.nan, np.inf, -np.inf]))
    array[rng.integers(array.size)] = bad

  return rewritten(content, rng, change)


def other_config(content, rng):
  def change(_, metadata, rng):
    config = json.loads(metadata['config'])
    name = str(rng.choice(list(config)))
    values = [-1, 0, 2**31, 2**62, 10**30, 1.5, float('nan'), None, [], {}, '', 'x' * 1000, not config[name], True]
    config[name] = values[rng.integers(len(values))]
    if name == 'dropout' and config[name] in (0, False):  # What it is, or as good as that.
      config[name] = 2
    if type(config[name]) is bool and name in ('balance_bias', 'shared_down_scale', 'int8_activations'):
      config[name] = None  # Settings that could be so.
    metadata['config'] = json.dumps(config)

  return rewritten(content, rng, change)


def other_vocabulary(content, rng):
  def change(_, metadata, rng):
    metadata['vocabulary'] = str(rng.choice(['', 'a', VOCABULARY + 'a', VOCABULARY + 'z', 'aaaaaaa', 'x' * 10**5]))

  return rewritten(content, rng, change)


MUTATIONS = (
  flip_bytes,
  flip_bytes_of_the_header,
  truncate,
  append,
  cut_out,
  hostile_length_of_the_header,
  other_shape,
  other_dtype,
  other_names,
  other_metadata,
  codes_out_of_range,
  numbers_out_of_range,
  other_config,
  other_vocabulary,
)


def same(a: artifact.Artifact, b: artifact.Artifact) -> bool:
  return (
    dataclasses.astuple(a.config) == dataclasses.astuple(b.config)
    and a.vocabulary == b.vocabulary
    and a.provenance == b.provenance
    and all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)
  )


def fields(original: artifact.Artifact, content: bytes) -> set[str]:
  """What an error may name: parts of the file, settings of the config, and the arrays that it has or should have."""
  named = {'header', 'format', 'format_version', 'sha256', *artifact.DESCRIBED, *weights.layout(original.config)}
  named |= {f'config.{name}' for name in artifact._config_to_dict(original.config)}
  try:
    header, _ = split(content)
    return named | {artifact._shown(name)[1:-1] for name in (*header, *header.get('__metadata__', ()))}
  except (ValueError, TypeError, AttributeError, struct.error):
    return named


def fuzz(mutations: int, seed: int = 0, report=lambda count, outcomes: None) -> collections.Counter:
  """Outcomes by mutation: (name, `refused` or `the same model`); AssertionError for any other."""
  rng, outcomes = np.random.default_rng(seed), collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'model.safetensors'
    original = small_artifact()
    artifact.write(path, original)
    content = path.read_bytes()
    for count in range(mutations):
      mutate = MUTATIONS[count % len(MUTATIONS)]
      damaged = mutate(content, rng)
      path.write_bytes(damaged)
      try:
        read = artifact.read(path)
      except InputError as error:
        message = str(error).removeprefix(f'{path}: ')
        named = any(message.startswith(f'{field}: ') for field in fields(original, damaged))
        assert named and '\n' not in message and len(message) < 500, f'{mutate.__name__}: {message}'
        outcomes[mutate.__name__, 'refused'] += 1
      else:
        assert same(read, original), f'{mutate.__name__}, mutation {count} of seed {seed}: read as another model'
        outcomes[mutate.__name__, 'the same model'] += 1
      report(count + 1, outcomes)
  return outcomes


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--mutations', type=int, default=100_000)
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args()
  fuzz(len(MUTATIONS) * 10, arguments.seed)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

  def report(count, outcomes):
    if count % 10_000 == 0:
      refused = sum(number for (_, outcome), number in outcomes.items() if outcome == 'refused')
      print(f'{count:,} of {arguments.mutations:,}: {refused:,} refused', flush=True)

  outcomes = fuzz(arguments.mutations, arguments.seed, report)
  growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  for (name, outcome), count in sorted(outcomes.items()):
    print(f'{name:<32}{outcome:<16}{count:>8,}')
  print(f'peak memory grew by {growth / 1024:.1f} MiB')


if __name__ == '__main__':
  sys.exit(main())
