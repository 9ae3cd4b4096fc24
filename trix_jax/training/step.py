"""One training step, as a pure function of the state and a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from trix_jax.configuration import LossConfig, RunConfig
from trix_jax.core import routing, signatures
from trix_jax.core.finite import first_not_finite, is_finite
from trix_jax.nn import transformer
from trix_jax.runs.state import TrainState
from trix_jax.system import devices
from trix_jax.training import naming, optimizers, routing_state
from trix_jax.training.others import NO_OTHERS, Others


def init_state(config: RunConfig, model: transformer.TransformerLM) -> TrainState:
  """Make the state before the first step, a function of the config alone."""
  optimizer = optimizers.make_optimizer(config.optimizer, config.training)

  @jax.jit  # One program compiles faster: operation by operation it takes seconds.
  def init(key):
    params, state = transformer.init(model, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), state)

  return init(jax.random.key(config.seed))  # The key is an argument, so that all seeds share one program.


def make_loss(settings: LossConfig, model: transformer.TransformerLM, others: Others = NO_OTHERS):
  """Make the training loss: f(params, routing_state, windows [B, L + 1], key) -> (objective, metrics).

  `metrics` holds the cross-entropy in nats as `loss` and `routing.statistics` stacked over layers. Trace the loss under
  the mesh axis `devices.AXIS`, because the balance loss uses the load of all devices.
  """
  teacher, host = others

  def loss_fn(params, state, windows, key):
    dropout_key, routing_key = jax.random.split(key)
    rngs = {'dropout': dropout_key, 'routing': routing_key, 'tiles': jax.random.fold_in(key, 1)}
    if host is None:
      logits, infos = transformer.apply(model, params, state, windows[:, :-1], train=True, rngs=rngs)
    else:
      logits, infos, asked = naming.apply(model, params, state, windows[:, :-1], train=True, rngs=rngs)
    loss = transformer.next_token_loss(logits, windows[:, 1:]).mean()
    per_layer = [routing.statistics(info) for info in infos]
    metrics = jax.tree.map(lambda *layers: jax.lax.stop_gradient(jnp.stack(layers)), *per_layer)
    objective = loss
    if teacher is not None:
      weight = settings.distillation_weight
      objective = (1 - weight) * loss + weight * teacher.cross_entropy(logits, windows[:, :-1])
    if settings.balance_weight:
      loads = [jax.lax.pmean(metrics[name], devices.AXIS) for name in ('tile_load', 'cluster_load') if name in metrics]
      objective += settings.balance_weight * jnp.mean(
        jnp.stack([routing.balance_loss(info, *of_layer) for info, *of_layer in zip(infos, *loads, strict=True)])
      )
    if settings.diversity_weight:
      objective += settings.diversity_weight * jnp.mean(
        jnp.stack([signatures.similarity_loss(info.signatures_TD) for info in infos])
      )
    if host is not None:
      objective += settings.naming_weight * jnp.mean(
        jnp.stack(
          [
            naming.naming_loss(info.signatures_TD, of_text, of_host, model.config)
            for info, of_text, of_host in zip(infos, asked, host, strict=True)
          ]
        )
      )
    return objective, {'loss': loss, **metrics}

  return loss_fn


def make_train_step(
  config: RunConfig, model: transformer.TransformerLM, mesh: jax.sharding.Mesh, others: Others = NO_OTHERS
):
  """Make step(state, windows [B, L + 1], index) -> (state, metrics), jitted, with the batch split over the mesh.

  The step donates the state. When the loss, the gradient or a new parameter is not finite, `metrics['finite']` is False
  and the state, including its step, comes back unchanged. `index` is the step that the caller means to take. A state at
  another step stays unchanged, so that steps dispatched after a bad one do nothing.
  """
  optimizer = optimizers.make_optimizer(config.optimizer, config.training)
  learning_rate = optimizers.learning_rate_schedule(
    config.optimizer.learning_rate, config.optimizer, config.training.steps
  )
  replicated, split = PartitionSpec(), PartitionSpec(devices.AXIS)
  compute = make_gradients(config, model, mesh, others)

  def shared_out(grad):
    """Split stacks of tiles over the devices, so that each orthogonalises its share. Muon takes a sixth of a step."""
    if grad.ndim == 3 and grad.shape[0] % mesh.size == 0:
      return jax.lax.with_sharding_constraint(grad, jax.sharding.NamedSharding(mesh, split))
    return grad

  def step_fn(state: TrainState, windows, index, key):
    grads, metrics = compute(state, windows, key)
    grad_norm = optax.global_norm(grads)
    grads = jax.tree.map(shared_out, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    moved, params = routing_state.update(
      state.routing_state, optax.apply_updates(state.params, updates), metrics, config, state.step
    )
    new_state = TrainState(state.step + 1, params, opt_state, moved)
    finite = jnp.isfinite(jnp.stack([metrics['loss'], grad_norm, optax.global_norm(new_state.params)])).all()
    valid = finite & (state.step == index)
    new_state = jax.tree.map(lambda new, old: jnp.where(valid, new, old), new_state, state)
    return new_state, {**metrics, 'finite': finite, 'grad_norm': grad_norm, 'learning_rate': learning_rate(state.step)}

  step = jax.jit(step_fn, donate_argnums=0, out_shardings=jax.sharding.NamedSharding(mesh, replicated))
  key = devices.replicate(jax.random.key(config.seed), mesh)
  return lambda state, windows, index: step(state, windows, index, key)


def make_gradients(
  config: RunConfig, model: transformer.TransformerLM, mesh: jax.sharding.Mesh, others: Others = NO_OTHERS
):
  """Make f(state, windows split over the mesh, key of the run) -> (gradients, metrics): means over devices, parts."""
  loss_fn, train_only = make_loss(config.loss, model, others), config.training.train_only

  def loss_of_trained(params, *rest):
    return loss_fn(optimizers.hold(params, train_only), *rest)

  value_and_grad = jax.value_and_grad(loss_of_trained, has_aux=True)
  parts = config.training.accumulation

  def compute(state: TrainState, windows, key):
    key = jax.random.fold_in(key, state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(devices.AXIS))

    def of_part(part_windows, part):
      (_, metrics), grads = value_and_grad(
        state.params, state.routing_state, part_windows, jax.random.fold_in(key, part)
      )
      return grads, metrics

    if parts == 1:
      result = of_part(windows, 0)
    else:
      stacked = windows.reshape(parts, -1, windows.shape[-1])

      def add(total, part):
        return jax.tree.map(jnp.add, total, of_part(stacked[part], part)), None

      zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_part, stacked[0], 0))
      total, _ = jax.lax.scan(add, zeros, jnp.arange(parts))
      result = jax.tree.map(lambda leaf: leaf / parts, total)
    return jax.lax.pmean(result, devices.AXIS)

  return jax.shard_map(
    compute,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec(devices.AXIS), PartitionSpec()),
    out_specs=PartitionSpec(),
    check_vma=False,
  )


def first_non_finite(
  config: RunConfig,
  model: transformer.TransformerLM,
  mesh: jax.sharding.Mesh,
  state: TrainState,
  windows,
  others: Others = NO_OTHERS,
) -> str:
  """Name the first tensor that is not finite: a parameter, an activation, or the gradient of a parameter."""
  for kind, tree in (('parameter', state.params), ('routing state', state.routing_state)):
    if name := first_not_finite(tree):
      return f'{kind} {name}'
  names: list[str] = []

  @jax.jit
  def finite_activations(params, state, windows):
    _, captured = model.apply(
      {'params': params, 'routing': state},
      windows[:, :-1],
      capture_intermediates=True,
      mutable=['intermediates'],
      rngs={'routing': jax.random.key(0)},
    )
    activations = _in_order_of_time(captured['intermediates'])
    names.extend(name for name, _ in activations)
    return [is_finite(activation) for _, activation in activations]

  finite = finite_activations(*jax.device_get((state.params, state.routing_state, windows)))
  for name, good in zip(names, finite, strict=True):
    if not good:
      return f'activation {name}'
  grads, _ = jax.jit(make_gradients(config, model, mesh, others))(state, windows, jax.random.key(config.seed))
  if name := first_not_finite(grads):
    return f'gradient of {name}'
  if not jnp.isfinite(optax.global_norm(grads)):
    return 'the norm of the gradient (its square overflows float32)'
  optimizer = optimizers.make_optimizer(config.optimizer, config.training)
  updates, _ = jax.jit(optimizer.update)(grads, state.opt_state, state.params)
  if name := first_not_finite(optax.apply_updates(state.params, updates)):
    return f'parameter {name} after the update'
  return 'the norm of the parameters after the update (its square overflows float32)'


def _in_order_of_time(captured: dict[str, Any], path: str = '') -> list[tuple[str, Any]]:
  """List every module's name and output. The outputs of a module's parts, in the order of the dict, precede its own."""
  result = []
  for name, child in captured.items():
    # A dropout module only repeats a tensor that came before it, under a name made earlier.
    if name != '__call__' and not name.startswith('Dropout'):
      result += _in_order_of_time(child, f'{path}/{name}' if path else name)
  if '__call__' in captured:
    result.append((path or 'output', captured['__call__']))
  return result
