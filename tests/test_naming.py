"""Tiles that name themselves: their signatures learn to win their own text, and to leave the host its own."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import jitted
import numpy as np
import pytest
from test_grafting import HOST, ONE_TILE, V, donor_of, host_model

from trix_jax import configuration
from trix_jax.core import signatures, ternary
from trix_jax.editing import grafting
from trix_jax.errors import InputError
from trix_jax.nn import ffn, router, transformer
from trix_jax.nn.model_config import FFNConfig, ModelConfig
from trix_jax.nn.transformer import TransformerLM
from trix_jax.runs import checkpoints
from trix_jax.system import devices
from trix_jax.training import naming, warm_start
from trix_jax.training.others import Others
from trix_jax.training.step import init_state, make_loss, make_train_step

VOCABULARY = 'abcdefghijklmnopqrst'


def trained(**settings):
  params, config = host_model(**settings)
  params = {**params, 'head': {'kernel': 50 * params['head']['kernel']}}  # Its text is far from uniform.
  return types.SimpleNamespace(
    params=params,
    routing_state={},
    vocabulary=VOCABULARY,
    config=types.SimpleNamespace(model=config),
    model=TransformerLM(config, V),
  )


@pytest.fixture(scope='module')
def host():
  return trained()


@pytest.fixture(scope='module')
def layers(host):
  return naming.load_host(host, 0)


def run_config(**settings):
  config = configuration.default_config()
  config.model.update({**HOST, **ONE_TILE, 'dropout': 0.0})
  config.training.update({'steps': 40, 'batch_size': 4, 'start_from': 'host', 'train_only': 'tiles'})
  config.loss.update({'balance_weight': 0.0, 'naming_weight': 0.5})
  for name, value in settings.items():
    section, key = name.split('__')
    config[section][key] = value
  return configuration.parse(config)


def lead(signature_TD, asked, host, config):
  own = naming.score_best(signature_TD, signatures.scale_of(signature_TD, config.ffn.signature), asked, config)
  return own - naming.score_best(host.key_TD, host.scale_T, asked, config)


def one_token(config):
  return dataclasses.replace(config, context=1)  # A window of one token has no other mean.


def asked_by(x_ND):
  return router.Asked(x_ND, *ternary.quantise_int8(x_ND))


def test_the_loss_tells_two_texts_apart_by_the_best_signature_of_each_side():
  config = ModelConfig(d_model=4, heads=2, context=2, ffn=FFNConfig(d_model=4, d_ff=4, tiles=1))
  ours_TD = jnp.asarray([[2.0, 2, 2, 2]])
  theirs_TD = jnp.asarray([[1.0, -1, 1, -1], [-3, -3, 3, 3]])
  written, own = jnp.asarray([[1.0, -1, 1, -1], [1, 1, 1, 1]]), jnp.asarray([[1.0, 1, 1, 1], [-1, -1, 1, 1]])
  theirs = theirs_TD, jnp.asarray([1.0, 1 / 3])
  # By hand: signatures have a root mean square of 1, and a logit is half of a score.
  np.testing.assert_allclose(naming.score_best(*theirs, asked_by(own), config), [0, 1], rtol=1e-6)
  np.testing.assert_allclose(naming.score_best(*theirs, asked_by(written), config), [2, 1], rtol=1e-6)
  host = naming.HostLayer(*theirs, asked_by(written), jnp.asarray([2.0, 1.0]))
  # Leads on the own text are 2 and 0 nats, and so are those of the other side on what it wrote.
  want = 5 * (np.log1p(np.exp(-16)) + np.log1p(np.exp(0))) / 8 / 2
  np.testing.assert_allclose(naming.naming_loss(ours_TD, asked_by(own), host, config), want, rtol=1e-6)


def test_a_lead_is_a_token_that_the_grafted_model_sends_to_the_new_tile(host, layers):
  donor = donor_of(host.params)
  params, config = grafting.graft(host.params, host.config.model, [donor])
  token_BL = jax.random.randint(jax.random.key(1), (4, 16), 0, V)
  _, (info, _), (asked, _) = naming.apply(TransformerLM(config, V), params, {}, token_BL)
  new = ffn.quantise_tiles(donor.params['layer_0']['ffn'], donor.config.ffn)
  lead_N = lead(new.signatures_TD, asked, layers[0], one_token(donor.config))
  np.testing.assert_array_equal(np.asarray(lead_N) > 0, info.tile_NK[:, 0] == 4)
  assert 0 < np.mean(lead_N > 0) < 1


def test_what_the_host_writes_is_drawn_from_its_predictions(host):
  token_BL = naming.write(host, 0)
  assert token_BL.shape == (naming.WINDOWS, 16) and token_BL.min() >= 0 and token_BL.max() < V
  np.testing.assert_array_equal(token_BL, naming.write(host, 0))
  assert np.any(token_BL != naming.write(host, 1)) and len(np.unique(token_BL, axis=0)) > naming.WINDOWS / 2

  def loss(of_BL):
    logits, _ = jitted.forward(host.model, host.params, {}, of_BL[:, :-1])
    return float(transformer.next_token_loss(logits, of_BL[:, 1:]).mean())

  drawn_at_random = np.random.default_rng(0).integers(0, V, token_BL.shape).astype(np.int32)
  assert loss(token_BL) < loss(drawn_at_random) - 1


def test_the_host_is_known_by_its_signatures_and_by_what_its_layers_ask_in_its_own_text(host, layers):
  _, infos = jitted.forward(host.model, host.params, {}, naming.write(host, 0))
  for layer, of in enumerate(layers):
    np.testing.assert_array_equal(of.key_TD, infos[layer].signatures_TD)
    asked = router.Asked(*map(jnp.asarray, of.written))
    again = router.route(router.Router(of.key_TD, of.scale_T), host.config.model.ffn, asked)
    np.testing.assert_array_equal(again.tile_NK, infos[layer].tile_NK)
    logit_NT = router.scale_scores(infos[layer].score_NJ, of.written.step_N1, host.config.model.ffn)
    windows_BLT = np.asarray(logit_NT).reshape(naming.WINDOWS, 16, -1)
    want_BL = [[window[: end + 1].mean(axis=0).max() for end in range(16)] for window in windows_BLT]
    np.testing.assert_allclose(of.best_N, np.ravel(want_BL), rtol=1e-4, atol=1e-5)


def test_the_loss_has_its_weight_and_moves_signatures_alone(host, layers):
  config = run_config()
  model, donor = TransformerLM(config.model, V), donor_of(host.params)
  windows = jax.random.randint(jax.random.key(3), (4, 17), 0, V)

  def objective(params, weight):
    settings = run_config(loss__naming_weight=weight).loss
    return make_loss(settings, model, Others(host=layers))(params, {}, windows, jax.random.key(0))[0]

  differentiate = jax.jit(jax.value_and_grad(objective), static_argnums=1)
  of_weight = {weight: differentiate(donor.params, weight) for weight in (0.0, 0.5, 1.0)}
  values = [float(value) for value, _ in of_weight.values()]
  _, infos, asked = naming.apply(model, donor.params, {}, windows[:, :-1])
  losses = [
    naming.naming_loss(info.signatures_TD, of, to, config.model)
    for info, of, to in zip(infos, asked, layers, strict=True)
  ]
  assert values[1] - values[0] == pytest.approx(float(np.mean(losses)) / 2, rel=1e-4)
  assert values[2] - values[0] == pytest.approx(float(np.mean(losses)), rel=1e-4)
  change = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), of_weight[1.0][1], of_weight[0.5][1])
  ups = [change[f'layer_{layer}']['ffn'].pop('up') for layer in (0, 1)]
  assert min(ups) > 1e-3 and max(jax.tree.leaves(change)) < 1e-6


@pytest.mark.slow
def test_named_tiles_win_their_own_text_and_leave_the_host_its_own(host, monkeypatch):
  mesh = devices.data_mesh(4)
  rng = np.random.default_rng(0)
  monkeypatch.setattr(naming, 'write', lambda trained, seed: rng.integers(5, V, (32, 16)).astype(np.int32))
  layers = naming.load_host(host, 0)
  windows = devices.split_batch(rng.integers(0, 5, (4, 17)).astype(np.int32), mesh)
  share = {}
  for weight in (0.0, 5.0):
    config = run_config(loss__naming_weight=weight, optimizer__learning_rate=0.1)
    model = TransformerLM(config.model, V)
    state = init_state(config, model)
    tiles = {name: {**host.params[name], 'ffn': state.params[name]['ffn']} for name in ('layer_0', 'layer_1')}
    params = jax.tree.map(np.array, {**host.params, **tiles})  # Copies, as a step donates its state.
    state = devices.replicate(dataclasses.replace(state, params=params), mesh)
    step = make_train_step(config, model, mesh, Others(host=layers if weight else None))
    for index in range(40):
      state, metrics = step(state, windows, index)
      assert metrics['finite']
    _, infos, asked = naming.apply(model, jax.device_get(state.params), {}, np.asarray(windows)[:, :-1])
    share[weight] = np.array(
      [
        [float(np.mean(lead(info.signatures_TD, by, to, config.model) > 0)) for by in (of, to.written)]
        for info, of, to in zip(infos, asked, layers, strict=True)
      ]
    )
  assert np.all(share[5.0][:, 0] > 0.75) and np.all(share[5.0][:, 1] < 0.1), share
  assert np.all(share[0.0][:, 0] < 0.65), share


def test_a_host_that_does_not_read_is_refused():
  with pytest.raises(InputError, match=r'model\.gate=one_hot'):
    naming.load_host(trained(gate='probability'), 0)


def test_naming_is_for_new_tiles_that_train_alone():
  for change in ({'training__train_only': ''}, {'model__control': 'masked'}):
    with pytest.raises(InputError, match=r'naming_weight = 0\.5 is for new tiles: set training\.train_only'):
      run_config(**change)
  with pytest.raises(InputError, match=r'loss\.naming_weight = -1'):
    run_config(loss__naming_weight=-1.0)


def test_the_host_of_the_naming_loss_is_the_run_that_tiles_start_from(monkeypatch, host, layers):
  given = []
  monkeypatch.setattr(checkpoints, 'load_trained', lambda folder, kind: given.append((str(folder), kind)) or host)
  corpus = types.SimpleNamespace(vocabulary=VOCABULARY)
  found = warm_start.load_naming_host(run_config(), corpus)
  assert given == [('host', 'best')]
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, layers)))
  assert warm_start.load_naming_host(run_config(loss__naming_weight=0.0), corpus) is None and len(given) == 1
  with pytest.raises(
    InputError, match=r"address is 'token' here and 'stream' in host; set config\.model\.address=stream"
  ):
    warm_start.load_naming_host(run_config(model__address='token'), corpus)
