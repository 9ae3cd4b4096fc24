"""Update the collection `routing` after a training step: balance biases, running averages, clusters, revival.

No gradient trains this state. Every checkpoint saves it, and `run.json` counts it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from trix_jax.configuration import RunConfig
from trix_jax.core import routing, signatures, tile_index
from trix_jax.nn import controls, ffn, indexed_ffn
from trix_jax.nn.model_config import FFNConfig

# Noise on the up-projection of a busy tile's copy, relative to the projection's root mean square.
SPLIT_NOISE = 0.5


def update(
  state: Mapping[str, Any],
  params: Mapping[str, Any],
  metrics: Mapping[str, jax.Array],
  config: RunConfig,
  step: jax.Array,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Return the collection and the parameters after a step. Parameters change only where a dead tile is revived.

  Args:
    state: of all layers; empty for models without routing state.
    params: after the step's update.
    metrics: `routing.statistics` of the step, stacked over layers, and its `loss`.
    config: of the run.
    step: steps done before this one.
  """
  new_state, new_params = dict(state), dict(params)
  for layer in range(config.model.layers if state else 0):
    name = f'layer_{layer}'
    before = state[name]['ffn']
    of_layer = {key: values[layer] for key, values in metrics.items() if key != 'loss'}
    after = _move_biases(before, of_layer, config.loss.balance_bias_rate)
    after = controls.move(after, of_layer, step, config.training.steps)
    if 'average' in before:
      after, tiles = _move_index(after, params[name]['ffn'], of_layer, config, step)
      frozen = (step >= round(config.hierarchy.freeze_after * config.training.steps)) | (before['frozen'] > 0)
      after = jax.tree.map(lambda new, old, frozen=frozen: jnp.where(frozen, old, new), after, dict(before))
      after['frozen'] = frozen.astype(jnp.float32)
      tiles = jax.tree.map(lambda new, old, frozen=frozen: jnp.where(frozen, old, new), tiles, params[name]['ffn'])
      new_params[name] = {**params[name], 'ffn': tiles}
    new_state[name] = {'ffn': after}
  return new_state, new_params


def _move_biases(state, metrics, rate):
  """Return the state of a layer, with its balance biases moved by the loads."""
  after = dict(state)
  for name, load, std in (
    ('balance_bias', 'tile_load', 'score_std'),
    ('cluster_bias', 'cluster_load', 'cluster_score_std'),
  ):
    if name in state and load in metrics:
      after[name] = routing.update_balance_bias(state[name], metrics[load], metrics[std], rate)
  return after


def _move_index(state, params, metrics, config: RunConfig, step):
  """Return a layer's state with new averages, and its parameters. Every `rebuild_every` steps clusters change too."""
  decay = config.hierarchy.average_decay
  signatures_TD = ffn.quantise_tiles(params, config.model.ffn).signatures_TD
  state = {
    **state,
    'average': decay * state['average'] + (1 - decay) * signatures_TD,
    'load': decay * state['load'] + (1 - decay) * metrics['tile_load'],
  }
  rebuild = (step + 1) % config.hierarchy.rebuild_every == 0

  def rebuilt(state, params):
    if config.hierarchy.revive_below:
      key = jax.random.fold_in(jax.random.key(config.seed), step)
      state, params = revive(state, params, config.model.ffn, config.hierarchy.revive_below, key)
    point_TD = indexed_ffn.scale_keys(state, config.model.ffn)
    if indexed_ffn.carries_biases(config.model.ffn):
      # Biases adapt to the clusters: a tile in a cluster that few tokens probe rises until they do. New clusters part
      # them again. Clusters have no biases of their own that would lose their meaning.
      key = jax.random.fold_in(jax.random.key(config.seed), step)
      member_CM = tile_index.balanced_kmeans(point_TD, config.model.ffn.clusters, key)
    else:
      member_CM = tile_index.recluster(point_TD, point_TD[state['member']].sum(axis=1))
    return {**state, 'member': member_CM}, params

  return jax.lax.cond(rebuild, rebuilt, lambda *unchanged: unchanged, state, params)


def revive(
  state: Mapping[str, jax.Array], params: Mapping[str, Any], config: FFNConfig, below: float, key: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
  """Replace every dead tile by a copy of a busy one with some noise, so that the two share its tokens.

  Vector quantisation fills empty cells in the same way (Linde, Buzo and Gray, 1980).

  Args:
    state: of the layer; `load` is the running average of the tiles' shares of assignments.
    params: of the layer.
    config: of the layer.
    below: tiles with less than this part of the fair share are dead.
    key: of the noise.
  """
  load_T = state['load']
  T = load_T.shape[0]
  dead_T = T * load_T < below
  # The first dead tile copies the busiest one, the second the next. If more are dead than alive, this starts over.
  rank_T = jnp.cumsum(dead_T) - 1
  source_T = jnp.where(dead_T, jnp.argsort(-load_T)[rank_T % jnp.maximum(T - dead_T.sum(), 1)], jnp.arange(T))
  params = {**params, **{name: params[name][source_T] for name in indexed_ffn.name_tile_parameters(params, config)}}
  up_TDH = params['up']
  noise_TDH = jax.random.normal(key, up_TDH.shape) * SPLIT_NOISE * signatures.rms(up_TDH.reshape(T, -1))[..., None]
  params['up'] = jnp.where(dead_T[:, None, None], up_TDH + noise_TDH, up_TDH)
  signatures_TD = ffn.quantise_tiles(params, config).signatures_TD
  state = {
    **state,
    'average': jnp.where(dead_T[:, None], signatures_TD, state['average']),
    'load': jnp.where(dead_T, 1 / T, load_T),
  }
  if 'balance_bias' in state:
    state['balance_bias'] = jnp.where(dead_T, state['balance_bias'][source_T], state['balance_bias'])
  return state, params
