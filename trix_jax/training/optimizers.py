"""Muon for matrices and AdamW for the rest, with schedules that scale with the number of steps."""

import jax
import optax
from optax import contrib

from trix_jax.configuration import ALL, OptimizerConfig, TrainingConfig


def learning_rate_schedule(peak: float, settings: OptimizerConfig, steps: int) -> optax.Schedule:
  """Return a linear warm-up from 0, then a cosine decay to `final_fraction` of the peak; for any steps >= 1."""
  warmup = min(round(settings.warmup_fraction * steps), steps - 1)
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup else peak,
    peak_value=peak,
    warmup_steps=warmup,
    decay_steps=max(steps, 1),
    end_value=settings.final_fraction * peak,
  )


def weight_decay_schedule(settings: OptimizerConfig, steps: int) -> optax.Schedule:
  """Return a weight decay that is constant for `weight_decay_fraction` of the steps, then 0."""
  end = round(settings.weight_decay_fraction * steps)
  return optax.piecewise_constant_schedule(settings.weight_decay, {end: 0.0} if end < steps else None)


def mark_matrices(params):
  """Return the axes of the parameters that Muon orthogonalises, and None for the rest.

  Attention kernels are matrices, and tiles are batches of matrices. AdamW trains embeddings, head and gates.
  """

  def of(path, leaf):
    names = [entry.key for entry in path]
    if names[-1] in ('up', 'down') and leaf.ndim == 3:
      return contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    if 'attention' in names and names[-1] == 'kernel':
      return contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1)
    return None

  return jax.tree_util.tree_map_with_path(of, params)


def mark_trained(params, train_only: str):
  """Name each parameter `trained` or `held`: all train, or with `train_only` = `tiles` those of the tiles."""

  def of(path, _):
    return 'trained' if train_only == ALL or 'ffn' in [entry.key for entry in path] else 'held'

  return jax.tree_util.tree_map_with_path(of, params)


def hold(params, train_only: str):
  """Return parameters that pass no gradient where they do not train."""
  marks = mark_trained(params, train_only)
  return jax.tree.map(lambda of, mark: of if mark == 'trained' else jax.lax.stop_gradient(of), params, marks)


def make_optimizer(settings: OptimizerConfig, training: TrainingConfig) -> optax.GradientTransformation:
  """Make the optimiser: clipping, then Muon (Jordan et al., 2024) or AdamW.

  Weight decay is decoupled and applies to every parameter, including norms and scales, as in the original. Parameters
  that do not train, see `mark_trained`, never change.
  """
  steps, train_only = training.steps, training.train_only
  rate = learning_rate_schedule(settings.learning_rate, settings, steps)
  decay = weight_decay_schedule(settings, steps)
  if settings.name == 'adamw':
    update = optax.adamw(rate, b2=settings.adam_b2, weight_decay=decay)
  else:
    update = contrib.muon(
      rate,
      weight_decay=decay,
      muon_weight_dimension_numbers=mark_matrices,
      adam_learning_rate=learning_rate_schedule(settings.adam_learning_rate, settings, steps),
      adam_b2=settings.adam_b2,
      adam_weight_decay=decay,
    )
  whole = optax.chain(optax.clip_by_global_norm(settings.clip_norm), update)
  if train_only == ALL:
    return whole
  return optax.partition(
    {'trained': whole, 'held': optax.set_to_zero()}, lambda params: mark_trained(params, train_only)
  )
