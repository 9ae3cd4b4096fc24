"""A tile is found by the contextual stream, or by the token itself, which has one address in all contexts."""

import dataclasses

import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from tiers import fast_first

from trix_jax import inference
from trix_jax.core import layers
from trix_jax.errors import InputError
from trix_jax.evaluation.evaluator import evaluate_packed
from trix_jax.inference import artifact, forward, weights
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig, parse_model
from trix_jax.nn.transformer import TransformerLM

VOCABULARY = 'abcdefghijklmnopqrst'
V = len(VOCABULARY)


def model_of(**settings):
  """A model that finds its tiles by token, its parameters and routing state."""
  sizes = {'layers': 2, 'd_model': 32, 'heads': 2, 'context': 32, 'd_ff': 64, 'tiles': 8}
  model = TransformerLM(parse_model({**sizes, 'address': 'token', **settings}), V)
  params, state = jitted.init(model, jax.random.key(0))
  if model.config.ffn.balance_bias:
    bias_T = jnp.linspace(-2, 2, model.config.ffn.tiles)
    state = {name: {'ffn': {**of_layer['ffn'], 'balance_bias': bias_T}} for name, of_layer in state.items()}
  return model, params, state


@pytest.fixture(scope='module')
def token_BL():
  return jax.random.randint(jax.random.key(1), (2, 32), 0, V)


def addresses_of(info, token_BL):
  """Every token's tiles and gates in one layer, as sets over its contexts."""
  found: dict[int, set] = {}
  for token, tiles, gates in zip(np.ravel(token_BL).tolist(), info.tile_NK, info.gate_NK, strict=True):
    found.setdefault(token, set()).add((tuple(tiles.tolist()), tuple(np.round(gates, 5).tolist())))
  return found


def test_a_token_has_one_address_in_all_contexts_and_another_in_another_layer(token_BL):
  model, params, _ = model_of()
  _, infos = jax.jit(model.apply)({'params': params}, token_BL)
  found = [addresses_of(info, token_BL) for info in infos]
  assert all(len(addresses) == 1 for of_layer in found for addresses in of_layer.values())
  assert found[0] != found[1]
  stream = TransformerLM(
    dataclasses.replace(model.config, ffn=dataclasses.replace(model.config.ffn, address='stream')), V
  )
  _, infos = jax.jit(stream.apply)({'params': params}, token_BL)
  assert any(len(addresses) > 1 for addresses in addresses_of(infos[0], token_BL).values())


def test_signatures_score_the_embedding_and_tiles_compute_the_stream():
  config = FFNConfig(d_model=16, d_ff=32, tiles=4, address='token', gate='one_hot')
  layer = ffn.SparseTriXFFN(config)
  x, embedding = (jax.random.normal(jax.random.key(key), (50, 16)) for key in (0, 1))
  tokens = ffn.Tokens(jnp.arange(50), 50, layers.normalise_rms(embedding))
  params = layer.init(jax.random.key(2), x, tokens)
  y, info = layer.apply(params, x, tokens)
  by_stream = ffn.SparseTriXFFN(dataclasses.replace(config, address='stream'))
  np.testing.assert_array_equal(info.tile_NK, by_stream.apply(params, tokens.embedding)[1].tile_NK)
  tiles = ffn.quantise_tiles(params['params'], config)
  of_every_tile = ffn.compute_tile_outputs(x, tiles, config)
  np.testing.assert_allclose(y, of_every_tile[info.tile_NK[:, 0], jnp.arange(50)], rtol=1e-6, atol=1e-6)


def test_the_embedding_learns_from_the_gate(token_BL):
  def teach(address):
    model, params, _ = model_of(address=address)
    grads = jax.jit(jax.grad(lambda params: model.apply({'params': params}, token_BL)[1][0].gate_NK.sum()))(params)
    return grads['embedding']['embedding'], grads['layer_0']['attention']['out']['kernel']

  assert all(np.any(grad) for grad in teach('stream'))
  of_embedding, of_attention = teach('token')
  assert np.any(of_embedding) and not np.any(of_attention)


def test_a_layer_without_its_tokens_says_what_it_needs():
  layer = ffn.SparseTriXFFN(FFNConfig(d_model=16, d_ff=32, address='token'))
  with pytest.raises(InputError, match='give it `Tokens`'):
    layer.init(jax.random.key(0), jnp.ones((3, 16)))


@pytest.mark.parametrize('precision', ['int8', 'float32'])
@pytest.mark.parametrize(
  'settings',
  fast_first(
    [
      {'top_k': 2},
      {'top_k': 2, 'keep_ratio': 0.5},
      {'routing': 'learned'},
      {'gate': 'one_hot', 'form': 'reference'},
      {'clusters': 4, 'probes': 2, 'balance_bias': True},
      {'balance_bias': True, 'signature': 'sign'},
    ]
  ),
)
def test_a_packed_model_holds_the_addresses_of_training(settings, precision, token_BL):
  model, params, state = model_of(**settings)
  _, trained = jitted.forward(model, params, state, token_BL)
  config = weights.InferenceConfig(model.config, V, attention=precision, head=precision)
  arrays = weights.pack(params, state, config)
  _, packed = forward.whole_text(forward.PACKED, config, arrays, token_BL)
  as_trained = inference.as_trained(model, VOCABULARY, params, state)
  _, by_xla = forward.whole_text(forward.XLA, as_trained.config, as_trained.arrays, token_BL)
  for want, *others in zip(trained, packed, by_xla, strict=True):
    for got in others:
      np.testing.assert_array_equal(got.tile_NK, want.tile_NK)
      np.testing.assert_allclose(got.gate_NK, want.gate_NK, rtol=1e-5)


def test_routings_that_do_not_score_need_no_table(token_BL):
  model, params, state = model_of(routing='first', gate='one_hot')
  config = weights.InferenceConfig(model.config, V)
  assert not any('address' in name for name in weights.layout(config))
  _, infos = forward.whole_text(forward.PACKED, config, weights.pack(params, state, config), token_BL)
  assert not np.any(infos[0].tile_NK)


def test_a_model_with_a_gate_is_evaluated_by_signatures_with_addresses_of_their_own(token_BL):
  model, params, state = model_of(routing='learned', layers=1)
  config = weights.InferenceConfig(model.config, V, attention='float32', head='float32')
  xla = [{'routing': name, 'loss': 0.0} for name in ('learned', 'emergent')]
  rows = evaluate_packed(xla, config, VOCABULARY, np.ravel(token_BL), params, state)
  assert [row['tile_disagreement'] for row in rows] == [[0.0], [0.0]]
  assert rows[0]['tile_load'] != rows[1]['tile_load']


def test_addresses_travel_in_the_artifact_and_are_checked(tmp_path):
  model, params, state = model_of(top_k=2)
  config = weights.InferenceConfig(model.config, V)
  arrays = {name: np.asarray(array) for name, array in weights.pack(params, state, config).items()}
  path = tmp_path / 'model.safetensors'

  def write(**changed):
    artifact.write(path, artifact.Artifact(config, VOCABULARY, {**arrays, **changed}, {}))

  write()
  loaded = inference.load(path)
  name = 'layer_1.ffn.address.tiles'
  assert loaded.arrays[name].dtype == np.uint16 and loaded.arrays[name].shape == (V, 2)
  assert loaded.generate(['abc'], 5)
  beyond, twice = arrays[name].copy(), arrays[name].copy()
  beyond[3, 1], twice[3] = 8, 5
  for damaged, message in ((beyond, 'holds a number that is not below 8'), (twice, 'holds a number twice in one row')):
    write(**{name: damaged})
    with pytest.raises(InputError, match=f'{name}: {message}'):
      inference.load(path)
  name = 'layer_1.ffn.address.gates'
  for wrong in (-0.1, 1.5):
    write(**{name: np.full_like(arrays[name], wrong)})
    with pytest.raises(InputError, match=f'{name}: holds a gate that is not from 0 to 1'):
      inference.load(path)


def test_a_packed_model_says_how_many_tiles_its_addresses_can_name():
  tiles = weights.MOST_ADDRESSED + 1
  model = parse_model({'d_model': 32, 'heads': 2, 'd_ff': tiles, 'tiles': tiles, 'address': 'token'})
  with pytest.raises(InputError, match='at most 65536 tiles'):
    weights.InferenceConfig(model, V)
