"""One file for a model: what is read is what was written, and anything else is refused by name."""

import dataclasses
import json

import artifact_fuzzing
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from artifact_fuzzing import joined, rewritten, small_artifact, split
from tiers import slow

from trix_jax import inference
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.inference import artifact, forward, weights
from xla_kernels import packing


@pytest.mark.parametrize(
  'settings',
  [
    {},
    *slow(
      {'balance_bias': True, 'tiles': 4, 'clusters': 2, 'routing': 'emergent'},
      {'form': 'reference', 'signature': 'sign', 'routing': 'emergent'},
      {'balance_bias': True, 'tiles': 4, 'top_k': 2},
    ),
  ],
)
def test_what_is_read_is_what_was_written(tmp_path, settings):
  written = small_artifact(**settings)
  path = tmp_path / 'model.safetensors'
  artifact.write(path, written)
  read = artifact.read(path)
  assert (read.config, read.vocabulary, read.provenance) == (written.config, written.vocabulary, written.provenance)
  assert read.arrays.keys() == written.arrays.keys() == weights.layout(written.config).keys()
  for name, array in written.arrays.items():
    assert read.arrays[name].dtype == array.dtype
    np.testing.assert_array_equal(read.arrays[name], array)
  assert not list(tmp_path.glob('*.partial'))


def test_a_loaded_model_computes_the_same_bits(tmp_path):
  saved = small_artifact()
  arrays = {name: jnp.asarray(array) for name, array in saved.arrays.items()}
  model = inference.LanguageModel(saved.config, saved.vocabulary, arrays, forward.PACKED, {'why': 'a test'})
  inference.save(model, tmp_path / 'model.safetensors')
  loaded = inference.load(tmp_path / 'model.safetensors')
  tokens = np.arange(6)[None]
  np.testing.assert_array_equal(loaded.logits(tokens), model.logits(tokens))
  assert loaded.generate(['abc'], 30) == model.generate(['abc'], 30)
  assert loaded.provenance == {'why': 'a test'}


def test_a_model_of_bytes_is_read_back(tmp_path):
  saved = small_artifact(corpora.BYTES)
  path = tmp_path / 'model.safetensors'
  artifact.write(path, saved)
  assert artifact.read(path).vocabulary == corpora.BYTES
  loaded = inference.load(path)
  np.testing.assert_array_equal(loaded.encode('é'), [0xC3, 0xA9])
  (text,) = loaded.generate(['é'], 30, temperature=5.0)
  assert '\ufffd' in text and text.encode('utf-8')  # No surrogate is left.
  content = path.read_bytes()

  def other(header):
    metadata = header['__metadata__']
    metadata['tokenizer'] = 'word'
    digests = {**json.loads(metadata['sha256']), 'tokenizer': artifact._sha256(b'word')}
    metadata['sha256'] = json.dumps(digests)

  path.write_bytes(edited(content, other))
  with pytest.raises(InputError, match="tokenizer: is 'word'; this version reads 'byte'"):
    artifact.read(path)
  path.write_bytes(edited(content, lambda header: header['__metadata__'].update(vocabulary='ab')))
  with pytest.raises(InputError, match='vocabulary: is not part of the metadata'):
    artifact.read(path)


def test_a_file_of_version_1_is_read(tmp_path):
  """Its tiles of four units have 16 rows and columns."""
  written = small_artifact(tiles=8)
  path = tmp_path / 'model.safetensors'
  artifact.write(path, written)

  def change(arrays, metadata, _):
    metadata['format_version'] = '1'
    for name, entry in weights.layout(written.config).items():
      if entry.matrix:
        codes = packing.unpack(packing.PackedTernary(arrays[name], *entry.matrix))
        arrays[name] = np.asarray(packing._pack(codes, packing.FIRST_MULTIPLE))
        assert arrays[name].shape == (8, 16 * 16 // 4) != entry.shape

  path.write_bytes(rewritten(path.read_bytes(), None, change))
  for name, array in artifact.read(path).arrays.items():
    np.testing.assert_array_equal(array, written.arrays[name])


def test_other_programs_can_read_it(tmp_path):
  """The file is plain safetensors: weights at two bits, and a description in JSON."""
  path = tmp_path / 'model.safetensors'
  written = small_artifact()
  artifact.write(path, written)
  content = path.read_bytes()
  arrays, metadata = safetensors.numpy.load(content), split(content)[0]['__metadata__']
  T, D, H = 2, 16, 16
  assert arrays['layer_0.ffn.up'].nbytes == arrays['layer_0.ffn.down'].nbytes == T * D * H // 4
  assert json.loads(metadata['config'])['d_model'] == 16 and metadata['vocabulary'] == artifact_fuzzing.VOCABULARY
  assert b'pickle' not in content


@pytest.fixture(scope='module')
def content(tmp_path_factory):
  path = tmp_path_factory.mktemp('artifact') / 'model.safetensors'
  artifact.write(path, small_artifact())
  return path.read_bytes()


def edited(content, change):
  header, arrays = split(content)
  change(header)
  return joined(header, arrays)


def reconfigured(content, **settings):
  def change(_, metadata, rng):
    metadata['config'] = json.dumps({**json.loads(metadata['config']), **settings})

  return rewritten(content, None, change)


def with_array(content, name, function):
  def change(arrays, _, rng):
    arrays[name] = function(arrays[name])

  return rewritten(content, None, change)


UP = 'layer_0.ffn.up'


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda c: c[:100], 'header: '),
    (lambda c: b'', 'header: '),
    (lambda c: c[:-1], 'header: '),
    (lambda c: b'PK' + c, 'header: '),
    (lambda c: c[:-1] + bytes([c[-1] ^ 1]), 'is damaged: its sha256 differs'),
    (lambda c: edited(c, lambda h: h.pop('__metadata__')), 'format: is None'),
    (lambda c: edited(c, lambda h: h['__metadata__'].update(format_version='3')), "format_version: is '3'; .* 1 and 2"),
    (lambda c: edited(c, lambda h: h['__metadata__'].pop('vocabulary')), 'vocabulary: is missing'),
    (lambda c: edited(c, lambda h: h['__metadata__'].update(config='{')), 'config: is damaged'),
    (lambda c: edited(c, lambda h: h['__metadata__'].update(sha256='[]')), 'sha256: is not the JSON'),
    (lambda c: reconfigured(c, layers=2), 'layer_1.attention.out.scale: is missing'),
    (lambda c: reconfigured(c, layers=10**12), 'config.layers: is 1000000000000, more than'),
    (lambda c: reconfigured(c, context=10**9), 'config.context: is 1000000000, more than'),
    (lambda c: reconfigured(c, d_model=2**60), 'has shape'),
    (lambda c: reconfigured(c, d_model='16'), "config.d_model: is '16', not of type int"),
    (lambda c: reconfigured(c, tiles=3), 'config: model.tiles = 3 does not divide'),
    (lambda c: reconfigured(c, attention='int4'), 'config: attention precision'),
    (lambda c: reconfigured(c, speed=3), 'config.speed: is no setting'),
    (lambda c: reconfigured(c, routing='random'), "config.routing: is 'random'"),
    (
      lambda c: rewritten(c, None, lambda arrays, *_: arrays.update(extra=arrays[UP])),
      'extra: is no array of such a model',
    ),
    (lambda c: with_array(c, UP, lambda a: a[:1]), rf'{UP}: has shape \[1, 64\], not \[2, 64\]'),
    (lambda c: with_array(c, UP, lambda a: a.astype(np.int8)), f'{UP}: is I8, not U8'),
    (lambda c: with_array(c, UP, lambda a: a | 3), f'{UP}: holds a code that is not -1, 0 or 1'),
    (lambda c: with_array(c, UP, lambda a: a & 63 | 128), f'{UP}: holds a code that is not -1, 0 or 1'),
    (lambda c: with_array(c, 'head.weights', lambda a: np.full_like(a, -128)), 'head.weights: holds -128'),
    (lambda c: with_array(c, 'head.scale', lambda a: a * np.nan), 'head.scale: holds a value that is not finite'),
    (lambda c: with_array(c, 'head.scale', lambda a: a * 0 + 1e30), 'head.scale: holds a value .* beyond 65536'),
  ],
)
def test_damage_is_named(tmp_path, content, damage, message):
  path = tmp_path / 'model.safetensors'
  path.write_bytes(damage(content))
  with pytest.raises(InputError, match=message) as error:
    inference.load(path)
  assert str(path) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.slow
def test_an_index_that_is_none_is_named(tmp_path):
  path = tmp_path / 'model.safetensors'
  artifact.write(path, small_artifact(tiles=4, clusters=2, routing='emergent'))
  content, name = path.read_bytes(), 'layer_0.ffn.members'
  for change in (lambda a: a + 1, lambda a: a - 1, lambda a: a // 2, lambda a: a * 2**30):
    path.write_bytes(with_array(content, name, change))
    with pytest.raises(InputError, match=f'{name}: does not hold each number from 0 to 3 once'):
      inference.load(path)


def test_damage_of_every_kind_is_refused():
  outcomes = artifact_fuzzing.fuzz(len(artifact_fuzzing.MUTATIONS) * 40)
  refused = {name: count for (name, outcome), count in outcomes.items() if outcome == 'refused'}
  # Each kind of damage; in the header one byte in a thousand may stand for the same.
  assert all(refused[mutate.__name__] >= 38 for mutate in artifact_fuzzing.MUTATIONS)


def test_files_that_cannot_be_read_or_written(tmp_path):
  for path in (tmp_path / 'nothing', tmp_path):
    with pytest.raises(InputError, match='cannot read'):
      inference.load(path)
  with pytest.raises(InputError, match='cannot write'):
    artifact.write(tmp_path / 'no' / 'folder', small_artifact())


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
  path = tmp_path / 'model.safetensors'
  artifact.write(path, small_artifact())
  before = path.read_bytes()

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('pathlib.Path.write_bytes', full)
  with pytest.raises(InputError, match='No space left'):
    artifact.write(path, dataclasses.replace(small_artifact(), provenance={'other': 1}))
  assert path.read_bytes() == before
