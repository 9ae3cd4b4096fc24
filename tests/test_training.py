import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast_first, slow
from tiny_training import VOCABULARY, batch, run, start, text, tiny

from trix_jax.core import routing, signatures
from trix_jax.data import corpora
from trix_jax.evaluation.evaluator import (
  Evaluator,
)
from trix_jax.nn import transformer
from trix_jax.runs import checkpoints
from trix_jax.system import devices
from trix_jax.training.others import Others, Teacher
from trix_jax.training.step import first_non_finite, init_state, make_gradients, make_loss, make_train_step


@pytest.mark.parametrize('name', fast_first(['muon', 'adamw']))
def test_training_learns(name):
  _, losses, metrics = run(tiny(model__layers=2, optimizer__name=name, optimizer__learning_rate=2e-2), 60)
  assert losses[0] == pytest.approx(np.log(len(VOCABULARY)), abs=0.2)
  assert np.mean(losses[-5:]) < 0.75 * losses[0]
  assert metrics['finite'] and metrics['tile_load'].shape == (2, 4)


def test_the_number_of_devices_does_not_change_loss_and_gradient():
  # Both losses of routing look at the whole batch: a balance loss of each device's own load would show.
  config = tiny(loss__balance_weight=0.5, loss__diversity_weight=0.5)
  one, two = (gradients(config, mesh_size) for mesh_size in (1, 2))
  np.testing.assert_allclose(one[1]['loss'], two[1]['loss'], rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), one[0], two[0])


@pytest.mark.parametrize(
  'overrides',
  [
    {'model__balance_bias': True, 'loss__balance_bias_rate': 0.01},
    {'model__tiles': 8, 'model__top_k': 2, 'model__dropout': 0.3},
    *slow(
      {'training__accumulation': 2},
      {'model__routing': 'random'},
      {'model__routing': 'learned', 'optimizer__name': 'adamw'},
    ),
    *slow(
      {
        'model__tiles': 8,
        'model__clusters': 2,
        'model__balance_bias': True,
        'loss__balance_bias_rate': 0.01,
        'hierarchy__rebuild_every': 2,
        'hierarchy__revive_below': 1.0,
      },
    ),
  ],
)
def test_a_state_through_a_checkpoint_goes_on_with_the_same_bits(overrides, tmp_path):
  config = tiny(**overrides)
  model, mesh, state = start(config)
  step = make_train_step(config, model, mesh)
  for index in range(6):
    if index == 3:
      checkpoints.Checkpoints(tmp_path).save('last', state, 1.0)
    state, _ = step(state, batch(config, mesh, index), index)
  resumed, _ = checkpoints.Checkpoints(tmp_path).restore('last', jax.eval_shape(lambda: init_state(config, model)))
  resumed = devices.replicate(resumed, mesh)
  for index in range(3, 6):
    resumed, _ = step(resumed, batch(config, mesh, index), index)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(resumed))


def gradients(config, mesh_size=2):
  model, mesh, state = start(config, mesh_size)
  return jax.jit(make_gradients(config, model, mesh))(state, batch(config, mesh), jax.random.key(config.seed))


@pytest.mark.slow
def test_randomness_is_of_the_step_the_device_and_the_part():
  """On the same windows everywhere, so that the loss differs only where dropout does."""

  def loss(devices_, parts, step=0):
    config = tiny(model__dropout=0.5, training__accumulation=parts)
    model, mesh, state = start(config, devices_)
    window = corpora.draw_batch(text(), config.model.context, 1, 0, 0)
    windows = devices.split_batch(np.repeat(window, devices_ * parts, axis=0), mesh)
    compute = jax.jit(make_gradients(config, model, mesh))
    return float(compute(state.replace(step=jnp.int32(step)), windows, jax.random.key(0))[1]['loss'])

  one = loss(1, 1)
  # The mean over two copies is that of one copy only where both draw the same.
  for other in (loss(1, 1, step=1), loss(2, 1), loss(1, 2)):
    assert abs(other - one) > 1e-4


def test_the_objective_is_the_sum_of_its_parts():
  config = tiny(
    model__layers=2,
    loss__teacher='somewhere',
    loss__distillation_weight=0.25,
    loss__balance_weight=0.5,
    loss__diversity_weight=2.0,
  )
  model, mesh, state = start(config, 1)
  windows, key = batch(config, mesh), jax.random.key(0)
  teacher = Teacher(model, jax.tree.map(lambda leaf: 1.5 * leaf, state.params), {})

  @jax.jit
  def objective(params):
    loss_fn = make_loss(config.loss, model, Others(teacher))
    return jax.vmap(lambda windows: loss_fn(params, {}, windows, key)[0], axis_name=devices.AXIS)(windows[None])[0]

  @jax.jit
  def parts(params):
    logits, infos = transformer.apply(model, params, {}, windows[:, :-1])
    balance = [routing.balance_loss(info, routing.statistics(info)['tile_load']) for info in infos]
    similarity = [signatures.similarity_loss(info.signatures_TD) for info in infos]
    return (
      transformer.next_token_loss(logits, windows[:, 1:]).mean(),
      teacher.cross_entropy(logits, windows[:, :-1]),
      sum(balance) / 2,
      sum(similarity) / 2,
    )

  found = [float(part) for part in parts(state.params)]
  assert min(found) > 0.01 and abs(found[0] - found[1]) > 0.01
  assert float(objective(state.params)) == pytest.approx(np.dot([0.75, 0.25, 0.5, 2.0], found), rel=1e-4)


def test_seeds_share_one_program():
  def program(seed):
    config = dataclasses.replace(tiny(model__dropout=0.1), seed=seed)
    model, mesh, state = start(config)
    return (
      jax.jit(make_gradients(config, model, mesh)).lower(state, batch(config, mesh), jax.random.key(seed)).as_text()
    )

  assert program(0) == program(1)


def test_accumulation_gives_the_gradient_of_the_whole_batch():
  # The balance loss is of each part, so it is left out here.
  whole, metrics = gradients(tiny(training__batch_size=8, loss__balance_weight=0.0))
  parts, part_metrics = gradients(tiny(training__batch_size=8, loss__balance_weight=0.0, training__accumulation=2))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), whole, parts)
  np.testing.assert_allclose(metrics['loss'], part_metrics['loss'], rtol=1e-5)


@pytest.mark.parametrize('overrides', fast_first([{}, {'model__tiles': 8, 'model__clusters': 2}]))
def test_a_training_step_and_evaluation_route_alike(overrides):
  """The differentiated, sharded step against the evaluator on the same windows; float noise may flip a few tokens."""
  config = tiny(training__batch_size=8, **overrides)
  model, _, state = start(config)
  tokens = text(8 * 16 + 1)
  windows = tokens[np.arange(8)[:, None] * 16 + np.arange(17)]
  _, metrics = jax.jit(make_gradients(config, model, devices.data_mesh(2)))(state, windows, jax.random.key(config.seed))
  row = Evaluator(model.config, VOCABULARY, tokens)(state.params, state.routing_state)
  np.testing.assert_allclose(metrics['tile_load'], row['tile_load'], atol=0.005)
  assert float(metrics['loss']) == pytest.approx(row['loss'], abs=1e-3)


def test_a_step_that_is_not_finite_changes_nothing_and_the_tensor_is_named():
  config = tiny(model__layers=2)
  model, mesh, state = start(config)
  params = jax.tree.map(np.array, state.params)
  params['layer_1']['attention']['key']['kernel'][0, 0] = np.inf
  state = devices.replicate(state.replace(params=params), mesh)
  before = jax.device_get(state)
  assert first_non_finite(config, model, mesh, state, batch(config, mesh)) == ('parameter layer_1/attention/key/kernel')
  after, metrics = make_train_step(config, model, mesh)(state, batch(config, mesh), 0)
  assert not metrics['finite']
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(after))


def test_the_first_activation_that_overflows_is_named_and_later_steps_do_nothing():
  config = tiny(model__layers=2)
  model, mesh, state = start(config)
  params = jax.tree.map(np.array, state.params)
  params['layer_1']['ffn']['down_scale'][:] = 1e38  # Finite itself.
  params['layer_1']['ffn']['up_scale'][:] = 1e10
  state = devices.replicate(state.replace(params=params), mesh)
  assert first_non_finite(config, model, mesh, state, batch(config, mesh)) == 'activation layer_1/ffn'
  step = make_train_step(config, model, mesh)
  good = start(config)[2]
  before = jax.device_get(good)
  after, _ = step(good, batch(config, mesh), 1)  # The state is at step 0: step 0 must have failed.
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(after))


@pytest.mark.slow
def test_gradients_that_a_teacher_overflows_are_named():
  config = tiny(loss__teacher='somewhere')
  model, mesh, state = start(config)
  params = jax.device_get(state.params)
  params['head'] = {'kernel': 1e38 * np.sign(params['head']['kernel'])}  # Finite, and its logits are not.
  teacher = Teacher(model, params, {})
  given = config, model, mesh, state, batch(config, mesh)
  assert first_non_finite(*given, Others(teacher)).startswith('gradient of ')
  assert not first_non_finite(*given).startswith('gradient of ')


@pytest.mark.slow
def test_the_parameter_that_an_update_overflows_is_named():
  config = tiny(optimizer__name='adamw', optimizer__learning_rate=3e38, optimizer__warmup_fraction=0.0)
  model, mesh, state = start(config)
  name = first_non_finite(config, model, mesh, state, batch(config, mesh))
  assert re.fullmatch(r'parameter [a-z_0-9/]+/[a-z_]+ after the update', name)


def test_the_balance_bias_moves_towards_balance():
  config = tiny(model__layers=2, model__balance_bias=True, loss__balance_bias_rate=0.05, loss__balance_weight=0.0)
  model, mesh, state = start(config)
  new_state, metrics = make_train_step(config, model, mesh)(state, batch(config, mesh), 0)
  for layer in range(2):
    bias = np.asarray(new_state.routing_state[f'layer_{layer}']['ffn']['balance_bias'])
    np.testing.assert_array_equal(np.sign(bias), np.sign(0.25 - np.asarray(metrics['tile_load'][layer])))
