"""A two-level index over tile signatures. Balanced k-means builds it, and tokens look tiles up in it.

C clusters hold M = T / C of the T tiles each. A token scores the C clusters and probes the best P of them. It then
scores their J = P * M tiles, its *candidates*, instead of all T. With C near sqrt(T) it computes about sqrt(T) scores.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from trix_jax.core import dispatch, routing, signatures, ternary


@struct.dataclass
class Index:
  """Keys of tiles and clusters, which route tokens. All keys are integers stored as float32.

  Attributes:
    key_TD, scale_T: each tile's key, of the same kind as signatures, and the factor of its scores.
    member_CM: int32, the tiles of every cluster, ascending; each tile is in one cluster.
    cluster_key_CD, cluster_scale_C: the same for clusters.
  """

  key_TD: jax.Array
  scale_T: jax.Array
  member_CM: jax.Array
  cluster_key_CD: jax.Array
  cluster_scale_C: jax.Array


@struct.dataclass
class Candidates:
  """The tiles that tokens score: J = P * M for each token, in the order of clusters and of members within them.

  Attributes:
    cluster_NP: int32, probed clusters, ascending.
    cluster_score_NC: scores of all clusters, without bias.
    tile_NJ: int32.
    dot_NJ: exact products with the tiles' keys.
    scale_NJ: the tiles' scales.
  """

  cluster_NP: jax.Array
  cluster_score_NC: jax.Array
  tile_NJ: jax.Array
  dot_NJ: jax.Array
  scale_NJ: jax.Array


def balanced_assignment(similarity_TC: jax.Array) -> jax.Array:
  """Assign tiles to clusters of equal size, the most similar pairs of tile and cluster first: int32 [T].

  The rule takes pairs in falling order of similarity. It joins a pair when the tile is free and the cluster is not
  full. A stable matching (Gale and Shapley, 1962) gives the same result, because both sides rank by one similarity, and
  takes few rounds. Each tile proposes to the best cluster that has not refused it. Each cluster keeps the best M of all
  tiles that proposed.

  Raises:
    ValueError: when T is not a multiple of C.
  """
  T, C = similarity_TC.shape
  if T % C:
    raise ValueError(f'{T} tiles make no {C} clusters of one size; choose a number that divides that of tiles')
  # A refusal must be below every similarity. Otherwise a tile would ask a cluster that refused it again for ever.
  lowest = jnp.finfo(similarity_TC.dtype).min
  similarity_TC = jnp.nan_to_num(similarity_TC, nan=lowest, neginf=lowest)

  def propose(refused_TC):
    """Return each tile's proposal, and whether the cluster refuses it."""
    open_TC = jnp.where(refused_TC, -jnp.inf, similarity_TC)
    choice_T = jnp.argmax(open_TC, axis=1).astype(jnp.int32)
    order_T = jnp.lexsort((-open_TC.max(axis=1), choice_T))  # Sort by cluster, the most similar tiles first.
    sorted_T = choice_T[order_T]
    rank_T = jnp.arange(T) - jnp.searchsorted(sorted_T, jnp.arange(C))[sorted_T]
    return choice_T, jnp.zeros(T, bool).at[order_T].set(rank_T >= T // C)

  def refuse(state):
    refused_TC, choice_T, loses_T = state
    refused_TC = refused_TC | ((jnp.arange(C) == choice_T[:, None]) & loses_T[:, None])
    return refused_TC, *propose(refused_TC)

  nothing_TC = jnp.zeros((T, C), bool)
  return jax.lax.while_loop(lambda state: state[2].any(), refuse, (nothing_TC, *propose(nothing_TC)))[1]


def balanced_kmeans(point_TD: jax.Array, clusters: int, key: jax.Array, iterations: int = 20) -> jax.Array:
  """Run spherical k-means with clusters of equal size, a function of its arguments alone.

  Args:
    point_TD: points to cluster by cosine similarity; a zero vector is similar to no other.
    clusters: C, which divides T.
    key: chooses the points that clusters start from.
    iterations: see `recluster`.

  Returns:
    member_CM, see `Index`.

  Raises:
    ValueError: when C does not divide T.
  """
  first_C = jax.random.choice(key, point_TD.shape[0], (clusters,), replace=False)
  return recluster(point_TD, point_TD[first_C], iterations)


def recluster(point_TD: jax.Array, centre_CD: jax.Array, iterations: int = 20) -> jax.Array:
  """Run `balanced_kmeans` from given centres, so that every cluster stays near its old place.

  It runs at most `iterations` and stops early when nothing changes. It returns the iteration whose points were most
  similar to the centres that assigned them.
  """
  unit_TD = signatures.normalise(point_TD)

  def assign(centre_CD):
    similarity_TC = jnp.matmul(unit_TD, signatures.normalise(centre_CD).T, precision='highest')
    cluster_T = balanced_assignment(similarity_TC)
    fit = jnp.take_along_axis(similarity_TC, cluster_T[:, None], axis=1).sum()
    return jnp.argsort(cluster_T, stable=True).astype(jnp.int32).reshape(centre_CD.shape[0], -1), fit

  def improve(state):
    step, member_CM, best_CM, best_fit, _ = state
    new_CM, fit = assign(unit_TD[member_CM].sum(axis=1))
    better = fit > best_fit
    return (
      step + 1,
      new_CM,
      jnp.where(better, new_CM, best_CM),
      jnp.where(better, fit, best_fit),
      jnp.any(new_CM != member_CM),
    )

  member_CM, fit = assign(centre_CD)
  state = (1, member_CM, member_CM, fit, jnp.array(True))
  best_CM: jax.Array = jax.lax.while_loop(lambda state: (state[0] < iterations) & state[4], improve, state)[2]
  return best_CM


def make_index(
  average_TD: jax.Array,
  member_CM: jax.Array,
  kind: str,
  signature_TD: jax.Array | None = None,
  scores_are_means: bool = False,
) -> Index:
  """Make the index whose keys are the running averages of the tiles' signatures.

  Args:
    average_TD: running averages of signatures.
    member_CM: clusters.
    kind: of the signatures, `sign` or `votes`; the rounded averages become keys of the same kind.
    signature_TD: the current signatures; the keys pass their gradient straight through to them. By default none.
    scores_are_means: a cluster's score is about the mean of its members' scores, so biases of tiles fit it. By default
      the keys of clusters have the length of tiles' keys instead.
  """
  key_TD = jnp.clip(jnp.round(jax.lax.stop_gradient(average_TD)), -ternary.INT8_MAX, ternary.INT8_MAX)
  if signature_TD is not None:
    key_TD = ternary.straight_through(key_TD, signature_TD)
  scale_T = signatures.scale_of(key_TD, kind)
  cluster_key_CD, step_C = cluster_keys((key_TD * scale_T[:, None])[member_CM], kind)
  if scores_are_means:
    cluster_scale_C = step_C * np.float32(1 / member_CM.shape[1])
  else:
    cluster_scale_C = signatures.scale_of(cluster_key_CD, kind)
  return Index(key_TD, scale_T, member_CM, cluster_key_CD, cluster_scale_C)


def cluster_keys(key_CMD: jax.Array, kind: str) -> tuple[jax.Array, jax.Array]:
  """Return the sum of the members' scaled keys as a key of the same kind, with a straight-through gradient.

  For `sign` the key holds the signs of the sum. For `votes` it holds integers whose largest magnitude is 127.

  Returns:
    key [C, D], and its step [C]: the sum is about key * step.
  """
  sum_CD = key_CMD.sum(axis=1)
  if kind == 'sign':
    step_C = jnp.abs(jax.lax.stop_gradient(sum_CD)).mean(axis=1)
    return signatures.with_gradient_of(jnp.sign(jax.lax.stop_gradient(sum_CD)), sum_CD), step_C
  key_CD, step_C1 = ternary.quantise_int8(sum_CD)
  return key_CD, step_C1[:, 0]


def bias_of_members(bias_T: jax.Array, member_CM: jax.Array, how: str) -> jax.Array:
  """Return what clusters carry of their members' biases, their `mean` or `max`: [C]."""
  bias_CM = bias_T[member_CM]
  if how == 'max':
    return bias_CM.max(axis=1)
  # All programs must get the same bits, and compilers choose the order of a sum. So the order is explicit.
  total_C = bias_CM[:, 0]
  for place in range(1, bias_CM.shape[1]):
    total_C = total_C + bias_CM[:, place]
  return total_C * np.float32(1 / bias_CM.shape[1])


def find_candidates(q_ND: jax.Array, index: Index, probes: int, cluster_bias_C: jax.Array | None = None) -> Candidates:
  """Find the candidate tiles of every token, at C + P * M products a token.

  Tokens are sorted by the clusters that they probe, so each cluster's keys meet only its own tokens. When there are
  fewer probes than clusters, each token takes a copy of the keys instead. Gradients pass into keys and activations.

  When a token probes all clusters, its best candidate is the best tile of all. Ties differ: here the first tile in the
  order of clusters wins, while a lookup without an index takes the lowest number.

  Args:
    q_ND: int8 activations stored as float32.
    index: of tiles.
    probes: P, clusters to probe.
    cluster_bias_C: balance bias of clusters; it affects their choice only.
  """
  N, (C, M) = q_ND.shape[0], index.member_CM.shape
  cluster_dot_NC = routing.signature_dots(q_ND, index.cluster_key_CD)
  selection_NC = routing.selection_scores(cluster_dot_NC, index.cluster_scale_C, cluster_bias_C)
  # Probes are in the order of clusters, so that among equal tiles the first place wins, as in the kernels.
  cluster_NP = jnp.sort(routing.select(selection_NC, probes), axis=-1)
  key_CMD = index.key_TD[index.member_CM]
  if N * probes < C:
    dot_AM = routing.exact_products(
      q_ND, key_CMD[cluster_NP], lambda q_ND, key_NPMD: jnp.einsum('nd,npmd->npm', q_ND, key_NPMD)
    )
  else:
    plan = dispatch.plan_dispatch(cluster_NP.reshape(-1), C)
    dot_GRM = routing.exact_products(
      dispatch.to_slots(q_ND, plan),
      key_CMD.swapaxes(1, 2),
      lambda q_GRD, key_CDM: dispatch.multiply(q_GRD, key_CDM, plan),
    )
    dot_AM = dispatch.from_slots(dot_GRM, plan)

  def of_candidates(x_T):
    return x_T[index.member_CM][cluster_NP].reshape(N, probes * M)

  return Candidates(
    cluster_NP,
    cluster_dot_NC * index.cluster_scale_C,
    of_candidates(jnp.arange(C * M)),
    dot_AM.reshape(N, probes * M),
    of_candidates(index.scale_T),
  )


def recall(
  q_ND: jax.Array, index: Index, probes: int, bias_T: jax.Array | None = None, cluster_bias_C: jax.Array | None = None
) -> jax.Array:
  """Return the share of tokens whose best candidate scores as high as the best tile of all (recall@1).

  Args:
    q_ND, index, probes: see `find_candidates`.
    bias_T, cluster_bias_C: balance biases of the layer. Without them the recall is that of the keys alone.

  Raises:
    ValueError: when there are no tokens.
  """
  if not len(q_ND):
    raise ValueError('recall of no tokens is undefined')
  dot_NT = routing.signature_dots(q_ND, index.key_TD)
  found = find_candidates(q_ND, index, probes, cluster_bias_C)
  best_N = routing.selection_scores(dot_NT, index.scale_T, bias_T).max(axis=-1)
  bias_NJ = None if bias_T is None else bias_T[found.tile_NJ]
  return jnp.mean(routing.selection_scores(found.dot_NJ, found.scale_NJ, bias_NJ).max(axis=-1) == best_N)
