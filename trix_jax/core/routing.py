"""Turn scores into tiles and gates, and balance the load of the tiles.

Every feed-forward layer returns one `RoutingInfo`. All measurements of a router read it alone. Two tables name the ways
to choose: `ROUTINGS` of tiles, `GATES` of the factors of their outputs.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from trix_jax.core import signatures, ternary


@struct.dataclass
class Clusters:
  """The first level of routing through an index: a token probes P of C clusters.

  Attributes:
    cluster_NP: int32, probed clusters.
    score_NC: scores without the balance bias.
    probability_NC: softmax of the scores, scaled like that of tiles.
  """

  cluster_NP: jax.Array
  score_NC: jax.Array
  probability_NC: jax.Array


# Parts of a decision that only controls look at.
OF_CONTROLS = ('activation_TD', 'token_share_V', 'token_score_VT')


@struct.dataclass
class RoutingInfo:
  """The routing decision of one layer, for N tokens, T tiles and K tiles a token (K = T under dense routing).

  J counts the tiles that a token scores: all T in their order, or the candidates that an index found.

  Attributes:
    tile_NK: int32 tiles of every token, best first.
    gate_NK: factor of each tile's output; 0 for a tile that the token drops.
    score_NJ: selection scores without the balance bias (gate logits for a learned gate).
    probability_NJ: softmax of the scores, scaled so that it does not saturate; all gradients of routing pass here.
    signatures_TD: the signatures of the tiles, integers stored as float32 (also when they did not route).
    selection_NJ: `score_NJ` with the balance bias; the order of these numbers decides.
    candidate_NJ: int32, the tiles that a token scores; None for all.
    clusters: the decision about clusters; None without an index.
    activation_TD: for keys that follow activations, the sum of each tile's activations, each of length 1, divided by N.
    token_share_V: for addresses that follow the tokens' frequencies, the share of each token among the N.
    token_score_VT: for addresses that are kept, the sum of each token's scores, divided by N.
  """

  tile_NK: jax.Array
  gate_NK: jax.Array
  score_NJ: jax.Array
  probability_NJ: jax.Array
  signatures_TD: jax.Array
  selection_NJ: jax.Array
  candidate_NJ: jax.Array | None = None
  clusters: Clusters | None = None
  activation_TD: jax.Array | None = None
  token_share_V: jax.Array | None = None
  token_score_VT: jax.Array | None = None


def signature_dots(q_ND: jax.Array, signatures_TD: jax.Array) -> jax.Array:
  """Compute exact integer dot products of int8 activations and signatures, [N, T], for D up to 16,000.

  At most one rounding, to float32, follows the exact integers.
  """
  return exact_products(q_ND, signatures_TD.T, jnp.matmul)


def exact_products(q: jax.Array, keys: jax.Array, multiply: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
  """Compute `multiply(q, keys)` as exactly as `signature_dots`, for int8 activations [..., D] and keys as float32."""
  if 127 * 127 * q.shape[-1] < 2**24:
    return multiply(q, keys)
  # Larger products leave the exact integers of float32. So the keys are split, and the product of each part is exact.
  high = jnp.round(jax.lax.stop_gradient(keys) / 16)
  return multiply(q, keys - 16 * high) + 16.0 * multiply(q, high)


def selection_scores(dot_NJ: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
  """Compute the selection scores: dot * scale, or with a balance bias (dot + bias / scale) * scale: [N, J].

  Scale and bias are [J], or [N, J] when each token has its own candidates. The form dot * scale + bias is avoided:
  compilers turn it into a fused multiply-add, which rounds once instead of twice. Then two paths disagree about
  near-ties. XLA on CPU did so on a quarter of all scores.
  """
  if bias is None:
    return dot_NJ * scale
  return (dot_NJ + jnp.where(scale > 0, bias / jnp.where(scale > 0, scale, 1.0), 0.0)) * scale


def select(selection_NJ: jax.Array, top_k: int) -> jax.Array:
  """Select the `top_k` best columns of every token, best first, [N, K] int32. Among equals the lowest index wins."""
  if top_k == 1:
    return jnp.argmax(selection_NJ, axis=-1, keepdims=True).astype(jnp.int32)
  # top_k ranks 0 above -0, and a row of zeros times a negative entry gives -0.
  return jax.lax.top_k(jnp.where(selection_NJ == 0, 0.0, selection_NJ), top_k)[1].astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Routing:
  """A way to choose tiles.

  Attributes:
    choose: (selection scores [N, T], top_k, key) -> int32 tiles of every token, best first.
    by_scores: whether scores choose. Then tiles have gates, a token may drop tiles, and a balance bias has an effect.
    has_gate: whether a trained gate gives the scores, not the signatures.
    is_random: whether `choose` needs a key.
    takes_all: whether every token computes all tiles.
    in_kernel: whether `xla_kernels.routed_ffn` chooses in this way.
  """

  choose: Callable[[jax.Array, int, jax.Array | None], jax.Array]
  by_scores: bool = False
  has_gate: bool = False
  is_random: bool = False
  takes_all: bool = False
  in_kernel: bool = False

  @property
  def uses_index(self) -> bool:
    """Return whether a layer behind an index finds its tiles through it: only signatures are in an index."""
    return self.by_scores and not self.has_gate

  @property
  def reads_gate(self) -> bool:
    """Return whether a gate scores the tiles where the parameters have one: if scores do not decide, it may as well."""
    return self.has_gate or not self.by_scores


# What the tiles' keys score: the layer's contextual input, or the token's own embedding, the same in every layer.
ADDRESSES = ('stream', 'token')


def choose_best(selection_NT: jax.Array, top_k: int, _) -> jax.Array:
  """Choose the tiles of the highest selection scores."""
  return select(selection_NT, top_k)


def choose_at_random(selection_NT: jax.Array, top_k: int, key: jax.Array | None) -> jax.Array:
  """Draw `top_k` different tiles for every token, each as likely as any other."""
  assert key is not None
  return select(jax.random.uniform(key, selection_NT.shape), top_k)


def choose_first(selection_NT: jax.Array, top_k: int, _) -> jax.Array:
  """Choose the tiles of the lowest numbers for every token."""
  return jnp.broadcast_to(jnp.arange(top_k, dtype=jnp.int32), (len(selection_NT), top_k))


def choose_all(selection_NT: jax.Array, _, __) -> jax.Array:
  """Choose all tiles in their order."""
  return choose_first(selection_NT, selection_NT.shape[1], None)


ROUTINGS = {
  'dense': Routing(choose_all, takes_all=True),
  'emergent': Routing(choose_best, by_scores=True, in_kernel=True),
  'random': Routing(choose_at_random, is_random=True),
  'first': Routing(choose_first),
  'learned': Routing(choose_best, by_scores=True, has_gate=True),
}


def hold_one(probability_NK: jax.Array, _) -> jax.Array:
  """Return 1 forward, and the gradient of the probability backward (straight-through top-1)."""
  return ternary.straight_through(jnp.ones_like(probability_NK), probability_NK)


def take_probability(probability_NK: jax.Array, _) -> jax.Array:
  """Return the probability, forward and backward (Switch Transformer, arXiv 2101.03961)."""
  return probability_NK


# The factor of a tile's output, from its probability and its logit, [N, K] each. The probabilities are the softmax of
# the logits of all tiles that a token scores.
GATES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  'one_hot': hold_one,
  'probability': take_probability,
}


def gates(
  probability_NJ: jax.Array, logit_NJ: jax.Array, chosen_NK: jax.Array, gate: str, kept_NK: jax.Array | None = None
) -> jax.Array:
  """Return the factors of the chosen tiles' outputs.

  Args:
    probability_NJ, logit_NJ: see `GATES`.
    chosen_NK: columns of the chosen tiles, best first.
    gate: one of `GATES`.
    kept_NK: False for tiles that a token drops; their gate is 0. See `unneeded`.
  """
  gate_NK = GATES[gate](*(jnp.take_along_axis(x_NJ, chosen_NK, axis=-1) for x_NJ in (probability_NJ, logit_NJ)))
  return gate_NK if kept_NK is None else jnp.where(kept_NK, gate_NK, 0.0)


def unneeded(score_NK: jax.Array, step_N1: jax.Array, margin: float) -> jax.Array:
  """Mark the chosen tiles that a token drops: their scores are more than `margin` below that of its first tile.

  Every path must drop the same tiles, so the comparison uses scores instead of probabilities.
  """
  return (score_NK[:, :1] - score_NK) * step_N1 > margin


def load(
  tile_NK: jax.Array, tiles: int, weight_N: jax.Array | None = None, kept_NK: jax.Array | None = None
) -> jax.Array:
  """Return the share of the assignments that each tile or cluster gets: [T], sums to 1.

  `weight_N` weights the tokens. `kept_NK` is False for assignments that do not count.
  """
  count_NK = jnp.ones(tile_NK.shape, jnp.float32) if kept_NK is None else kept_NK.astype(jnp.float32)
  if weight_N is not None:
    count_NK *= weight_N[:, None]
  return jnp.zeros(tiles, jnp.float32).at[tile_NK].add(count_NK) / jnp.sum(count_NK)


def _mean(x_NX, weight_N):
  if weight_N is None:
    return jnp.mean(x_NX, axis=0)
  return weight_N @ x_NX / jnp.sum(weight_N)


def _best_two(x_NJ):
  """Return the largest two entries of every row, because `jax.lax.top_k` sorts whole rows on CPU."""
  best_N1 = select(x_NJ, 1)
  rest_NJ = jnp.where(jnp.arange(x_NJ.shape[-1]) == best_N1, -jnp.inf, x_NJ)
  return jnp.take_along_axis(x_NJ, best_N1, axis=-1)[:, 0], rest_NJ.max(axis=-1)


def margins(x_NJ: jax.Array) -> jax.Array:
  """Return the difference of the best two columns of every row, [N]; 1 where there is only one column."""
  if x_NJ.shape[-1] == 1:
    return jnp.ones(len(x_NJ), jnp.float32)
  best_N, second_N = _best_two(x_NJ)
  return best_N - second_N


def balance_loss(info: RoutingInfo, load_T: jax.Array, cluster_load_C: jax.Array | None = None) -> jax.Array:
  """Return T * sum_t load_t * mean probability_t, 1 when balanced (Switch Transformer, arXiv 2101.03961, eq. 4).

  With an index it is the mean of this loss for clusters and for tiles; tiles that are no candidates have probability 0.
  Loads are constants, and the gradient passes through the probabilities into the signatures. Loads are arguments, so
  that each of several devices can use the load of all.
  """
  load_T = jax.lax.stop_gradient(load_T)
  if info.candidate_NJ is None:
    return load_T.shape[0] * jnp.sum(load_T * info.probability_NJ.mean(axis=0))
  of_tiles = load_T.shape[0] * jnp.mean(jnp.sum(load_T[info.candidate_NJ] * info.probability_NJ, axis=-1))
  assert info.clusters is not None and cluster_load_C is not None
  mean_C = info.clusters.probability_NC.mean(axis=0)
  return (of_tiles + mean_C.shape[0] * jnp.sum(jax.lax.stop_gradient(cluster_load_C) * mean_C)) / 2


def update_balance_bias(bias_T: jax.Array, load_T: jax.Array, score_std: jax.Array, rate: float) -> jax.Array:
  """Raise the bias of underloaded tiles and lower that of overloaded ones (loss-free balancing, arXiv 2408.15664).

  `rate` is in units of the scores' standard deviation, because integer scores have no natural unit.
  """
  surplus_T = load_T.shape[0] * load_T - 1
  # A tile's fair share 1 / T of N tokens is not always exact in float32.
  direction_T = jnp.where(jnp.abs(surplus_T) > 1e-6, -jnp.sign(surplus_T), 0.0)
  return bias_T + rate * score_std * direction_T


def statistics(info: RoutingInfo, weight_N: jax.Array | None = None) -> dict[str, jax.Array]:
  """Measure one layer on one batch. Means are over tokens, weighted by `weight_N` (0 for padding).

  Returns:
    tile_load: [T], share of assignments.
    tiles_used: mean number of tiles that a token computes.
    score_std: standard deviation of the scores over all tokens, unweighted.
    routing_entropy: mean over tokens of the entropy of `probability_NJ`, in nats (log T when undecided).
    routing_margin: mean difference between the best two probabilities.
    routing_ties: share of tokens whose best two selection scores are equal, so that the tile number decided.
    signature_zeros: share of signature entries that are 0 because the votes cancelled.
    signature_diversity: see `signatures.diversity`.
    cluster_load, cluster_score_std: with an index, the same figures of clusters and their probes.
  """
  p_NJ = info.probability_NJ
  N, J = p_NJ.shape
  tie_N = jnp.equal(*_best_two(info.selection_NJ)) if J > 1 else jnp.zeros(N, jnp.float32)
  entropy_N = -jnp.sum(p_NJ * jnp.log(jnp.maximum(p_NJ, 1e-30)), axis=-1)
  kept_NK = info.gate_NK != 0
  used_N = jnp.sum(kept_NK, axis=-1)
  means_4 = _mean(
    jnp.stack([entropy_N, margins(p_NJ), tie_N.astype(jnp.float32), used_N.astype(jnp.float32)], axis=1), weight_N
  )
  of_clusters = (
    {}
    if info.clusters is None
    else {
      'cluster_load': load(info.clusters.cluster_NP, info.clusters.score_NC.shape[-1], weight_N),
      'cluster_score_std': jnp.std(info.clusters.score_NC),
    }
  )
  return {
    **of_clusters,
    **{name: value for name in OF_CONTROLS if (value := getattr(info, name)) is not None},
    'tile_load': load(info.tile_NK, info.signatures_TD.shape[0], weight_N, kept_NK),
    'tiles_used': means_4[3],
    'score_std': jnp.std(info.score_NJ),
    'routing_entropy': means_4[0],
    'routing_margin': means_4[1],
    'routing_ties': means_4[2],
    'signature_zeros': jnp.mean(info.signatures_TD == 0),
    'signature_diversity': signatures.diversity(info.signatures_TD),
  }
