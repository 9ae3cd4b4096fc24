"""From scores to tiles and gates, and what keeps the load balanced.

A router is judged by `RoutingInfo` alone, the one result that every feed-forward layer returns.
"""

import jax
import jax.numpy as jnp
from flax import struct

from trix_jax import signatures, ternary

ROUTINGS = ('emergent', 'learned', 'random', 'first', 'dense')
GATES = ('one_hot', 'probability')


@struct.dataclass
class RoutingInfo:
  """What one layer decided, for N tokens, T tiles and K tiles a token (K = T under dense routing).

  Attributes:
    tile_NK: int32 tiles of every token, best first.
    gate_NK: factor of each tile's output.
    score_NT: selection scores without the balance bias (gate logits for a learned gate).
    probability_NT: softmax of the scores, scaled so that it does not saturate; all gradients of routing pass here.
    signatures_TD: the signatures that were read, integers stored as float32 (also when they did not route).
    selection_NT: `score_NT` with the balance bias, the numbers whose order decided.
  """

  tile_NK: jax.Array
  gate_NK: jax.Array
  score_NT: jax.Array
  probability_NT: jax.Array
  signatures_TD: jax.Array
  selection_NT: jax.Array


def signature_dots(q_ND: jax.Array, signatures_TD: jax.Array) -> jax.Array:
  """Dot products of int8 activations and signatures as exact integers, rounded once to float32 at most: [N, T].

  For D up to 16,000.
  """
  D = q_ND.shape[-1]
  if 127 * 127 * D < 2**24:
    return q_ND @ signatures_TD.T
  # Beyond float32's exact integers the signatures are split, so that each part's product stays inside them.
  high_TD = jnp.round(jax.lax.stop_gradient(signatures_TD) / 16)
  low_TD = signatures_TD - 16 * high_TD
  return q_ND @ low_TD.T + 16.0 * (q_ND @ high_TD.T)


def biased_scores(dot_NT: jax.Array, scale_T: jax.Array, bias_T: jax.Array) -> jax.Array:
  """The scores that select when there is a balance bias: (dot + bias / scale) * scale, [N, T].

  Not dot * scale + bias: compilers turn that into a fused multiply-add, which rounds once instead of twice, and then
  two paths disagree about near-ties (XLA on CPU did so on a quarter of all scores).
  """
  offset_T = jnp.where(scale_T > 0, bias_T / jnp.where(scale_T > 0, scale_T, 1.0), 0.0)
  return (dot_NT + offset_T) * scale_T


def select(selection_NT: jax.Array, top_k: int) -> jax.Array:
  """The `top_k` best tiles of every token, best first; among equals the lowest index wins. [N, K] int32."""
  if top_k == 1:
    return jnp.argmax(selection_NT, axis=-1, keepdims=True).astype(jnp.int32)
  return jax.lax.top_k(selection_NT, top_k)[1].astype(jnp.int32)


def gates(probability_NT: jax.Array, tile_NK: jax.Array, gate: str) -> jax.Array:
  """Factors of the chosen tiles' outputs.

  Args:
    probability_NT: softmax of the scores.
    tile_NK: chosen tiles.
    gate: `probability`, the chosen tiles' probabilities, forward and backward (Switch Transformer, arXiv 2101.03961);
      or `one_hot`, 1 forward and the gradient of the probability backward (straight-through top-1).
  """
  chosen_NK = jnp.take_along_axis(probability_NT, tile_NK, axis=-1)
  if gate == 'probability':
    return chosen_NK
  if gate == 'one_hot':
    return ternary.straight_through(jnp.ones_like(chosen_NK), chosen_NK)
  raise ValueError(f'unknown gate {gate!r}; choose one of {", ".join(GATES)}')


def load(tile_NK: jax.Array, tiles: int, weight_N: jax.Array | None = None) -> jax.Array:
  """Share of the assignments that each tile gets: [T], sums to 1. `weight_N` counts tokens differently."""
  member_NT = jnp.mean(tile_NK[..., None] == jnp.arange(tiles), axis=1, dtype=jnp.float32)
  return _mean(member_NT, weight_N)


def _mean(x_NX, weight_N):
  if weight_N is None:
    return jnp.mean(x_NX, axis=0)
  return weight_N @ x_NX / jnp.sum(weight_N)


def _best_two(x_NT):
  """The largest two entries of every row; `jax.lax.top_k` sorts whole rows on CPU."""
  best_N1 = select(x_NT, 1)
  rest_NT = jnp.where(jnp.arange(x_NT.shape[-1]) == best_N1, -jnp.inf, x_NT)
  return jnp.take_along_axis(x_NT, best_N1, axis=-1)[:, 0], rest_NT.max(axis=-1)


def balance_loss(info: RoutingInfo, load_T: jax.Array) -> jax.Array:
  """T * sum_t load_t * mean probability_t, 1 when balanced (Switch Transformer, arXiv 2101.03961, eq. 4).

  The load is a constant; the gradient passes through the probabilities into the signatures. It is an argument so that
  each of several devices can bring the load of all.
  """
  T = info.probability_NT.shape[-1]
  return T * jnp.sum(jax.lax.stop_gradient(load_T) * info.probability_NT.mean(axis=0))


def updated_balance_bias(bias_T: jax.Array, load_T: jax.Array, score_std: jax.Array, rate: float) -> jax.Array:
  """Loss-free balancing (arXiv 2408.15664): raise the bias of underloaded tiles, lower that of overloaded ones.

  `rate` is in units of the scores' standard deviation, because integer scores have no natural unit.
  """
  surplus_T = load_T.shape[0] * load_T - 1
  # 1 / T of N tokens is not always what float32 makes of it.
  direction_T = jnp.where(jnp.abs(surplus_T) > 1e-6, -jnp.sign(surplus_T), 0.0)
  return bias_T + rate * score_std * direction_T


def statistics(info: RoutingInfo, weight_N: jax.Array | None = None) -> dict[str, jax.Array]:
  """Figures of one layer on one batch; means over tokens, which `weight_N` counts differently (0 for padding).

  Returns:
    tile_load: [T], share of assignments.
    score_std: standard deviation of the scores, of all tokens alike.
    routing_entropy: mean over tokens of the entropy of `probability_NT`, in nats (log T when undecided).
    routing_margin: mean difference between the best two probabilities.
    routing_ties: share of tokens whose best two selection scores are equal, so that the index decided.
    signature_zeros: share of signature entries that are 0, votes that cancelled.
    signature_diversity: see `signatures.diversity`.
  """
  p_NT = info.probability_NT
  N, T = p_NT.shape
  if T > 1:
    best_N, second_N = _best_two(p_NT)
    margin_N, tie_N = best_N - second_N, jnp.equal(*_best_two(info.selection_NT))
  else:
    margin_N, tie_N = jnp.ones(N), jnp.zeros(N)
  entropy_N = -jnp.sum(p_NT * jnp.log(jnp.maximum(p_NT, 1e-30)), axis=-1)
  means_3 = _mean(jnp.stack([entropy_N, margin_N, tie_N.astype(jnp.float32)], axis=1), weight_N)
  return {
      'tile_load': load(info.tile_NK, T, weight_N),
      'score_std': jnp.std(info.score_NT),
      'routing_entropy': means_3[0],
      'routing_margin': means_3[1],
      'routing_ties': means_3[2],
      'signature_zeros': jnp.mean(info.signatures_TD == 0),
      'signature_diversity': signatures.diversity(info.signatures_TD),
  }
