"""A dense model carved into tiles is the same model where all are kept, and routes itself where few are."""

import dataclasses

import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from tiers import fast_first
from uneven import make_scales_uneven

from trix_jax.core import tile_index
from trix_jax.editing import carving, latent_weights
from trix_jax.errors import InputError
from trix_jax.nn import ffn
from trix_jax.nn.cost import count_products
from trix_jax.nn.model_config import FFNConfig, parse_model
from trix_jax.nn.transformer import TransformerLM

V = 20
DENSE = {'layers': 2, 'd_model': 32, 'heads': 2, 'context': 32, 'd_ff': 64, 'routing': 'dense', 'gate': 'one_hot'}


def dense_model(**settings):
  """The config of a dense model and its parameters, with scales of outputs as different as trained ones."""
  config = parse_model({**DENSE, **settings})
  params, _ = jitted.init(TransformerLM(config, V), jax.random.key(0))
  make_scales_uneven(params)
  return config, params


@pytest.fixture(scope='module')
def token_BL():
  return jax.random.randint(jax.random.key(1), (2, 32), 0, V)


def logits(config, params, token_BL):
  return jax.jit(TransformerLM(config, V).apply)({'params': params}, token_BL)[0]


def rows_of(params, config):
  """The codes of all hidden units, in and out, in an order of their own."""
  tiles = ffn.quantise_tiles(params, config)
  codes = np.concatenate([tiles.up_TDH.transpose(0, 2, 1), tiles.down_THD], axis=-1).reshape(config.d_ff, -1)
  return sorted(map(bytes, codes.astype(np.int8)))


@pytest.mark.parametrize(
  'settings',
  fast_first(
    [
      {'tiles': 4, 'shared_down_scale': True},
      {'tiles': 1},
      {'tiles': 1, 'activation': 'relu', 'form': 'reference'},
      {'tiles': 4, 'shared_down_scale': True, 'quantiser': 'threshold'},
    ]
  ),
)
@pytest.mark.parametrize('tiles', [16])
def test_with_all_tiles_kept_a_carved_model_is_the_dense_one(settings, tiles, token_BL):
  config, params = dense_model(int8_activations=False, **settings)
  carved, model = carving.carve(params, config, tiles, top_k=tiles)
  assert (model.ffn.tiles, model.ffn.routing) == (tiles, 'emergent')
  want = logits(config, params, token_BL)
  np.testing.assert_allclose(logits(model, carved, token_BL), want, atol=1e-6 * np.abs(want).max())


def test_no_code_changes(token_BL):
  config, params = dense_model(tiles=4)
  carved, model = carving.carve(params, config, 32, 8)
  for layer in ('layer_0', 'layer_1'):
    assert rows_of(carved[layer]['ffn'], model.ffn) == rows_of(params[layer]['ffn'], config.ffn)
    # Training goes on from latent weights that are more than their codes.
    assert len(np.unique(np.abs(carved[layer]['ffn']['up']))) > 100


@pytest.mark.parametrize('votes', [1, 0])
def test_codes_hold_where_latent_weights_cannot(votes):
  """A tile without any vote has no scale that would hold its latent weights below a threshold."""
  config = FFNConfig(d_model=8, d_ff=4, tiles=1)
  codes = jnp.zeros((1, 4, 2)).at[0, 0, 0].set(votes)
  latent, scale = latent_weights.hold_codes(jnp.where(codes == 0, 0.49, 0.51), codes, config)
  np.testing.assert_array_equal(jnp.clip(jnp.round(latent / scale[:, None, None]), -1, 1), codes)


def test_similar_units_share_a_tile():
  centre = jax.random.normal(jax.random.key(0), (4, 32))
  member = jax.random.permutation(jax.random.key(1), jnp.repeat(jnp.arange(4), 8))
  latent = centre[member] + 0.1 * jax.random.normal(jax.random.key(2), (32, 32))
  config = FFNConfig(d_model=32, d_ff=32, tiles=1)
  params = jax.jit(lambda: ffn.TriXFFN(config).init(jax.random.key(3), jnp.ones((1, 32))))()['params']
  units = carving.list_units({**params, 'up': latent.T[None]}, config)
  member_TH = carving.cluster_units(units, 4)
  assert sorted(np.ravel(member_TH)) == list(range(32))
  assert all(len(set(np.asarray(member)[of_tile])) == 1 for of_tile in np.asarray(member_TH))


def test_no_swap_makes_groups_more_alike():
  point_FD = np.random.default_rng(0).standard_normal((24, 8))
  member_TH = np.asarray(carving.gather(point_FD, 6, 0))
  assert sorted(np.ravel(member_TH)) == list(range(24))
  unit_FD = point_FD / np.linalg.norm(point_FD, axis=1, keepdims=True)

  def alike(groups):
    return np.linalg.norm(unit_FD[groups].sum(axis=1), axis=1).sum()

  best = alike(member_TH)
  assert best > alike(np.asarray(tile_index.balanced_kmeans(point_FD, 6, jax.random.key(0)))) + 0.1
  for a in range(24):
    for b in range(24):
      swapped = np.where(member_TH == a, b, np.where(member_TH == b, a, member_TH))
      assert alike(swapped) < best + 1e-6


def test_units_that_are_no_numbers_keep_nobody_waiting():
  point_FD = jax.random.normal(jax.random.key(0), (16, 4)).at[3, 1].set(jnp.nan)
  assert sorted(np.ravel(carving.gather(point_FD, 4, 0))) == list(range(16))


def test_a_carved_model_computes_the_tiles_of_its_signatures(token_BL):
  config, params = dense_model(tiles=4)
  carved, model = carving.carve(params, config, 16, 4)
  _, infos = jax.jit(TransformerLM(model, V).apply)({'params': carved}, token_BL)
  assert infos[0].tile_NK.shape == (64, 4)
  np.testing.assert_array_equal(infos[0].gate_NK, 1)
  tiles = ffn.quantise_tiles(carved['layer_0']['ffn'], model.ffn)
  np.testing.assert_array_equal(tiles.signatures_TD, tiles.up_TDH.sum(axis=-1))


@pytest.mark.parametrize(
  'settings, tiles, top_k, message',
  [
    ({'routing': 'emergent'}, 16, 4, 'computes all its tiles alike'),
    ({'gate': 'probability'}, 16, 4, 'computes all its tiles alike'),
    ({'clusters': 2}, 16, 4, 'computes all its tiles alike'),
    ({}, 24, 4, 'model.tiles = 24 does not divide'),
    ({}, 16, 17, 'model.top_k = 17'),
    ({}, 0, 1, 'model.tiles = 0'),
  ],
)
def test_what_cannot_be_carved_is_refused(settings, tiles, top_k, message):
  config = parse_model({**DENSE, **settings})
  with pytest.raises(InputError, match=message):
    carving.carve({}, config, tiles, top_k)


def test_products_are_counted_with_those_of_routing():
  config = FFNConfig(d_model=128, d_ff=512, tiles=4, routing='dense', gate='one_hot')
  assert count_products(config).total == 2 * 512 * 128
  carved = dataclasses.replace(config, tiles=128, top_k=32, routing='emergent')
  assert count_products(carved) == (128 * 128, 2 * 128 * 128)
  assert count_products(carved).total / count_products(config).total == 0.375
  assert count_products(dataclasses.replace(carved, address='token')).routing == 0
  indexed = dataclasses.replace(carved, clusters=16, probes=4)
  assert count_products(indexed).routing == (16 + 4 * 8) * 128
