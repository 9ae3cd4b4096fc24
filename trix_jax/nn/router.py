"""One place where a layer of tiles chooses: in training and inference, with and without an index."""

import math

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
  """

  key_TD: jax.Array
  scale_T: jax.Array
  index: tile_index.Index | None = None
  bias_T: jax.Array | None = None
  cluster_bias_C: jax.Array | None = None


def route(
  router: Router,
  config: FFNConfig,
  q_ND: jax.Array,
  step_N1: jax.Array,
  logits_NT: jax.Array | None = None,
  key: jax.Array | None = None,
) -> routing.RoutingInfo:
  """Compute scores, tiles and gates of every token under the configured routing.

  Emergent routing through an index costs C + P * T / C scores a token. Other routings of such a layer are for
  comparison: they score all tiles, by the same keys.

  Args:
    router, config: of the layer.
    q_ND, step_N1: quantised activations.
    logits_NT: of a learned gate; they replace the scores of the keys.
    key: for random routing.
  """
  if router.index is not None and config.routing == 'emergent':
    return _route_through_index(router, router.index, config, q_ND, step_N1)
  if logits_NT is None:
    dot_NT, scale_T = routing.signature_dots(q_ND, router.key_TD), router.scale_T
    score_NT = dot_NT * scale_T
    logit_NT = scale_scores(score_NT, step_N1, config)
  else:
    dot_NT = score_NT = logit_NT = logits_NT
    scale_T = jnp.ones(config.tiles)
  probability_NT = jax.nn.softmax(logit_NT)
  selection_NT = routing.selection_scores(dot_NT, scale_T, router.bias_T)
  way = routing.ROUTINGS[config.routing]
  tile_NK = way.choose(selection_NT, config.top_k, key)
  kept_NK = None
  if config.keep_ratio and way.by_scores:
    score_NK = jnp.take_along_axis(score_NT, tile_NK, axis=-1)
    kept_NK = ~(
      routing.unneeded(score_NK, step_N1, config.keep_margin)
      if logits_NT is None
      else routing.unneeded(score_NK, jnp.ones_like(step_N1), -math.log(config.keep_ratio))
    )
  gate_NK = (
    routing.gates(probability_NT, logit_NT, tile_NK, config.gate, kept_NK)
    if way.by_scores or config.gate != 'one_hot'
    else jnp.ones(tile_NK.shape, q_ND.dtype)
  )
  return routing.RoutingInfo(tile_NK, gate_NK, score_NT, probability_NT, router.key_TD, selection_NT)


def scale_scores(score_NJ: jax.Array, step_N1: jax.Array, config: FFNConfig) -> jax.Array:
  """Return logits, whose softmax does not saturate, from scores in units of the activations' steps."""
  return score_NJ * step_N1 * config.d_model**-0.5


def _route_through_index(router, index, config, q_ND, step_N1):
  """Choose clusters, tiles and gates of every token; it scores only the candidate tiles."""
  found = tile_index.find_candidates(q_ND, index, config.probes, router.cluster_bias_C)
  score_NJ = found.dot_NJ * found.scale_NJ
  logit_NJ = scale_scores(score_NJ, step_N1, config)
  probability_NJ = jax.nn.softmax(logit_NJ)
  bias_NJ = None if router.bias_T is None else router.bias_T[found.tile_NJ]
  selection_NJ = routing.selection_scores(found.dot_NJ, found.scale_NJ, bias_NJ)
  chosen_NK = routing.select(selection_NJ, config.top_k)
  kept_NK = None
  if config.keep_ratio:
    kept_NK = ~routing.unneeded(jnp.take_along_axis(score_NJ, chosen_NK, axis=-1), step_N1, config.keep_margin)
  cluster_probability_NC = jax.nn.softmax(scale_scores(found.cluster_score_NC, step_N1, config))
  return routing.RoutingInfo(
    jnp.take_along_axis(found.tile_NJ, chosen_NK, axis=-1),
    routing.gates(probability_NJ, logit_NJ, chosen_NK, config.gate, kept_NK),
    score_NJ,
    probability_NJ,
    index.key_TD,
    selection_NJ,
    found.tile_NJ,
    routing.Clusters(found.cluster_NP, found.cluster_score_NC, cluster_probability_NC),
  )
