"""A file written once, on x86 with AVX-512, says the same everywhere. Runs under emulation too: JAX and Flax only."""

import json
import pathlib

import jax
import numpy as np

from trix_jax import inference
from trix_jax.inference import forward

FOLDER = pathlib.Path(__file__).parent / 'data'


def tiles_of(model: inference.LanguageModel, text: str) -> np.ndarray:
  """Tiles of every layer for the latest characters of a text, as many as a context holds, [layers, characters]."""
  token_BL = model.encode(text[-model.config.model.context :])[None]
  _, infos = forward.whole_text(model.computation, model.config, model.arrays, token_BL)
  return np.stack([np.asarray(info.tile_NK)[:, 0] for info in infos])


def test_a_file_of_another_machine_goes_to_the_same_tiles_and_writes_the_same_text():
  model = inference.load(FOLDER / 'golden.safetensors')
  said = json.loads((FOLDER / 'golden.json').read_text())
  # Greedy, so that only a tie of the best two characters, or a tile that differs, could change it.
  assert model.generate([said['prompt']], len(said['text']), temperature=0.0) == [said['text']]
  np.testing.assert_array_equal(tiles_of(model, said['prompt']), said['tiles'])
  assert len(np.unique(said['tiles'])) == model.config.model.ffn.tiles


def test_a_program_that_prefers_64_bits_gets_the_same_text():
  model = inference.load(FOLDER / 'golden.safetensors')
  texts = model.generate(['ROMEO:'], 20, seed=1)
  with jax.enable_x64(True):
    assert model.generate(['ROMEO:'], 20, seed=1) == texts
    assert inference.load(FOLDER / 'golden.safetensors').generate(['ROMEO:'], 20, seed=1) == texts
