"""The example is the model of transformers, whose figures `examples/bitnet/make_figures.py` stored."""

import json
import pathlib
import shutil

import bitnet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import flax as safetensors

FOLDER = pathlib.Path(__file__).parent / 'data' / 'bitnet'


@pytest.fixture(scope='module')
def figures():
  return safetensors.load_file(FOLDER / 'figures.safetensors')


@pytest.fixture(scope='module')
def model():
  return bitnet.load(FOLDER, head='float32')


def test_each_layer_on_the_same_input(figures, model):
  config, weights = model
  B, L = figures['tokens'].shape
  apply = jax.jit(bitnet.apply_layer, static_argnums=0)
  for number, layer in enumerate(weights.layers):
    cache = bitnet.empty_cache(config, B, L, jnp.float32)
    x_BLD, y_BLD, _ = apply(
      config, layer, figures[f'layer_{number}.input'], None, cache.position_B, cache.layers[number]
    )
    want = figures[f'layer_{number}.output']
    np.testing.assert_allclose(x_BLD + y_BLD, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_logits_of_whole_texts(figures, model):
  config, weights = model
  B, L = figures['tokens'].shape
  cache = bitnet.empty_cache(config, B, L, jnp.float32)
  h_BLD, _ = jax.jit(bitnet.forward, static_argnums=0)(config, weights, figures['tokens'], cache)
  logits_NV = bitnet.logits(weights, h_BLD.reshape(B * L, -1))
  error_N = np.abs(logits_NV - figures['logits'].reshape(B * L, -1)).max(axis=-1)
  # Float noise may turn an int8 rounding, and then a token's logits differ more.
  assert np.mean(error_N < 1e-4) >= 0.99


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.int8])
def test_greedy_text(figures, model, dtype):
  length = figures['continued'].shape[1]
  got = bitnet.generate(*model, figures['tokens'], length, chunk=5, cache_dtype=dtype)
  same = np.mean(got == np.asarray(figures['continued']))
  assert same == 1 if dtype == jnp.float32 else same > 0.7


def edited(tmp_path, **settings):
  folder = tmp_path / 'model'
  shutil.copytree(FOLDER, folder)
  (folder / 'figures.safetensors').unlink()
  path = folder / 'config.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
  return folder


def test_latent_weights_are_ternarised_and_scales_may_divide(tmp_path, model):
  folder = edited(tmp_path, quantization_config={})
  arrays = safetensors.load_file(folder / 'model.safetensors')
  name = 'model.layers.0.mlp.down_proj'
  codes_MK = bitnet.unpack_codes(np.asarray(arrays[f'{name}.weight']))
  noise = np.random.default_rng(0).uniform(0.6, 1.4, codes_MK.shape)
  arrays[f'{name}.weight'] = jnp.asarray(codes_MK * noise, jnp.float32)
  safetensors.save_file(arrays, folder / 'model.safetensors')
  (_, given), (_, read) = model, bitnet.load(folder)
  for ours, want in ((read.layers[0].down, given.layers[0].down), (read.layers[1].qkv, given.layers[1].qkv)):
    np.testing.assert_array_equal(ours.packed.data, want.packed.data)
  np.testing.assert_allclose(read.layers[0].down.scale_M, np.abs(codes_MK * noise).mean(), rtol=1e-5)
  np.testing.assert_allclose(read.layers[1].qkv.scale_M, 1 / given.layers[1].qkv.scale_M, rtol=1e-5)


def test_an_int8_head_is_near_the_float_one(model):
  config, weights = model
  h_ND = np.random.default_rng(0).normal(size=(20, config.d_model)).astype(np.float32)
  want = bitnet.logits(weights, h_ND)
  got = bitnet.logits(bitnet.load(FOLDER)[1], h_ND)
  assert np.abs(got - want).max() < 0.02 * np.abs(want).max()


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'model_type': 'llama'}, 'not of model_type bitnet'),
    ({'hidden_act': 'silu'}, "hidden_act = 'silu'; this example computes 'relu2' only"),
    ({'tie_word_embeddings': False}, 'tie_word_embeddings = False'),
    ({'num_hidden_layers': 4}, 'no array is called model.layers.3.input_layernorm.weight'),
    ({'intermediate_size': 180}, r'gate_proj.weight has shape \[44, 64\], not \[45, 64\]'),
  ],
)
def test_files_of_another_model(tmp_path, settings, message):
  with pytest.raises(ValueError, match=message):
    bitnet.load(edited(tmp_path, **settings))


@pytest.mark.parametrize('prompt, length, message', [([[96]], 1, '0 to 95'), ([[1] * 60], 5, '64 tokens at most')])
def test_prompts_that_do_not_fit(model, prompt, length, message):
  with pytest.raises(ValueError, match=message):
    bitnet.generate(*model, prompt, length)
