"""Measure what an int8 cache of keys and values costs, beside a float32 one, for a packed model.

  python experiments/single/int8_cache.py --model=models/shakespeare.safetensors --out=results/int8_cache.json

Both compute the same packed weights on the whole validation split of the model's corpus, which must be one that has a
name. The program compares their losses, and counts the tokens that go to another tile. It takes a minute.
"""

import json
import pathlib

from trix_jax.system import host

if __name__ == '__main__':
  host.prepare_cpu()  # Call this before anything imports JAX.

import jax
import jax.numpy as jnp
from absl import flags

import xla_kernels
from trix_jax import inference
from trix_jax.cli import launcher
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.evaluation import evaluator
from trix_jax.inference import forward
from trix_jax.system import files

_MODEL = flags.DEFINE_string('model', None, 'File that trix export wrote.', required=True)
_OUT = flags.DEFINE_string('out', None, 'JSON file for the results.', required=True)


def main() -> None:
  files.check_writable(pathlib.Path(_OUT.value))
  model = inference.load(_MODEL.value)
  if model.config.attention == 'float32':
    raise InputError(f'{_MODEL.value}: has float32 attention, and so a float32 cache; give a model with int8 attention')
  said = model.provenance['corpus']
  corpus = corpora.load_corpus(said['name'])
  if corpus.sha256 != said['sha256']:
    raise InputError(f'corpus {said["name"]} is not the text that the model was trained on: its sha256 differs')
  backends = {dtype: make_backend(model, dtype) for dtype in (jnp.float32, jnp.int8)}
  losses = {
    dtype.dtype.name: evaluator.Evaluator(model.config.model, model.vocabulary, corpus.validation, backend)(
      model.arrays
    )
    for dtype, backend in backends.items()
  }
  row = {
    'model': pathlib.Path(_MODEL.value).name,
    'loss_float32': losses['float32']['loss'],
    'loss_int8': losses['int8']['loss'],
    'loss_difference': losses['int8']['loss'] - losses['float32']['loss'],
    'tile_disagreement': evaluator.tile_disagreement(
      model.config.model.context, corpus.validation, *((backend, model.arrays, {}) for backend in backends.values())
    ),
    'processor': host.processor(),
  }
  print(
    f'loss {row["loss_float32"]:.5f} with a float32 cache, {row["loss_int8"]:.5f} with int8: '
    f'{row["loss_difference"]:+.6f}; other tile {100 * max(row["tile_disagreement"]):.2f} % at most'
  )
  files.write_text(pathlib.Path(_OUT.value), json.dumps([row], indent=1) + '\n')


def make_backend(model: inference.LanguageModel, dtype: jax.typing.DTypeLike) -> evaluator.Backend:
  """Return the backend of a packed model with a cache of a dtype."""

  def empty(batch, heads, width, slots, _):
    return xla_kernels.empty_cache(batch, heads, width, slots, dtype)

  computation = forward.PACKED._replace(empty_key_values=empty)
  return evaluator.make_packed_backend(model.config, computation)


if __name__ == '__main__':
  launcher.run_main(main)
