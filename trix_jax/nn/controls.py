"""Controls, for experiments only: layers that route or train in another way, or lack one part.

A comparison with a control measures what the changed part contributes. A control trains and is evaluated like any other
model. It has no packed form.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from trix_jax.core import routing, signatures, ternary
from trix_jax.nn import ffn, indexed_ffn

NONE = 'none'
# In a step a centroid moves by this part of the way to the mean of the batch's activations.
KMEANS_RATE = 0.05
SPARSE_AFTER = 0.7


class ControlFFN(ffn.SparseTriXFFN):
  """`SparseTriXFFN` under one of `routing.CONTROLS`. The layer trains when there is an RNG stream `tiles`.

  hash: each character has a fixed tile, its number modulo T, in every context (arXiv 2106.04426).
  random_keys: keys are drawn at random once and never change.
  kmeans_keys: each key follows the mean of the activations that chose it, by online k-means.
  no_router_gradient: no gradient passes from probabilities into signatures and activations.
  no_signature_gradient: no gradient passes from probabilities into signatures; activations still get theirs.
  gumbel: training draws tiles by their probabilities (Gumbel-max).
  tile_dropout: for a model trained `dense`; a token drops each tile with probability 1 / 2, and the others count
    double.
  gradual: a token drops each tile except its best with a probability that rises from 0 to 1. It reaches 1 after
    `SPARSE_AFTER` of the steps. The balance loss counts the load of the remaining tiles.
  """

  token_N: jax.Array | None = None

  def _route(self, x_ND, q_ND, step_N1, tiles: ffn.TernaryTiles) -> routing.RoutingInfo:
    config, training = self.config, self.has_rng('tiles')
    control = config.control
    if control in ('random_keys', 'kmeans_keys'):
      key_TD, scale_T = keys_of(self.variable('routing', 'centroid', self._first_centroids, q_ND).value)
      info = ffn.route_tokens(q_ND, step_N1, key_TD, scale_T, config, None, self._balance_bias())
      if training and control == 'kmeans_keys':
        unit_ND = q_ND / jnp.maximum(jnp.linalg.norm(q_ND, axis=-1, keepdims=True), 1.0)
        chosen_NT = jax.nn.one_hot(info.tile_NK[:, 0], config.tiles)
        info = dataclasses.replace(info, activation_TD=jnp.einsum('nt,nd->td', chosen_NT, unit_ND) / len(x_ND))
      return info
    if control in ('no_router_gradient', 'no_signature_gradient'):
      signatures_TD, scale_T = jax.lax.stop_gradient((tiles.signatures_TD, tiles.signature_scale_T))
      if control == 'no_router_gradient':
        q_ND, step_N1 = jax.lax.stop_gradient((q_ND, step_N1))
      return ffn.route_tokens(q_ND, step_N1, signatures_TD, scale_T, config, None, self._balance_bias())
    info = super()._route(x_ND, q_ND, step_N1, tiles)
    progress = self.variable('routing', 'progress', jnp.zeros, ()).value if control == 'gradual' else 0.0
    if control == 'hash':
      assert self.token_N is not None
      tile_NK = (self.token_N % config.tiles)[:, None].astype(jnp.int32)
      return dataclasses.replace(info, tile_NK=tile_NK, gate_NK=jnp.ones(tile_NK.shape))
    if not training:
      return info
    key = self.make_rng('tiles')
    if control == 'gumbel':
      noise_NT = jax.random.gumbel(key, info.probability_NJ.shape)
      tile_NK = routing.select(jnp.log(jnp.maximum(info.probability_NJ, 1e-30)) + noise_NT, config.top_k)
      gate_NK = routing.gates(info.probability_NJ, tile_NK, config.gate)
      return dataclasses.replace(info, tile_NK=tile_NK, gate_NK=gate_NK)
    if control == 'tile_dropout':
      kept_NT = jax.random.bernoulli(key, 0.5, info.gate_NK.shape)
      return dataclasses.replace(info, gate_NK=2.0 * info.gate_NK * kept_NT)
    every_NT = jnp.broadcast_to(jnp.arange(config.tiles, dtype=jnp.int32), info.score_NJ.shape)
    chosen_NT = (every_NT[:, None] == info.tile_NK[..., None]).any(axis=1)
    kept_NT = chosen_NT | jax.random.bernoulli(key, 1 - progress, every_NT.shape)
    gate_NT = routing.gates(info.probability_NJ, every_NT, config.gate, kept_NT)
    return dataclasses.replace(info, tile_NK=every_NT, gate_NK=gate_NT)

  def _first_centroids(self, q_ND):
    return jax.random.normal(self.make_rng('params'), (self.config.tiles, q_ND.shape[-1]))

  def _compute(self, q_ND, step_N1, tile_NK, gate_NK, tiles: ffn.TernaryTiles) -> jax.Array:
    if tile_NK.shape[1] == self.config.tiles:
      return ffn.TriXFFN._compute(self, q_ND, step_N1, tile_NK, gate_NK, tiles)
    return super()._compute(q_ND, step_N1, tile_NK, gate_NK, tiles)


class AblatedFFN(indexed_ffn.HierarchicalTriXFFN):
  """`HierarchicalTriXFFN` under one of `routing.ABLATIONS`.

  no_norm: tiles read the layer's input without normalisation.
  no_output_scale: tiles have no output scale.
  no_residual: the layer itself is unchanged; its block does not add the input to the layer's output.
  """

  def _prepared(self, x_ND: jax.Array) -> jax.Array:
    return x_ND if self.config.control == 'no_norm' else super()._prepared(x_ND)

  def _parameters(self) -> dict[str, jax.Array]:
    return ffn.TriXFFN._parameters(self) if self.config.control == 'no_output_scale' else super()._parameters()


def keys_of(centroid_TD: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Return keys in the form of `votes` signatures: int8 integers, and scales to root mean square 1."""
  key_TD, _ = ternary.quantise_int8(jax.lax.stop_gradient(centroid_TD))
  return key_TD, signatures.scale_of(key_TD, 'votes')


def moved(
  state: Mapping[str, jax.Array], metrics: Mapping[str, jax.Array], step: jax.Array, steps: int
) -> dict[str, jax.Array]:
  """Return the state of a layer after a step: centroids moved towards their tokens by `KMEANS_RATE`, and progress."""
  after = dict(state)
  if 'progress' in state:
    after['progress'] = jnp.minimum((step + 1) / (SPARSE_AFTER * steps), 1.0).astype(jnp.float32)
  if 'activation_TD' in metrics:
    load_T1 = metrics['tile_load'][:, None]
    mean_TD = metrics['activation_TD'] / jnp.where(load_T1 > 0, load_T1, 1.0)
    unit_TD = state['centroid'] / jnp.maximum(jnp.linalg.norm(state['centroid'], axis=-1, keepdims=True), 1e-6)
    after['centroid'] = jnp.where(load_T1 > 0, unit_TD + KMEANS_RATE * (mean_TD - unit_TD), unit_TD)
  return after
