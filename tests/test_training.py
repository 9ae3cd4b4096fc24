import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import fast_first, slow

from trix_jax import configuration
from trix_jax.core import routing, signatures
from trix_jax.data import corpora
from trix_jax.errors import InputError, WorkdirInUse
from trix_jax.evaluation import classes
from trix_jax.evaluation.evaluator import (
  WINDOWS_AT_A_TIME,
  Evaluator,
  _tile_disagreement,
  change_routing,
  evaluate_routings,
  make_trained_backend,
  record_tiles,
)
from trix_jax.inspection import gate_fitting
from trix_jax.nn import transformer
from trix_jax.runs import checkpoints, workdirs
from trix_jax.system import devices
from trix_jax.training import hooks, optimizers
from trix_jax.training.others import Others, Teacher
from trix_jax.training.step import (
  first_non_finite,
  init_state,
  make_gradients,
  make_loss,
  make_train_step,
)

VOCABULARY = ' .0abc\n'


def tiny(**overrides):
  config = configuration.default_config()
  config.model.update({'layers': 1, 'd_model': 16, 'heads': 2, 'd_ff': 32, 'context': 16, 'dropout': 0.0})
  config.training.update({'steps': 60, 'batch_size': 4})
  for name, value in overrides.items():
    section, key = name.split('__')
    config[section][key] = value
  return configuration.parse(config)


def start(config, mesh_size=2):
  model = transformer.TransformerLM(config.model, len(VOCABULARY))
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:mesh_size]), (devices.AXIS,))
  state = devices.replicate(init_state(config, model), mesh)
  return model, mesh, state


def text(length=400):
  """A text with something to learn: a noisy cycle through the vocabulary."""
  rng = np.random.default_rng(0)
  return ((np.arange(length) + (rng.random(length) < 0.1)) % len(VOCABULARY)).astype(np.int32)


def batch(config, mesh, step=0):
  settings = config.training
  return devices.split_batch(corpora.draw_batch(text(), config.model.context, settings.batch_size, 0, step), mesh)


def run(config, steps, mesh_size=2):
  model, mesh, state = start(config, mesh_size)
  step = make_train_step(config, model, mesh)
  losses = []
  for index in range(steps):
    state, metrics = step(state, batch(config, mesh, index), index)
    losses.append(float(metrics['loss']))
  return state, losses, metrics


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


def test_the_balance_bias_moves_towards_balance():
  config = tiny(model__layers=2, model__balance_bias=True, loss__balance_bias_rate=0.05, loss__balance_weight=0.0)
  model, mesh, state = start(config)
  new_state, metrics = make_train_step(config, model, mesh)(state, batch(config, mesh), 0)
  for layer in range(2):
    bias = np.asarray(new_state.routing_state[f'layer_{layer}']['ffn']['balance_bias'])
    np.testing.assert_array_equal(np.sign(bias), np.sign(0.25 - np.asarray(metrics['tile_load'][layer])))


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


def test_evaluation_counts_every_character_once():
  config = tiny(model__layers=2)
  model, _, state = start(config)
  tokens = text(333)  # Not a multiple of the context, nor of the batch.
  row = Evaluator(model.config, VOCABULARY, tokens)(state.params)

  @jax.jit
  def losses_of(params, window_L):
    logits, _ = transformer.apply(model, params, {}, window_L[None, :-1])
    return transformer.next_token_loss(logits, window_L[None, 1:])[0]

  losses = []
  for first in range(0, 332, 16):
    losses += list(np.asarray(losses_of(jax.device_get(state.params), tokens[first : first + 17])))
  assert len(losses) == 332
  assert row['loss'] == pytest.approx(np.mean(losses), rel=1e-5)
  assert row['perplexity'] == pytest.approx(np.exp(row['loss']))
  counts = np.array(row['class_tiles'])
  assert counts.shape == (2, len(classes.CLASSES), 4)
  characters = [VOCABULARY[token] for token in tokens[:-1]]
  expected = [sum(classes.character_class(c) == name for c in characters) for name in classes.CLASSES]
  np.testing.assert_array_equal(counts.sum(axis=2), [expected, expected])
  np.testing.assert_allclose(np.array(row['tile_load']), counts.sum(axis=1) / 332, atol=1e-5)


def test_a_tile_that_no_token_reaches_and_a_silent_one_are_dead():
  config = tiny(model__layers=2)
  model, _, state = start(config)
  params = jax.tree.map(np.array, state.params)
  evaluate = Evaluator(model.config, VOCABULARY, text())
  unreached = [int(np.sum(np.array(load) == 0)) for load in evaluate(params)['tile_load']]
  assert evaluate(params)['dead_tiles'] == unreached
  used = int(np.argmax(evaluate(params)['tile_load'][0]))
  params['layer_0']['ffn']['down'][used] = 0
  assert evaluate(params)['dead_tiles'][0] == unreached[0] + 1
  first = Evaluator(change_routing(model.config, 'first'), VOCABULARY, text())
  assert first(jax.device_get(state.params))['dead_tiles'] == [3, 3]


def test_parameter_counts_of_the_reference():
  settings = configuration.default_config()
  settings.model.update({'form': 'reference', 'shared_down_scale': True, 'routing': 'learned', 'balance_bias': True})
  settings.loss.balance_bias_rate = 0.1
  config = configuration.parse(settings)
  model = transformer.TransformerLM(config.model, 65)
  state = jax.eval_shape(lambda: init_state(config, model))
  # 3 of 4 tiles idle in 4 layers, each 2 * 128 * 128 weights and 128 up scales; the down scale is shared.
  idle = 3 * 4 * (2 * 128 * 128 + 128)
  assert workdirs.describe_parameters(model.config, state.params, state.routing_state) == {
    'parameters': {'total': 844_881, 'routing': 2_064, 'active_per_token': 844_881 - idle},
    'routing_state': 16,
  }


@pytest.mark.slow
def test_parameter_counts_of_tiles_with_output_scales():
  config = configuration.parse(configuration.hierarchical_config(tiles=16, clusters=4, probes=2, top_k=4, d_ff=512))
  model = transformer.TransformerLM(config.model, 65)
  state = jax.eval_shape(lambda: init_state(config, model))
  counts = workdirs.describe_parameters(model.config, state.params, state.routing_state)['parameters']
  # 12 of 16 tiles idle in 4 layers, each 2 * 128 * 32 weights, 32 up scales, 128 down scales and an output scale.
  assert counts['total'] - counts['active_per_token'] == 12 * 4 * (2 * 128 * 32 + 32 + 128 + 1)


@pytest.mark.slow
def test_evaluating_a_thousand_tiles_takes_the_memory_of_their_hidden_units():
  """Not that of 1,024 gates of each of 1,024 chosen tiles: 32 GiB where all are computed."""
  settings = configuration.hierarchical_config(tiles=1024, clusters=32, probes=4, top_k=4, d_ff=8192)
  settings.model.layers = 1
  config = configuration.parse(settings)
  for name in ('dense', 'emergent'):
    model = change_routing(config.model, name)
    state = jax.eval_shape(lambda: init_state(config, transformer.TransformerLM(config.model, len(VOCABULARY))))
    evaluator = Evaluator(model, VOCABULARY, np.zeros(1000, np.int32))
    windows = jax.ShapeDtypeStruct((WINDOWS_AT_A_TIME, 257), jnp.int32)
    targets = jax.ShapeDtypeStruct((WINDOWS_AT_A_TIME,), jnp.int32)
    compiled = evaluator._step.lower(state.params, state.routing_state, windows, targets, 0).compile()
    hidden = WINDOWS_AT_A_TIME * 256 * 8192 * 4 // jax.device_count()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * hidden


def test_disagreement_is_the_share_of_tokens_that_go_to_another_tile():
  config = tiny()
  model, _, state = start(config)
  others = init_state(dataclasses.replace(config, seed=1), model).params
  backend = make_trained_backend(model.config, len(VOCABULARY))
  tokens = text(5 * 16 + 1)
  both = jax.device_get((state.params, others))
  share = _tile_disagreement(16, tokens, *((backend, params, {}) for params in both))
  first, second = (record_tiles(model, params, {}, tokens[:-1])[0] for params in both)
  np.testing.assert_allclose(share, np.mean(first[..., 0] != second[..., 0], axis=1))
  assert min(share) > 0


def test_mutual_information_of_known_tables():
  assert classes.normalised_mutual_information([[5, 0], [0, 5]]) == pytest.approx(1)
  assert classes.normalised_mutual_information([[2, 4], [3, 6]]) == pytest.approx(0, abs=1e-12)
  assert classes.normalised_mutual_information([[7, 0], [0, 0]]) == 0
  # By hand for [[1, 1], [0, 2]] / 4:
  # H(class) = log 2, H(tile) = 0.5623 nats, H(joint) = 1.0397 nats, 2 I / (H + H) = 0.3437.
  assert classes.normalised_mutual_information([[1, 1], [0, 2]]) == pytest.approx(0.3437, abs=1e-4)


def trained_on_nothing(config):
  _, _, state = start(config)
  run_corpus = corpora.Corpus('file', VOCABULARY, text(), text()[-100:], 'sha')
  trained = checkpoints.Trained(
    config,
    transformer.TransformerLM(config.model, len(VOCABULARY)),
    VOCABULARY,
    {'corpus': {'sha256': 'sha'}},
    'best',
    0,
    float('nan'),
    jax.device_get(state.params),
    {},
  )
  return trained, run_corpus


def test_another_text_does_not_pass_for_that_of_the_training(tmp_path):
  path = tmp_path / 'text.txt'
  path.write_text('to be or not to be, ' * 20)
  config = configuration.RunConfig(corpus='file', file=str(path))
  corpus = corpora.load_corpus('file', str(path))
  run = {'corpus': {'sha256': corpus.sha256}}
  trained = checkpoints.Trained(config, None, corpus.vocabulary, run, 'best', 0, 0.0, {}, {})
  np.testing.assert_array_equal(trained.corpus().train, corpus.train)
  path.write_text('to be or not to me, ' * 20)
  with pytest.raises(InputError, match='is not the text the model was trained on'):
    trained.corpus()


@pytest.mark.slow
def test_a_fitted_gate_lowers_the_loss_and_touches_nothing_else(monkeypatch):
  config = tiny(model__gate='one_hot')
  trained, corpus = trained_on_nothing(config)
  monkeypatch.setattr(checkpoints.Trained, 'corpus', lambda _: corpus)

  def loss_of(params):
    fitted = change_routing(trained.model.config, 'learned')
    return Evaluator(fitted, VOCABULARY, corpus.train)(params)['loss']

  first, last = (gate_fitting.fit_gate(trained, steps) for steps in (1, 40))
  assert loss_of(last) < loss_of(first)
  gate = last['layer_0']['ffn'].pop('gate')
  assert gate['kernel'].shape == (16, 4)
  jax.tree.map(np.testing.assert_array_equal, last, trained.params)


@pytest.mark.slow
def test_a_model_with_a_learned_gate_is_evaluated_by_it_too():
  config = tiny(model__routing='learned', model__balance_bias=True, loss__balance_bias_rate=0.1)
  trained, corpus = trained_on_nothing(config)
  # A bias so large that only tile 3 is chosen, which the other routings must not see.
  state = {'layer_0': {'ffn': {'balance_bias': np.float32([0, 0, 0, 1e6])}}}
  rows = {
    row['routing']: row
    for row in evaluate_routings(trained.model.config, VOCABULARY, corpus.validation, trained.params, state)
  }
  assert list(rows) == ['dense', 'emergent', 'random', 'first', 'learned']
  assert rows['learned']['tile_load'] == [[0, 0, 0, 1]] and rows['first']['tile_load'] == [[1, 0, 0, 0]]
  assert rows['emergent']['tile_load'][0][3] < 1
  with pytest.raises(InputError, match='leave out --fit_gate'):
    gate_fitting.fit_gate(trained, 1)


def test_the_best_checkpoint_beyond_the_step_resumed_from_is_forgotten(tmp_path):
  _, _, state = start(tiny())
  saved = checkpoints.Checkpoints(tmp_path)
  for step, loss in ((2, 1.5), (4, 1.25)):
    saved.save('best', state.replace(step=jnp.int32(step)), loss)
  assert saved.forget_after(3) and saved.latest_step('best') == 2
  assert saved.restore('best', state)[1] == 1.5
  assert not saved.forget_after(1)
  with pytest.raises(InputError, match='there is no checkpoint'):
    saved.restore('best', state)


def test_the_newest_checkpoints_stay(tmp_path):
  _, _, state = start(tiny())
  saved = checkpoints.Checkpoints(tmp_path, keep=1)
  for step in (1, 2, 3):
    for kind in checkpoints.KINDS:
      saved.save(kind, state.replace(step=jnp.int32(step)), 1.0)
  assert saved.steps('last') == [3] and saved.steps('best') == [2, 3]


def test_run_json_lists_every_session(tmp_path):
  config = tiny()
  _, mesh, state = start(config)
  corpus = corpora.Corpus('file', VOCABULARY, text(), text()[-100:], 'sha')
  for step in (0, 20):
    workdirs.write_run(tmp_path, config, corpus, state.params, state.routing_state, mesh, step)
  described = workdirs.read_run(tmp_path)
  assert [session['started_at_step'] for session in described['sessions']] == [0, 20]
  assert described['corpus']['validation_characters'] == 99
  with pytest.raises(InputError, match='was trained on another text'):
    workdirs.check_corpus(tmp_path, dataclasses.replace(corpus, sha256='other'))


def test_a_workdir_is_written_by_one_training_at_a_time(tmp_path):
  config = tiny()
  with workdirs.open_workdir(tmp_path, config):
    with pytest.raises(WorkdirInUse, match='another training is running'), workdirs.open_workdir(tmp_path, config):
      pass
  with workdirs.open_workdir(tmp_path, config):
    pass
  assert WorkdirInUse.exit_code not in (0, 1, InputError.exit_code)


def test_a_run_knows_the_checkout_that_it_came_from():
  assert (workdirs.CHECKOUT / 'trix_jax' / 'runs' / 'workdirs.py').samefile(workdirs.__file__)


def test_a_trace_ends_where_a_run_fails(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: calls.append('start'))
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('stop'))
  with pytest.raises(ZeroDivisionError), hooks.Profile(tmp_path, 0, 100) as profile:
    profile.before_step(hooks.PROFILE_AFTER, jnp.zeros(()))
    raise ZeroDivisionError
  assert calls == ['start', 'stop']
