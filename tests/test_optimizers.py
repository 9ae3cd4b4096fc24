import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_training import batch, start, tiny

from trix_jax import configuration
from trix_jax.training import optimizers
from trix_jax.training.step import make_train_step


def test_weight_decay_reaches_every_parameter_until_it_ends():
  for name in ('muon', 'adamw'):
    config = tiny(
      optimizer__name=name,
      optimizer__weight_decay=0.5,
      optimizer__weight_decay_fraction=0.5,
      optimizer__warmup_fraction=0.0,
    )
    params = start(config)[2].params
    params = jax.tree.map(jnp.ones_like, params)
    optimizer = optimizers.make_optimizer(config.optimizer, configuration.TrainingConfig(steps=4))
    opt_state, zeros = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(optimizer.update)
    for step in range(4):
      updates, opt_state = update(zeros, opt_state, params)
      decayed = [bool(jnp.all(leaf < 0)) for leaf in jax.tree.leaves(updates)]
      assert all(decayed) if step < 2 else not any(decayed)


def test_tiles_train_alone():
  alone = tiny(training__start_from='earlier', training__train_only='tiles')
  whole = dataclasses.replace(alone, training=dataclasses.replace(alone.training, train_only=''))
  after = {}
  for config in (alone, whole):
    model, mesh, state = start(config)
    before = jax.device_get(state.params)
    step = make_train_step(config, model, mesh)
    norms = []
    for index in range(2):
      state, metrics = step(state, batch(config, mesh), index)
      norms.append(float(metrics['grad_norm']))
    moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), jax.device_get(state.params), before)
    after[config.training.train_only] = moved, norms
  moved, norms = after['tiles']
  assert all(jax.tree.leaves(moved['layer_0'].pop('ffn'))) and not any(jax.tree.leaves(moved))
  assert all(jax.tree.leaves(after[''][0])) and norms[0] < after[''][1][0]  # Held parameters have no gradient.


def test_a_gradient_is_clipped_to_its_norm():
  settings = configuration.OptimizerConfig(name='adamw')
  params = {'scale': jnp.ones(3)}
  grads = {'scale': jnp.array([1.0, -2.0, 2.0])}  # Of norm 3, and clipped to 1.
  optimizer = optimizers.make_optimizer(settings, configuration.TrainingConfig(steps=100))

  def second_update(factor):
    # After an ordinary gradient, since Adam makes one alone as large as any other.
    _, opt_state = optimizer.update(grads, optimizer.init(params), params)
    return optimizer.update(jax.tree.map(lambda grad: factor * grad, grads), opt_state, params)[0]['scale']

  np.testing.assert_allclose(second_update(1e4), second_update(1.0), rtol=1e-5)
  assert np.all(second_update(1e-2) != second_update(1.0))


@pytest.mark.parametrize('steps', [1, 2, 3, 1000])
def test_schedules_scale_with_any_number_of_steps(steps):
  settings = configuration.OptimizerConfig(weight_decay=0.5, weight_decay_fraction=0.75)
  rate = optimizers.learning_rate_schedule(2.0, settings, steps)
  decay = optimizers.weight_decay_schedule(settings, steps)
  rates = [float(rate(step)) for step in range(steps)]
  assert max(rates) == pytest.approx(2.0) and np.all(np.isfinite(rates)) and (steps < 4 or rates[0] < 0.1)
  assert float(decay(0)) == pytest.approx(0.5)
  assert steps < 4 or float(decay(steps - 1)) == 0
  assert steps < 4 or float(rate(steps)) == pytest.approx(2.0 * settings.final_fraction)


def test_muon_takes_the_matrices_and_every_tile_by_itself():
  config = tiny()
  _, _, state = start(config)
  dimensions = optimizers.mark_matrices(state.params)
  layer = dimensions['layer_0']
  assert layer['ffn']['up'] is not None and layer['attention']['query']['kernel'] is not None
  assert dimensions['head']['kernel'] is None and dimensions['embedding']['embedding'] is None
  assert layer['ffn']['up_scale'] is None and layer['ffn_norm']['scale'] is None
  optimizer = optimizers.make_optimizer(config.optimizer, configuration.TrainingConfig(steps=100))
  # Warm-up starts from 0, so the second update is the first that moves anything.
  params, grads = (
    state.params,
    jax.tree.map(
      lambda leaf: jnp.asarray(np.random.default_rng(0).standard_normal(leaf.shape), jnp.float32), state.params
    ),
  )
  _, opt_state = optimizer.update(grads, optimizer.init(params), params)
  updates, _ = optimizer.update(grads, opt_state, params)
  values = np.linalg.svd(updates['layer_0']['ffn']['up'][0], compute_uv=False)
  # Newton-Schulz with Muon's coefficients brings singular values to about 0.7 ... 1.2 of one another.
  assert values.max() / values.min() < 3
  assert optax.global_norm(updates['head']) > 0
