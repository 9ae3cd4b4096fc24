"""Grafted tiles are those of their donors, in a host that is otherwise as it was."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from tiers import fast_first

from trix_jax.cli import graft as program
from trix_jax.editing import grafting
from trix_jax.errors import InputError
from trix_jax.nn import ffn
from trix_jax.nn.model_config import parse_model
from trix_jax.nn.transformer import TransformerLM
from trix_jax.runs import checkpoints

V = 20
HOST = {'layers': 2, 'd_model': 32, 'heads': 2, 'context': 16, 'd_ff': 64, 'tiles': 4, 'gate': 'one_hot'}
ONE_TILE = {'tiles': 1, 'd_ff': 16, 'routing': 'dense'}


def host_model(**settings):
  config = parse_model({**HOST, **settings})
  return jitted.init(TransformerLM(config, V), jax.random.key(0))[0], config


def donor_of(params, name='donor', seed=1, **settings):
  """A model with new tiles of other scales, and all else of the host."""
  config = parse_model({**HOST, **ONE_TILE, **settings})
  own = jitted.init(TransformerLM(config, V), jax.random.key(seed))[0]
  for layer in range(config.layers):
    tiles = own[f'layer_{layer}']['ffn']
    for scale in ('up_scale', 'down_scale'):
      tiles[scale] = tiles[scale] * jnp.exp(0.3 * jax.random.normal(jax.random.key(seed), tiles[scale].shape))
    own[f'layer_{layer}'] = {**params[f'layer_{layer}'], 'ffn': tiles}
  return grafting.Donor(name, {**params, **{name: own[name] for name in own if name.startswith('layer_')}}, config)


@pytest.mark.parametrize(
  'settings', fast_first([{}, {'quantiser': 'threshold', 'shared_down_scale': True, 'signature': 'sign'}])
)
def test_tiles_are_those_of_host_and_donors_in_their_order(settings):
  params, config = host_model(**settings)
  donors = [donor_of(params, seed=1, **settings), donor_of(params, seed=2, **settings)]
  grafted, model = grafting.graft(params, config, donors)
  assert (model.ffn.tiles, model.ffn.hidden, model.ffn.top_k) == (6, 16, 1)
  assert dataclasses.replace(model, ffn=config.ffn) == config
  models = [(params, config), *((donor.params, donor.config) for donor in donors)]
  for layer in ('layer_0', 'layer_1'):
    got = ffn.quantise_tiles(grafted[layer]['ffn'], model.ffn)
    want = [ffn.quantise_tiles(of_model[layer]['ffn'], of.ffn) for of_model, of in models]
    for name in ('up_TDH', 'down_THD', 'up_scale_TH', 'signatures_TD', 'signature_scale_T'):
      np.testing.assert_array_equal(getattr(got, name), jnp.concatenate([getattr(tiles, name) for tiles in want]))
    down_scales = [jnp.broadcast_to(tiles.down_scale_TD, (len(tiles.up_TDH), 32)) for tiles in want]
    np.testing.assert_array_equal(got.down_scale_TD, jnp.concatenate(down_scales))


def test_what_a_host_has_already_changes_nothing():
  """Copies of its tiles tie with them, and the first tile wins."""
  params, config = host_model()
  grafted, model = grafting.graft(params, config, [grafting.Donor('itself', params, config)])
  token_BL = jax.random.randint(jax.random.key(1), (2, 16), 0, V)
  got, infos = TransformerLM(model, V).apply({'params': grafted}, token_BL)
  want, _ = TransformerLM(config, V).apply({'params': params}, token_BL)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
  assert all(info.score_NJ.shape == (32, 8) and int(info.tile_NK.max()) < 4 for info in infos)


def test_tokens_find_grafted_tiles_by_reading():
  params, config = host_model(layers=1)
  donor = donor_of(params, layers=1)
  token_BL = jax.random.randint(jax.random.key(1), (1, 16), 0, V)
  grafted, model = grafting.graft(params, config, [donor])
  _, (info,) = TransformerLM(model, V).apply({'params': grafted}, token_BL)
  assert {4} < set(np.asarray(info.tile_NK).reshape(-1).tolist())  # It wins some of them with random weights.
  np.testing.assert_array_equal(info.gate_NK, 1.0)


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    ({'gate': 'probability'}, r'model\.gate=one_hot'),
    ({'routing': 'learned'}, r'model\.routing=emergent'),
    ({'clusters': 2}, r'model\.clusters=0'),
    ({'balance_bias': True}, 'no balance bias'),
    ({'control': 'hash'}, 'or control'),
  ],
)
def test_a_host_that_does_not_read_with_gates_of_one_is_refused(settings, words):
  with pytest.raises(InputError, match=words):
    grafting.require_host(parse_model({**HOST, **settings}))


def test_a_donor_of_another_host_is_refused_by_what_differs():
  params, config = host_model()
  moved = {**params, 'head': {'kernel': params['head']['kernel'] + 1}}
  for donor, words in (
    (donor_of(params, d_ff=32), r'donor is of another form than the host \(d_ff / tiles 16 -> 32\)'),
    (donor_of(params, activation='relu'), r"\(activation 'relu_squared' -> 'relu'\)"),
    (donor_of(params, tiles=2, d_ff=32), r'trained with 2 tile\(s\) a token'),
    (donor_of(params, gate='probability', routing='emergent'), 'model.gate=probability'),
    (donor_of(moved), r'head\.kernel differs; train it with training\.start_from the host'),
  ):
    with pytest.raises(InputError, match=words):
      grafting.graft(params, config, [donor])
  with pytest.raises(InputError, match='there are no donors'):
    grafting.graft(params, config, [])


def test_what_is_recovered_is_a_part_of_the_way():
  assert program.recovered(3.0, 2.25, 2.0) == 0.75
  assert np.isnan(program.recovered(2.0, 2.0, 2.0))
  assert np.isnan(program.recovered(2.0, 2.2, 2.1))  # The donor is worse than its host, and so is the graft.


def test_what_is_no_donor_of_the_host_is_refused(monkeypatch):
  host, donor = (
    types.SimpleNamespace(
      vocabulary=vocabulary,
      config=types.SimpleNamespace(training=types.SimpleNamespace(train_only=only)),
      params={},
      routing_state={},
    )
    for vocabulary, only in (('ab', ''), ('abc', 'tiles'))
  )
  monkeypatch.setattr(checkpoints, 'load_trained', lambda folder, kind: host)
  with pytest.raises(InputError, match=r'other did not train new tiles in a host; a donor is a run with training\.'):
    program.load_donor(host, 'other')
  monkeypatch.setattr(checkpoints, 'load_trained', lambda folder, kind: donor)
  with pytest.raises(InputError, match='donor other has another vocabulary than the host; train both with tokenizer='):
    program.load_donor(host, 'other')
  assert program.load_donor(donor, 'other') is donor
