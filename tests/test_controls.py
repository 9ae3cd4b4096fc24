"""Controls route and train as they say, and evaluate without what belongs to training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from controlled_layers import CONFIG, TOKEN, VOCABULARY, D, N, T, layer_of
from jitted import apply, forward
from tiers import fast_first, slow

from trix_jax import configuration
from trix_jax.core import routing
from trix_jax.errors import InputError
from trix_jax.evaluation.evaluator import Evaluator, change_routing
from trix_jax.inference import weights
from trix_jax.nn import controls, ffn, indexed_ffn, model_config, transformer
from trix_jax.nn.model_config import NO_CONTROL, FFNConfig
from trix_jax.system import devices
from trix_jax.training.others import Others, Teacher
from trix_jax.training.step import init_state, make_loss, make_train_step


def trained_with(module, variables, x, key=0):
  return apply(module, variables, x, rngs={'tiles': jax.random.key(key)})


def plain(x, variables, **settings):
  """The same parameters without a control."""
  return apply(ffn.SparseTriXFFN(FFNConfig(**CONFIG, **settings)), {'params': variables['params']}, x)


def assert_same(got, want):
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(got[1].tile_NK, want[1].tile_NK)


@pytest.mark.parametrize('control', fast_first(['no_router_gradient', 'no_signature_gradient', 'gumbel', 'gradual']))
def test_in_evaluation_what_belongs_to_training_does_nothing(control):
  module, variables, x = layer_of(control)
  assert_same(apply(module, variables, x), plain(x, variables))


def test_a_hash_sends_equal_characters_to_one_tile_whatever_they_mean():
  module, variables, x = layer_of('hash')
  for info in (apply(module, variables, x)[1], trained_with(module, variables, x)[1]):
    np.testing.assert_array_equal(info.tile_NK[:, 0], TOKEN % T)
    np.testing.assert_array_equal(info.gate_NK, 1)


def test_a_hash_of_the_token_before_shifts_the_tiles_by_one():
  module, variables, x = layer_of('hash_previous')
  info = apply(module, variables, x)[1]
  np.testing.assert_array_equal(info.tile_NK[:, 0], np.concatenate([[0], TOKEN[:-1] % T]))


@pytest.mark.parametrize('top_k', [1, 2])
def test_a_drawn_hash_gives_a_token_tiles_of_its_own_that_stay(top_k):
  module, variables, x = layer_of('hash_drawn', top_k=top_k, gate='one_hot')
  tile_NK = np.asarray(apply(module, variables, x)[1].tile_NK)
  np.testing.assert_array_equal(tile_NK, trained_with(module, variables, x, key=1)[1].tile_NK)
  drawn = {tuple(tiles) for token in set(TOKEN.tolist()) for tiles in tile_NK[TOKEN == token]}
  assert tile_NK.shape == (N, top_k) and all(len(set(tiles)) == top_k for tiles in drawn)
  assert 1 < len(drawn) <= len(set(TOKEN.tolist()))


def test_a_redrawn_hash_is_another_one_after_every_hundred_steps():
  module, variables, x = layer_of('hash_redrawn')

  def tiles_at(steps):
    state = variables['routing']
    for step in steps:
      state = controls.move(state, {}, jnp.int32(step), 1200)
    tile_N = np.asarray(apply(module, {**variables, 'routing': state}, x)[1].tile_NK[:, 0])
    assert all(len(set(tile_N[TOKEN == token])) == 1 for token in range(len(VOCABULARY)))
    return tile_N.tolist()

  assert tiles_at(range(98, 99)) == tiles_at([])
  assert tiles_at([98, 99]) != tiles_at([])
  assert tiles_at([99, 198]) == tiles_at([99]) != tiles_at([99, 199])


def test_a_balanced_hash_follows_the_frequencies_of_the_first_step_and_stays():
  module, variables, x = layer_of('hash_balanced')
  info = apply(module, variables, x)[1]
  np.testing.assert_array_equal(info.tile_NK[:, 0], TOKEN % T)
  np.testing.assert_allclose(info.token_share_V, 1 / len(VOCABULARY))
  share_V = jnp.float32([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0])
  first = {**routing.statistics(info), 'token_share_V': share_V}
  state = controls.move(variables['routing'], first, jnp.int32(0), 1200)
  load_T = np.zeros(T)
  np.add.at(load_T, state['token_tile'], share_V)
  np.testing.assert_allclose(sorted(load_T), [0.2, 0.2, 0.2, 0.4], atol=1e-6)
  later = controls.move(state, routing.statistics(info), jnp.int32(1), 1200)
  np.testing.assert_array_equal(later['token_tile'], state['token_tile'])
  moved = apply(module, {**variables, 'routing': later}, x)[1]
  np.testing.assert_array_equal(moved.tile_NK[:, 0], np.asarray(later['token_tile'])[TOKEN])


def test_a_kept_address_is_read_until_it_is_dealt_by_scores_to_tiles_with_room():
  module, variables, x = layer_of('kept_address', gate='one_hot')
  info = apply(module, variables, x)[1]
  np.testing.assert_array_equal(info.tile_NK, plain(x, variables, gate='one_hot')[1].tile_NK)  # As if by the stream.
  score_VT = np.array([np.asarray(info.score_NJ)[TOKEN == v].sum(axis=0) for v in range(len(VOCABULARY))]) / N
  np.testing.assert_allclose(info.token_score_VT, score_VT, rtol=1e-5, atol=1e-6)
  share_V = jnp.float32([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0])
  liked_VT = np.tile(np.float32([4, 3, 2, 1]), (len(VOCABULARY), 1))
  liked_VT[2] = [0, 0, 0, 1]
  of_step = {**routing.statistics(info), 'token_share_V': share_V, 'token_score_VT': liked_VT * share_V[:, None]}
  state = variables['routing']
  for step in (0, controls.KEPT_AFTER - 2):
    state = controls.move(state, of_step, jnp.int32(step), 1200)
    np.testing.assert_array_equal(state['kept_tile'], -1)
  state = controls.move(state, of_step, jnp.int32(controls.KEPT_AFTER - 1), 1200)
  # The first fills tile 0, the third likes tile 3 alone, the others take tile 1 until it has a quarter, then tile 2.
  np.testing.assert_array_equal(state['kept_tile'], [0, 1, 3, 1, 1, 2, 2, 2])
  later = controls.move(state, routing.statistics(info), jnp.int32(controls.KEPT_AFTER), 1200)
  np.testing.assert_array_equal(later['kept_tile'], state['kept_tile'])
  moved = apply(module, {**variables, 'routing': later}, x)[1]
  np.testing.assert_array_equal(moved.tile_NK[:, 0], np.asarray(later['kept_tile'])[TOKEN])
  np.testing.assert_array_equal(moved.gate_NK, 1)


def test_masking_the_others_is_computing_the_chosen():
  module, variables, x = layer_of('masked', top_k=2)
  assert_same(apply(module, variables, x), plain(x, variables, top_k=2))


def test_without_a_router_gradient_probabilities_teach_nothing():
  def grads(control):
    module, variables, x = layer_of(control)
    return jax.grad(lambda params, x: apply(module, {'params': params}, x)[1].probability_NJ[:, 0].sum(), (0, 1))(
      variables['params'], x
    )

  assert all(np.any(leaf) for leaf in (grads('gumbel')[0]['up'], grads('gumbel')[1]))
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads('no_router_gradient')))
  of_params, of_x = grads('no_signature_gradient')
  assert np.any(of_x) and not any(np.any(leaf) for leaf in jax.tree.leaves(of_params))


def test_gumbel_draws_tiles_by_their_probabilities():
  module, variables, x = layer_of('gumbel')
  draws = jnp.concatenate([trained_with(module, variables, x, key)[1].tile_NK for key in range(400)], axis=1)
  share_NT = jax.nn.one_hot(draws, T).mean(axis=1)
  info = apply(module, variables, x)[1]
  # Four standard deviations of a share of 400 draws, over 800 of them.
  np.testing.assert_allclose(share_NT, info.probability_NJ, atol=4 * 0.025)
  once = trained_with(module, variables, x)[1]
  np.testing.assert_allclose(once.gate_NK, jnp.take_along_axis(once.probability_NJ, once.tile_NK, axis=1))


def test_dropped_tiles_leave_the_mean_as_it_was():
  module, variables, x = layer_of('tile_dropout', routing='dense', gate='one_hot')
  want, _ = plain(x, variables, routing='dense', gate='one_hot')
  np.testing.assert_allclose(apply(module, variables, x)[0], want, rtol=1e-5, atol=1e-5)
  outputs = [trained_with(module, variables, x, key) for key in range(300)]
  assert set(np.unique(outputs[0][1].gate_NK)) == {0, 2}
  mean = np.mean([y for y, _ in outputs], axis=0)
  error = np.std([y for y, _ in outputs], axis=0) / np.sqrt(300)
  assert np.mean(np.abs(mean - want) < 3 * error) > 0.98


def test_gradual_sparsity_goes_from_all_tiles_to_the_best_one():
  module, variables, x = layer_of('gradual', gate='one_hot')

  def at(progress):
    return trained_with(module, {**variables, 'routing': {'progress': jnp.float32(progress)}}, x)

  dense, _ = plain(x, variables, routing='dense', gate='one_hot')
  sparse, best = plain(x, variables, gate='one_hot')
  np.testing.assert_allclose(at(0.0)[0], dense, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(at(1.0)[0], sparse, rtol=1e-4, atol=1e-5)
  kept_NT = np.asarray(at(0.5)[1].gate_NK) != 0
  assert np.all(np.take_along_axis(kept_NT, np.asarray(best.tile_NK), axis=1))
  assert kept_NT.mean() == pytest.approx((1 + 3 / 2) / 4, abs=0.05)


@pytest.mark.parametrize('control', ['random_keys', 'kmeans_keys'])
def test_other_keys_route_and_the_weights_do_not(control):
  module, variables, x = layer_of(control)
  info = apply(module, variables, x)[1]
  other = {**variables, 'params': {**variables['params'], 'up': -variables['params']['up']}}
  np.testing.assert_array_equal(apply(module, other, x)[1].tile_NK, info.tile_NK)
  key_TD, scale_T = controls.quantise_keys(variables['routing']['centroid'])
  q, _ = ffn.ternary.quantise_int8(x)
  np.testing.assert_array_equal(info.tile_NK[:, 0], np.argmax(np.asarray(q @ key_TD.T) * scale_T, axis=1))


def test_centroids_come_to_lie_in_the_middle_of_their_tokens():
  centre_TD = jax.random.normal(jax.random.key(5), (T, D))
  label_N = np.arange(N) % T
  x = centre_TD[label_N] + 0.1 * jax.random.normal(jax.random.key(6), (N, D))
  module, variables, _ = layer_of('kmeans_keys')
  # Each begins near one of the groups, for which k-means may look in vain from anywhere.
  state = {'centroid': centre_TD + 0.5 * jax.random.normal(jax.random.key(7), (T, D))}
  for step in range(150):
    info = trained_with(module, {**variables, 'routing': state}, x)[1]
    state = controls.move(state, routing.statistics(info), jnp.array(step), 150)
  np.testing.assert_array_equal(info.tile_NK[:, 0], label_N)
  unit = centre_TD / jnp.linalg.norm(centre_TD, axis=1, keepdims=True)
  assert np.all(jnp.sum(state['centroid'] * unit, axis=1) > 0.99)
  assert controls.move({'centroid': centre_TD}, {}, jnp.array(0), 10)['centroid'] is centre_TD
  progress = [float(controls.move({'progress': 0.0}, {}, jnp.array(step), 10)['progress']) for step in (0, 6, 9)]
  assert progress == pytest.approx([1 / 7, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize('control', controls.ABLATIONS)
def test_an_ablated_layer_lacks_its_part_and_nothing_else(control):
  settings = {**CONFIG, 'clusters': 2, 'probes': 1, 'top_k': 2}
  whole = indexed_ffn.HierarchicalTriXFFN(FFNConfig(**settings))
  without = controls.TABLE[control].without
  ablated = indexed_ffn.IndexedFFN(
    FFNConfig(**settings), normalise=without != 'norm', scale_outputs=without != 'output_scale'
  )
  x = 3 * jax.random.normal(jax.random.key(1), (N, D))
  variables = whole.init(jax.random.key(0), x)
  params = ablated.init(jax.random.key(0), x)['params']
  missing = {'no_norm': {'norm'}, 'no_output_scale': {'output_scale'}, 'no_residual': set()}[control]
  assert set(variables['params']) - set(params) == missing and set(params) <= set(variables['params'])
  given = indexed_ffn.normalise(x, jnp.ones(D)) if control == 'no_norm' else x
  kept = {name: value for name, value in variables['params'].items() if name in params}
  assert_same(apply(ablated, {**variables, 'params': kept}, given), apply(whole, variables, x))


@pytest.mark.slow
@pytest.mark.parametrize('control', ['no_residual', *slow(NO_CONTROL)])
def test_without_its_residual_a_block_hands_on_what_its_tiles_say_alone(control):
  config = config_of(control, layers=2, tiles=4, clusters=2, balance_bias=False)
  model = transformer.TransformerLM(config.model, len(VOCABULARY))
  state = init_state(config, model)
  for layer in ('layer_0', 'layer_1'):
    scale = state.params[layer]['ffn']['output_scale']
    state.params[layer]['ffn']['output_scale'] = jnp.zeros_like(scale)
  tokens = np.arange(8, dtype=np.int32)[None]
  logits, _ = forward(model, state.params, state.routing_state, tokens)
  assert (np.ptp(logits) == 0) == (control == 'no_residual')


def test_an_unknown_control_is_refused_with_those_that_there_are():
  model = transformer.TransformerLM(model_config.ModelConfig(control='nope'), 8)
  with pytest.raises(InputError, match="control is 'nope'; choose one of none, hash"):
    jax.eval_shape(model.init, {'params': jax.random.key(0)}, jnp.zeros((1, 4), jnp.int32))


def config_of(control, **settings):
  config = configuration.default_config()
  config.model.update({'layers': 1, 'd_model': D, 'heads': 2, 'context': 16, 'd_ff': 64, 'control': control})
  config.model.update(settings)
  config.training.update({'steps': 4, 'batch_size': 4})
  config.sample_length = 0
  return configuration.parse(config)


@pytest.mark.slow
@pytest.mark.parametrize('control', list(controls.TABLE)[1:])
def test_every_control_trains_and_is_evaluated_and_cannot_write(control):
  settings = {
    'tile_dropout': {'routing': 'dense', 'gate': 'one_hot'},
    'squared_gate': {'routing': 'learned'},
    **{name: {'clusters': 2, 'top_k': 2} for name in controls.ABLATIONS},
  }
  config = config_of(control, **settings.get(control, {}))
  model, mesh = transformer.TransformerLM(config.model, len(VOCABULARY)), devices.data_mesh(4)
  start = jax.device_get(init_state(config, model))
  state = devices.replicate(start, mesh)
  step = make_train_step(config, model, mesh)
  windows = devices.split_batch(np.random.default_rng(0).integers(0, 8, (4, 17), np.int32), mesh)
  for index in range(2):
    state, metrics = step(state, windows, index)
    assert metrics['finite']
  assert not np.array_equal(state.params['layer_0']['ffn']['up'], start.params['layer_0']['ffn']['up'])
  if control == 'gradual':
    assert state.routing_state['layer_0']['ffn']['progress'] == pytest.approx(2 / (4 * controls.SPARSE_AFTER))
  if control.endswith('_keys'):
    moved = not np.array_equal(
      state.routing_state['layer_0']['ffn']['centroid'], start.routing_state['layer_0']['ffn']['centroid']
    )
    assert moved == (control == 'kmeans_keys')
  # What a layer is made of stays, whatever routes; what routes does not.
  first = change_routing(model.config, 'first')
  assert first.control == (control if control in controls.ABLATIONS else 'none')
  for evaluated in (model.config, first):
    row = Evaluator(evaluated, VOCABULARY, TOKEN.astype(np.int32))(state.params, state.routing_state)
    assert np.isfinite(row['loss']) and 'activation_TD' not in row
  with pytest.raises(InputError, match=f'control = {control} is for experiments'):
    weights.InferenceConfig(model.config, len(VOCABULARY))


@pytest.mark.parametrize(
  'control, settings',
  [('gumbel', {'routing': 'learned'}), ('gumbel', {'top_k': 2}), ('hash', {'clusters': 2}), ('tile_dropout', {})],
)
def test_controls_of_other_models_are_refused(control, settings):
  with pytest.raises(InputError, match=f'control = {control} is for model.routing'):
    config_of(control, **settings)


@pytest.mark.slow
def test_a_student_moves_towards_its_teacher():
  loss = configuration.LossConfig(distillation_weight=1.0, balance_weight=0.0)
  config = dataclasses.replace(config_of('none', dropout=0.0), loss=loss)
  model = transformer.TransformerLM(config.model, len(VOCABULARY))
  token = jnp.asarray(np.random.default_rng(1).integers(0, 8, (2, 16), np.int32))
  teacher_params = init_state(config_of('none'), model).params
  teacher = Teacher(model, {**teacher_params, 'head': {'kernel': teacher_params['head']['kernel'] * 40}}, {})
  logits, _ = forward(model, teacher.params, {}, token)
  # Entropy is the least that a cross-entropy can be, and that of its own predictions is.
  entropy = -jnp.mean(jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), axis=-1))
  assert teacher.cross_entropy(logits, token) == pytest.approx(float(entropy), rel=1e-5)
  params = init_state(dataclasses.replace(config, seed=3), model).params
  windows = jnp.pad(token, ((0, 0), (0, 1)))
  loss_fn = jax.jit(
    jax.shard_map(
      lambda params: jax.value_and_grad(make_loss(config.loss, model, Others(teacher)), has_aux=True)(
        params, {}, windows, jax.random.key(0)
      ),
      mesh=devices.data_mesh(1),
      in_specs=jax.P(),
      out_specs=jax.P(),
      check_vma=False,
    )
  )
  losses = []
  for _ in range(30):
    (objective, _), grads = loss_fn(params)
    losses.append(float(objective))
    params = optax.apply_updates(params, jax.tree.map(lambda grad: -0.5 * grad, grads))
  assert losses[-1] - float(entropy) < 0.7 * (losses[0] - float(entropy))
