"""The layer behind an index: living tiles, the same in every form, and state that moves as it should."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import apply
from tiers import fast_first

from trix_jax import configuration
from trix_jax.core import tile_index
from trix_jax.errors import InputError
from trix_jax.nn import ffn, indexed_ffn, model_config, router, transformer
from trix_jax.nn.model_config import FFNConfig, ModelConfig
from trix_jax.training import routing_state

D = 32


def config_of(tiles=16, clusters=4, **settings):
  return FFNConfig(**{'d_model': D, 'd_ff': 8 * tiles, 'tiles': tiles, 'clusters': clusters, **settings})


def layer_of(config, tokens=80, seed=0):
  """A module, its variables and an input."""
  x = jax.random.normal(jax.random.key(seed + 1), (tokens, D))
  module = indexed_ffn.HierarchicalTriXFFN(config)
  return module, jax.jit(module.init)({'params': jax.random.key(seed), 'routing': jax.random.key(2)}, x), x


@pytest.mark.parametrize('tiles, clusters', fast_first([(16, 4), (64, 8), (128, 8), (256, 16)]))
def test_shapes_and_every_size_alive(tiles, clusters):
  config = config_of(tiles, clusters)
  module, variables, x = layer_of(config)
  x_BLD = x.reshape(4, 20, D)
  y, info = jax.jit(module.apply)(variables, x_BLD)
  assert y.shape == x_BLD.shape and info.tile_NK.shape == (80, 1)
  assert info.candidate_NJ.shape == info.score_NJ.shape == (80, tiles // clusters)
  assert np.all(np.any(info.candidate_NJ == info.tile_NK, axis=1))
  tiles_ = ffn.quantise_tiles(variables['params'], config)
  assert not ffn.find_silent_tiles(tiles_, config).any()


def test_a_token_scores_clusters_and_candidates_only():
  """Counted in the lowered program: no product with all keys, as there is under other routings."""
  config = config_of(256, 16)
  _module, variables, x = layer_of(config, tokens=8)

  def largest(config):
    module = indexed_ffn.HierarchicalTriXFFN(config)
    text = jax.jit(lambda v, x: apply(module, v, x)[1].score_NJ).lower(variables, x).as_text()
    return '8x256' in text

  assert largest(dataclasses.replace(config, routing='first')) and not largest(config)


def test_all_clusters_probed_is_flat_routing():
  config = config_of(64, 8, top_k=2, balance_bias=True)
  module, variables, x = layer_of(config)
  state = dict(variables['routing'])
  state['balance_bias'] = 20.0 * jnp.cos(jnp.arange(64.0))
  variables = {**variables, 'routing': state}
  everywhere = indexed_ffn.HierarchicalTriXFFN(dataclasses.replace(config, probes=8))
  _y, info = apply(everywhere, variables, x)
  index = indexed_ffn.read_index(state, config)
  flat = dataclasses.replace(config, clusters=0, probes=1)
  q, step = ffn.ternary.quantise_int8(indexed_ffn.normalise(x, variables['params']['norm']['scale']))
  by = router.Router(index.key_TD, index.scale_T, bias_T=state['balance_bias'])
  want = router.route(by, flat, router.Asked(x, q, step))
  np.testing.assert_array_equal(info.tile_NK, want.tile_NK)
  np.testing.assert_allclose(info.gate_NK, want.gate_NK, rtol=1e-5)
  assert not np.array_equal(apply(module, variables, x)[1].tile_NK, want.tile_NK)


@pytest.mark.parametrize('cluster_bias', ['mean', 'max'])
def test_tokens_find_a_tile_by_its_bias(cluster_bias):
  """A cluster with its own bias hides the tile that all tokens want."""
  wanted = {}
  for carried in ('own', cluster_bias):
    config = config_of(balance_bias=True, cluster_bias=carried)
    module, variables, x = layer_of(config)
    assert ('cluster_bias' in variables['routing']) == (carried == 'own')
    state = {**variables['routing'], 'balance_bias': jnp.zeros(16).at[7].set(1e6)}
    info = apply(module, {**variables, 'routing': state}, x)[1]
    wanted[carried] = np.mean(np.asarray(info.tile_NK) == 7)
    # The bias chooses; the scores and the probabilities of clusters are without it.
    without = apply(module, variables, x)[1]
    np.testing.assert_array_equal(info.clusters.score_NC, without.clusters.score_NC)
    np.testing.assert_array_equal(info.clusters.probability_NC, without.clusters.probability_NC)
  assert wanted['own'] < 0.6 and wanted[cluster_bias] == 1


def test_the_layer_is_the_sum_of_its_tiles():
  config = config_of(16, 4, top_k=2, probes=2)
  module, variables, x = layer_of(config)
  params = jax.tree.map(
    lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), variables['params']
  )
  y, info = apply(module, {**variables, 'params': params}, x)
  tile = indexed_ffn.TriXTile(indexed_ffn.configure_one_tile(config))
  normed = indexed_ffn.normalise(x, params['norm']['scale'])
  every_TND = jnp.stack(
    [apply(tile, {'params': indexed_ffn.take_tile(params, t, config)}, normed)[0] for t in range(16)]
  )
  want = sum(every_TND[info.tile_NK[:, k], jnp.arange(80)] * info.gate_NK[:, k, None] for k in range(2))
  np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
  doubled = {**params, 'output_scale': 2 * params['output_scale']}
  np.testing.assert_allclose(module.apply({**variables, 'params': doubled}, x)[0], 2 * y, rtol=1e-5, atol=1e-6)
  fresh = jax.eval_shape(tile.init, jax.random.key(0), normed)['params']
  assert jax.tree.map(jnp.shape, indexed_ffn.take_tile(params, 0, config)) == jax.tree.map(jnp.shape, fresh)


def test_a_block_adds_to_its_input():
  config = config_of()
  module, variables, x = layer_of(config)
  nested = {kind: {'ffn': tree} for kind, tree in variables.items()}
  y, _ = apply(indexed_ffn.HierarchicalTriXBlock(config), nested, x)
  np.testing.assert_array_equal(y, x + apply(module, variables, x)[0])


@pytest.mark.parametrize('tiles, clusters', fast_first([(16, 4), (64, 8), (256, 16)]))
def test_every_tile_gets_a_gradient(tiles, clusters):
  """Once it has a token; some of this many need a busy text."""
  config = config_of(tiles, clusters, top_k=4, probes=2)
  module, variables, x = layer_of(config, tokens=30 * tiles)

  def loss(params):
    y, info = apply(module, {**variables, 'params': params}, x)
    return jnp.mean(jnp.square(y - jnp.roll(x, 1, axis=1))), info

  grads, info = jax.jit(jax.grad(loss, has_aux=True))(variables['params'])
  assert len(np.unique(info.tile_NK)) == tiles
  for name in indexed_ffn.TILE_PARAMETERS:
    assert np.all(np.any(np.reshape(grads[name], (tiles, -1)) != 0, axis=1)), name


def test_each_tile_changes_its_own_tokens():
  config = config_of(16, 4)
  module, variables, x = layer_of(config, tokens=400)
  y, info = apply(module, variables, x)
  for tile in range(16):
    params = {**variables['params'], 'output_scale': variables['params']['output_scale'].at[tile].set(0.0)}
    without, _ = apply(module, {**variables, 'params': params}, x)
    changed = np.any(np.asarray(without != y), axis=1)
    np.testing.assert_array_equal(changed, info.tile_NK[:, 0] == tile)
    assert changed.any()


def test_averages_route_not_the_signatures_of_now():
  config = config_of()
  module, variables, x = layer_of(config)
  _, info = apply(module, variables, x)
  other = {**variables, 'params': {**variables['params'], 'up': -variables['params']['up']}}
  np.testing.assert_array_equal(apply(module, other, x)[1].tile_NK, info.tile_NK)
  state = {**variables['routing'], 'average': -variables['routing']['average']}
  assert not np.array_equal(apply(module, {**variables, 'routing': state}, x)[1].tile_NK, info.tile_NK)


@pytest.mark.slow
def test_sure_tokens_do_without_more_tiles():
  config = config_of(16, 4, top_k=4, probes=4)
  _module, variables, x = layer_of(config, tokens=300)
  used = []
  for ratio in (0.0, 0.3, 0.8, 1.0):
    _, info = indexed_ffn.HierarchicalTriXFFN(dataclasses.replace(config, keep_ratio=ratio)).apply(variables, x)
    kept = np.asarray(info.gate_NK) != 0
    used.append(kept.sum(axis=1).mean())
    columns = np.argmax(np.asarray(info.candidate_NJ)[:, None] == np.asarray(info.tile_NK)[..., None], axis=2)
    probability = np.take_along_axis(np.asarray(info.probability_NJ), columns, axis=1)
    near = np.abs(probability / probability[:, :1] - ratio) < 1e-4
    np.testing.assert_array_equal((kept | near), (probability >= ratio * probability[:, :1]) | near)
  assert used[0] == 4 > used[1] > used[2] > used[3] >= 1


def moved(config, state, params, step, load, **hierarchy_settings):
  """State and parameters of one layer after a step with these loads."""
  of_run = configuration.RunConfig(
    model=ModelConfig(layers=1, d_model=D, heads=2, context=8, ffn=config),
    hierarchy=configuration.IndexConfig(**{'rebuild_every': 2, **hierarchy_settings}),
    loss=configuration.LossConfig(balance_bias_rate=0.1 * config.balance_bias),
  )
  C = config.clusters
  metrics = {
    'tile_load': load[None],
    'cluster_load': jnp.full((1, C), 1 / C).at[0, 0].add(0.1),
    'score_std': jnp.ones(1),
    'cluster_score_std': jnp.ones(1),
  }
  new_state, new_params = routing_state.update(
    {'layer_0': {'ffn': state}},
    {'layer_0': {'ffn': params}},
    metrics,
    of_run,
    jnp.array(step),
  )
  return new_state['layer_0']['ffn'], new_params['layer_0']['ffn']


def test_the_state_moves_after_a_step():
  config = config_of(64, 8, balance_bias=True)
  _module, variables, _x = layer_of(config)
  state, params = variables['routing'], {**variables['params'], 'up': jax.random.normal(jax.random.key(9), (64, D, 8))}
  fair = jnp.full(64, 1 / 64)
  after, same = moved(config, state, params, 0, fair.at[3].set(0.0), average_decay=0.75)
  now = ffn.quantise_tiles(params, config).signatures_TD
  np.testing.assert_allclose(after['average'], 0.75 * state['average'] + 0.25 * now, rtol=1e-6)
  np.testing.assert_allclose(after['load'], 0.75 / 64 + 0.25 * fair.at[3].set(0.0), rtol=1e-6)
  assert after['balance_bias'][3] > 0 and after['cluster_bias'][0] < 0 and not after['frozen']
  np.testing.assert_array_equal(after['member'], state['member'])  # Not a step of rebuilding.
  jax.tree.map(np.testing.assert_array_equal, same, params)
  rebuilt, _ = moved(config, state, params, 1, fair, average_decay=0.0)
  assert not np.array_equal(rebuilt['member'], state['member'])
  points = indexed_ffn.scale_keys(rebuilt, config)
  np.testing.assert_array_equal(rebuilt['member'], tile_index.recluster(points, points[state['member']].sum(axis=1)))


def test_clusters_that_carry_biases_are_built_anew():
  """Not from the clusters that the biases adapted to."""
  config = config_of(64, 8, balance_bias=True, cluster_bias='mean')
  _module, variables, _x = layer_of(config)
  state, params = variables['routing'], {**variables['params'], 'up': jax.random.normal(jax.random.key(9), (64, D, 8))}
  other = {**state, 'member': jnp.arange(64, dtype=jnp.int32).reshape(8, 8)}
  fair = jnp.full(64, 1 / 64)
  kept, _ = moved(config, other, params, 0, fair, average_decay=0.0)
  np.testing.assert_array_equal(kept['member'], other['member'])
  rebuilt, again = (moved(config, of, params, 1, fair, average_decay=0.0)[0] for of in (state, other))
  np.testing.assert_array_equal(rebuilt['member'], again['member'])
  np.testing.assert_array_equal(np.sort(rebuilt['member'], axis=None), np.arange(64))
  points = indexed_ffn.scale_keys(rebuilt, config)
  unit = points / jnp.linalg.norm(points, axis=1, keepdims=True)
  fits = [jnp.linalg.norm(unit[members].sum(axis=1), axis=1).sum() for members in (rebuilt['member'], other['member'])]
  assert fits[0] > 1.1 * fits[1]
  assert 'cluster_bias' not in rebuilt and rebuilt['balance_bias'].shape == (64,)


@pytest.mark.slow
def test_frozen_routing_stays_and_gets_no_gradient():
  config = config_of(balance_bias=True)
  module, variables, x = layer_of(config)
  state, params = variables['routing'], {**variables['params'], 'up': jax.random.normal(jax.random.key(9), (16, D, 8))}

  def unmoved(state, **settings):
    after, same = moved(config, state, params, 1, jnp.zeros(16).at[0].set(1.0), **settings)
    assert after.pop('frozen') == 1
    for name, value in after.items():
      np.testing.assert_array_equal(value, state[name])
    jax.tree.map(np.testing.assert_array_equal, same, params)

  unmoved(state, freeze_after=0.0)
  unmoved({**state, 'frozen': jnp.array(1.0)})  # As a switch.
  assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))  # Or a training step is compiled twice.

  def probability(params, frozen):
    variables_ = {'params': params, 'routing': {**state, 'frozen': jnp.array(frozen)}}
    return apply(module, variables_, x)[1].probability_NJ[:, 0].mean()

  learns, rests = (np.any(jax.grad(probability)(variables['params'], frozen)['up']) for frozen in (0.0, 1.0))
  assert learns and not rests


def test_a_dead_tile_becomes_a_copy_of_the_busiest_and_gets_tokens():
  config = config_of(16, 4)
  _module, variables, x = layer_of(config, tokens=2000)
  params, state = dict(variables['params']), dict(variables['routing'])
  dead = 5
  params['up'] = params['up'].at[dead].set(0.0)  # A signature of nothing.
  state['average'] = state['average'].at[dead].set(0.0)
  state['load'] = jnp.where(jnp.arange(16) == dead, 0.0, state['load']).at[7].set(0.3)

  def use(state, params):
    everywhere = indexed_ffn.HierarchicalTriXFFN(dataclasses.replace(config, probes=4))
    _, info = apply(everywhere, {'params': params, 'routing': state}, x)
    return np.bincount(np.asarray(info.tile_NK)[:, 0], minlength=16) / 2000

  before = use(state, params)
  state, params = routing_state.revive(state, params, config, 0.05, jax.random.key(0))
  after = use(state, params)
  assert before[dead] < 0.01 and after[dead] > 0.2 * before[7] and after[7] > 0.2 * before[7]
  np.testing.assert_array_equal(params['down'][dead], params['down'][7])
  np.testing.assert_array_equal(state['average'][dead], ffn.quantise_tiles(params, config).signatures_TD[dead])
  changed = np.any(np.asarray(params['up'] != variables['params']['up']), axis=(1, 2))
  np.testing.assert_array_equal(changed, np.arange(16) == dead)
  assert state['load'][dead] == pytest.approx(1 / 16)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'clusters': 5}, 'model.clusters = 5 does not divide'),
    ({'probes': 5}, 'model.probes = 5 of model.clusters = 4'),
    ({'clusters': 0, 'probes': 2}, 'model.probes = 2'),
    ({'top_k': 5}, 'model.top_k = 5 of 1 probed'),
    ({'routing': 'learned'}, 'model.routing = learned with model.clusters'),
    ({'keep_ratio': 1.5}, 'model.keep_ratio = 1.5'),
    ({'keep_ratio': -0.1}, 'model.keep_ratio = -0.1'),
    ({'cluster_bias': 'sum'}, "model.cluster_bias is 'sum'; choose one of own, mean, max"),
  ],
)
def test_impossible_settings_are_refused(settings, message):
  with pytest.raises(InputError, match=message):
    config_of(**settings)


def test_a_layer_without_an_index_is_refused():
  module = indexed_ffn.HierarchicalTriXFFN(config_of(clusters=0))
  with pytest.raises(InputError, match=r'set model\.clusters to a number that divides model\.tiles = 16'):
    module.init(jax.random.key(0), jnp.zeros((1, D)))


def test_the_hierarchical_reference_model_has_the_originals_size():
  """450,401 parameters: the original's 16 tiles in two layers."""
  config = configuration.reference_config('emergent')
  config.model.update({'layers': 2, 'tiles': 16, 'clusters': 4, 'shared_down_scale': False})
  model = transformer.TransformerLM(model_config.parse_model(config.model), 65)
  shapes = jax.eval_shape(model.init, {'params': jax.random.key(0)}, jnp.zeros((1, 1), jnp.int32))
  assert transformer.count_parameters(shapes['params']) == 450_401
