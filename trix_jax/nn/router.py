"""One place where a layer of tiles chooses: in training and inference, with and without an index."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from trix_jax.core import routing, tile_index
from trix_jax.nn.model_config import FFNConfig


@struct.dataclass
class Router:
  """What a layer routes by, read from trained parameters or from packed arrays.

  Attributes:
    key_TD, scale_T: the keys of the tiles, integers stored as float32, and their scales. They are the signatures, or
      behind an index their running averages.
    index: clusters over the keys; None without an index.
    bias_T, cluster_bias_C: balance biases; None without.
    gate: kernel [D, T] and bias [T] of a learned gate; None without.
  """

  key_TD: jax.Array
  scale_T: jax.Array
  index: tile_index.Index | None = None
  bias_T: jax.Array | None = None
  cluster_bias_C: jax.Array | None = None
  gate: tuple[jax.Array, jax.Array] | None = None


class Asked(NamedTuple):
  """What the keys of the tiles score, see `FFNConfig.address`, as it is and quantised."""

  x_ND: jax.Array
  q_ND: jax.Array
  step_N1: jax.Array


def route(router: Router, config: FFNConfig, asked: Asked, key: jax.Array | None = None) -> routing.RoutingInfo:
  """Compute scores, tiles and gates of every token under the configured routing.

  Routing through an index costs C + P * T / C scores a token. Routings that do not use the index of a layer are for
  comparison: they score all tiles, by the same keys.

  Args:
    router, config: of the layer.
    asked: what the keys score. A gate reads it as it is, and its logits replace the scores of the keys.
    key: for random routing.
  """
  x_ND, q_ND, step_N1 = asked
  way, logits_NT = config.way, None
  if router.gate is not None and way.reads_gate:
    kernel_DT, bias_T = router.gate
    logits_NT = x_ND @ kernel_DT + bias_T
  found, bias = None, router.bias_T
  if logits_NT is not None:
    dot_NJ, scale = logits_NT, jnp.ones(config.tiles, jnp.float32)
  elif router.index is not None and way.uses_index:
    found = tile_index.find_candidates(q_ND, router.index, config.probes, router.cluster_bias_C)
    dot_NJ, scale, bias = found.dot_NJ, found.scale_NJ, None if bias is None else bias[found.tile_NJ]
  else:
    dot_NJ, scale = routing.signature_dots(q_ND, router.key_TD), router.scale_T
  score_NJ = dot_NJ * scale
  logit_NJ = scale_scores(score_NJ, step_N1, config) if logits_NT is None else logits_NT
  probability_NJ = jax.nn.softmax(logit_NJ)
  selection_NJ = routing.selection_scores(dot_NJ, scale, bias)
  kept_NK = None
  chosen_NK = way.choose(selection_NJ, config.top_k, key)
  if config.keep_ratio and way.by_scores:
    unit_N1, margin = step_N1, config.keep_margin
    if logits_NT is not None:
      unit_N1, margin = jnp.ones_like(step_N1), -math.log(config.keep_ratio)
    kept_NK = ~routing.unneeded(jnp.take_along_axis(score_NJ, chosen_NK, axis=-1), unit_N1, margin)
  if way.by_scores or config.gate != 'one_hot':
    gate_NK = routing.gates(probability_NJ, logit_NJ, chosen_NK, config.gate, kept_NK)
  else:
    gate_NK = jnp.ones(chosen_NK.shape, q_ND.dtype)
  info = routing.RoutingInfo(chosen_NK, gate_NK, score_NJ, probability_NJ, router.key_TD, selection_NJ)
  if found is None:
    return info
  cluster_probability_NC = jax.nn.softmax(scale_scores(found.cluster_score_NC, step_N1, config))
  return dataclasses.replace(
    info,
    tile_NK=jnp.take_along_axis(found.tile_NJ, chosen_NK, axis=-1),
    candidate_NJ=found.tile_NJ,
    clusters=routing.Clusters(found.cluster_NP, found.cluster_score_NC, cluster_probability_NC),
  )


def scale_scores(score_NJ: jax.Array, step_N1: jax.Array, config: FFNConfig) -> jax.Array:
  """Return logits, whose softmax does not saturate, from scores in units of the activations' steps."""
  return score_NJ * step_N1 * config.d_model**-0.5
