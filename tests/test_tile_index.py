"""The index over tiles: balanced clusters, lookups that cost less and miss what they must miss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trix_jax.core import routing, ternary, tile_index


def greedy(similarity_TC):
  """`balanced_assignment` as its docstring says it, pair by pair."""
  T, C = similarity_TC.shape
  cluster_T, room_C = np.full(T, -1), np.full(C, T // C)
  for pair in np.argsort(-similarity_TC, axis=None, kind='stable'):
    tile, cluster = divmod(int(pair), C)
    if cluster_T[tile] < 0 and room_C[cluster]:
      cluster_T[tile] = cluster
      room_C[cluster] -= 1
  return cluster_T


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([(1, 1), (4, 4), (6, 2), (12, 3), (64, 8), (64, 64), (64, 1)]), st.integers(0, 999))
def test_the_most_similar_pairs_come_first(size, seed):
  similarity = np.random.default_rng(seed).normal(size=size).astype(np.float32)
  np.testing.assert_array_equal(jax.jit(tile_index.balanced_assignment)(similarity), greedy(similarity))


def test_equal_similarities_are_shared_out_in_order():
  np.testing.assert_array_equal(tile_index.balanced_assignment(jnp.zeros((6, 3))), [0, 0, 1, 1, 2, 2])


def test_sizes_that_make_no_equal_clusters_are_refused():
  with pytest.raises(ValueError, match='6 tiles make no 4 clusters'):
    tile_index.balanced_assignment(jnp.zeros((6, 4)))
  with pytest.raises(ValueError, match='6 tiles make no 4 clusters'):
    tile_index.balanced_kmeans(jnp.ones((6, 3)), 4, jax.random.key(0))


@pytest.mark.parametrize('value', [-np.inf, np.inf, np.nan])
def test_similarities_that_are_no_numbers_end_all_the_same(value):
  similarity = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  similarity[2], similarity[:, 1] = value, value
  np.testing.assert_array_equal(np.bincount(tile_index.balanced_assignment(jnp.asarray(similarity))), [2, 2, 2])


def blobs(clusters, members, width, noise, seed=0):
  """Points around random centres, cluster after cluster, and which centre each has."""
  rng = np.random.default_rng(seed)
  centre = rng.normal(size=(clusters, width))
  label = rng.permutation(np.repeat(np.arange(clusters), members))
  return (centre[label] + noise * rng.normal(size=(clusters * members, width))).astype(np.float32), label


kmeans = jax.jit(tile_index.balanced_kmeans, static_argnums=1)


@pytest.mark.parametrize('T, C', [(16, 4), (64, 8), (128, 8), (256, 16)])
def test_clusters_have_one_size_and_every_tile_is_in_one(T, C):
  point = np.random.default_rng(T).integers(-9, 10, (T, 32)).astype(np.float32)
  member = np.asarray(kmeans(point, C, jax.random.key(0)))
  assert member.shape == (C, T // C) and member.dtype == np.int32
  np.testing.assert_array_equal(np.sort(member, axis=None), np.arange(T))
  np.testing.assert_array_equal(member, np.sort(member, axis=1))
  np.testing.assert_array_equal(member, kmeans(point, C, jax.random.key(0)))


def test_clusters_that_are_there_are_found():
  point, label = blobs(8, 8, 64, 0.3)
  # From several starts, since k-means may end in two centres that share one cluster.
  found = max(
    sum(len(set(label[members])) == 1 for members in np.asarray(kmeans(point, 8, jax.random.key(key))))
    for key in range(5)
  )
  assert found == 8


def test_more_iterations_never_fit_worse():
  point = np.random.default_rng(3).normal(size=(96, 16)).astype(np.float32)
  unit = point / np.linalg.norm(point, axis=1, keepdims=True)

  def fit(member):
    return sum(np.linalg.norm(unit[members].sum(axis=0)) for members in np.asarray(member))

  first = point[np.asarray(jax.random.choice(jax.random.key(0), 96, (8,), replace=False))]
  fits = [fit(tile_index.recluster(point, first, iterations)) for iterations in (1, 20)]
  assert fits[1] > fits[0]


def test_degenerate_points_are_clustered_all_the_same():
  for point in (jnp.zeros((8, 4)), jnp.ones((8, 4))):
    np.testing.assert_array_equal(np.sort(kmeans(point, 2, jax.random.key(0)), axis=None), np.arange(8))


def index_of(T, C, D, kind='votes', seed=0, noise=1.0):
  point, _ = blobs(C, T // C, D, noise, seed)
  average = np.sign(point) if kind == 'sign' else 4 * point
  member = kmeans(average, C, jax.random.key(0))
  return tile_index.make_index(jnp.asarray(average), member, kind)


def activations(N, D, seed=0):
  return ternary.quantise_int8(jax.random.normal(jax.random.key(seed), (N, D)))[0]


@pytest.mark.parametrize('kind', ['votes', 'sign'])
def test_keys_are_of_the_kind_of_signatures(kind):
  index = index_of(64, 8, 40, kind)
  most = {'votes': 127, 'sign': 1}[kind]
  for key, scale in ((index.key_TD, index.scale_T), (index.cluster_key_CD, index.cluster_scale_C)):
    np.testing.assert_array_equal(key, np.round(key))
    assert 0 < np.abs(key).max() <= most
    rms = np.sqrt(np.mean(np.square(key), axis=1))
    np.testing.assert_allclose(scale, np.ones(len(key)) if kind == 'sign' else 1 / rms, rtol=1e-6)
  # Each is near the mean of its members.
  scaled = np.asarray(index.key_TD * index.scale_T[:, None])[np.asarray(index.member_CM)].sum(axis=1)
  assert np.all(
    np.sum(scaled * index.cluster_key_CD, axis=1)
    > 0.8 * np.linalg.norm(scaled, axis=1) * np.linalg.norm(index.cluster_key_CD, axis=1)
  )


@pytest.mark.parametrize('kind', ['votes', 'sign'])
@pytest.mark.parametrize('probes, N', [(1, 50), (3, 50), (8, 50), (1, 2), (3, 2), (3, 1)])
def test_a_lookup_sees_the_tiles_of_the_best_clusters(kind, probes, N):
  index, q = index_of(64, 8, 40, kind), activations(N, 40)
  found = jax.jit(tile_index.find_candidates, static_argnums=2)(q, index, probes)
  cluster_score = np.asarray(q, np.int64) @ np.asarray(index.cluster_key_CD, np.int64).T
  cluster_score = cluster_score.astype(np.float32) * np.asarray(index.cluster_scale_C)
  np.testing.assert_array_equal(found.cluster_score_NC, cluster_score)
  want = np.sort(np.argsort(-cluster_score, axis=1, kind='stable')[:, :probes], axis=1)
  np.testing.assert_array_equal(found.cluster_NP, want)
  np.testing.assert_array_equal(found.tile_NJ, np.asarray(index.member_CM)[want].reshape(N, -1))
  dots = np.asarray(q, np.int64) @ np.asarray(index.key_TD, np.int64).T
  np.testing.assert_array_equal(found.dot_NJ, np.take_along_axis(dots, np.asarray(found.tile_NJ), axis=1))
  np.testing.assert_array_equal(found.scale_NJ, np.asarray(index.scale_T)[np.asarray(found.tile_NJ)])


def test_the_score_of_a_cluster_is_the_mean_of_its_members():
  index, q = index_of(64, 8, 40), activations(50, 40)
  means = tile_index.make_index(index.key_TD, index.member_CM, 'votes', scores_are_means=True)
  np.testing.assert_array_equal(means.cluster_key_CD, index.cluster_key_CD)
  want = np.asarray(q @ (index.key_TD * index.scale_T[:, None]).T)[:, np.asarray(index.member_CM)].mean(axis=2)
  found = tile_index.find_candidates(q, means, 2).cluster_score_NC
  # An entry of a cluster's key rounds by up to half a step, either way.
  np.testing.assert_allclose(found, want, atol=0.03 * np.std(want))
  by_hand = tile_index.make_index(
    jnp.array([[1.0, 1], [1, -1], [-1, 0], [-1, 1]]), jnp.array([[0, 1], [2, 3]]), 'sign', scores_are_means=True
  )
  np.testing.assert_array_equal(by_hand.cluster_key_CD, [[1, 0], [-1, 1]])
  np.testing.assert_array_equal(by_hand.cluster_scale_C, [0.5, 0.75])


def test_clusters_carry_the_biases_of_their_members():
  member_CM, bias_T = jnp.array([[0, 2, 5], [1, 3, 4]]), jnp.array([1.0, -6, 3, 0, 2, 5])
  np.testing.assert_array_equal(tile_index.bias_of_members(bias_T, member_CM, 'max'), [5, 2])
  np.testing.assert_allclose(tile_index.bias_of_members(bias_T, member_CM, 'mean'), [3, -4 / 3], rtol=1e-6)


@pytest.mark.parametrize('members', [7, 32])
def test_every_program_gets_the_same_bits_of_a_mean(members):
  """By a loop of NumPy, whose order of additions is known."""
  bias_T = np.random.default_rng(0).normal(size=5 * members).astype(np.float32) * 1e3
  member_CM = np.random.default_rng(1).permutation(5 * members).reshape(5, members)
  total_C = np.zeros(5, np.float32)
  for column_C in bias_T[member_CM].T:
    total_C += column_C
  for run in (tile_index.bias_of_members, jax.jit(tile_index.bias_of_members, static_argnums=2)):
    np.testing.assert_array_equal(run(bias_T, member_CM, 'mean'), total_C * np.float32(1 / members))


def test_no_tokens_find_nothing():
  index = index_of(64, 8, 40)
  assert tile_index.find_candidates(jnp.zeros((0, 40)), index, 2).dot_NJ.shape == (0, 16)


def test_a_bias_moves_tokens_to_other_clusters():
  index, q = index_of(64, 8, 40), activations(50, 40)
  found = tile_index.find_candidates(q, index, 1, jnp.where(jnp.arange(8) == 3, 1e9, 0.0))
  np.testing.assert_array_equal(found.cluster_NP, 3)
  np.testing.assert_array_equal(found.cluster_score_NC, tile_index.find_candidates(q, index, 1).cluster_score_NC)


@pytest.mark.parametrize('N', [1, 9])
def test_wide_keys_are_exact(N):
  index, q = index_of(16, 4, 4096), activations(N, 4096)
  found = tile_index.find_candidates(q, index, 4 if N > 1 else 3)
  want = np.asarray(q, np.int64) @ np.asarray(index.key_TD, np.int64).T
  np.testing.assert_array_equal(found.dot_NJ, np.take_along_axis(want, np.asarray(found.tile_NJ), 1).astype(np.float32))


@pytest.mark.slow
def test_recall_rises_with_probes_to_one_and_is_that_of_chance_for_random_keys():
  index = tile_index.make_index(
    jax.random.normal(jax.random.key(1), (256, 64)) * 4, jnp.arange(256, dtype=jnp.int32).reshape(16, 16), 'votes'
  )
  q = activations(2000, 64)
  recalls = [float(tile_index.recall(q, index, probes)) for probes in (1, 4, 16)]
  assert 1 / 16 < recalls[0] < recalls[1] < recalls[2] == 1
  clustered = index_of(256, 16, 64, noise=0.2)
  # Tokens that look like tiles find them.
  near = ternary.quantise_int8(clustered.key_TD + jax.random.normal(jax.random.key(2), (256, 64)))[0]
  assert tile_index.recall(near, clustered, 1) > 0.95


def test_recall_by_hand():
  """Two clusters of two tiles; the token is likest tile 3, but its cluster comes second."""
  key_TD = jnp.array([[9.0, 3], [9, 3], [-9, 5], [9, 5]])
  index = tile_index.Index(key_TD, jnp.ones(4), jnp.array([[0, 1], [2, 3]]), jnp.array([[9.0, 3], [0, 5]]), jnp.ones(2))
  q_ND = jnp.array([[9.0, 3]])
  assert [float(tile_index.recall(q_ND, index, probes)) for probes in (1, 2)] == [0, 1]
  # With the biases of the layer its best tile is another, or its cluster is found.
  assert tile_index.recall(q_ND, index, 1, jnp.array([0.0, 50, 0, 0])) == 1
  assert tile_index.recall(q_ND, index, 1, None, jnp.array([0.0, 99])) == 1
  assert tile_index.recall(q_ND, index, 1, jnp.array([0.0, 50, 0, 0]), jnp.array([0.0, 99])) == 0


def test_a_tile_that_scores_as_high_as_the_best_is_found():
  key_TD = jnp.array([[1.0, 1], [2, 2], [2, 2], [1, 1]])
  index = tile_index.make_index(key_TD, jnp.array([[2, 3], [0, 1]]), 'sign')
  assert tile_index.recall(jnp.array([[3.0, 3]]), index, 1) == 1  # By tile 2, the equal of tile 1.
  with pytest.raises(ValueError, match='no tokens'):
    tile_index.recall(jnp.zeros((0, 2)), index, 1)


def test_gradients_reach_the_signatures_of_tiles_and_the_input():
  index, q = index_of(64, 8, 40), activations(50, 40)
  average = index.key_TD

  def loss(signatures, q):
    found = tile_index.find_candidates(q, tile_index.make_index(average, index.member_CM, 'votes', signatures), 2)
    return jnp.sum(jnp.sin(found.dot_NJ)), jnp.sum(jnp.sin(found.cluster_score_NC))

  for which in (0, 1):
    to_keys, to_q = jax.grad(lambda *a, which=which: loss(*a)[which], argnums=(0, 1))(average, q)
    assert np.all(np.any(to_keys != 0, axis=1)) and np.all(np.any(to_q != 0, axis=1))
  # Without signatures of now the keys are constants.
  assert not np.any(jax.grad(lambda a: tile_index.make_index(a, index.member_CM, 'votes').key_TD.sum())(average))


def test_the_balance_loss_sees_both_levels():
  """By hand: two clusters of two tiles, all tokens in one cluster and one tile of it."""
  N = 6
  one_hot = jnp.tile(jnp.array([[1.0, 0.0]]), (N, 1))
  tile, candidate = jnp.zeros((N, 1), jnp.int32), jnp.tile(jnp.arange(2), (N, 1))

  def info(probability_NJ, probability_NC):
    clusters = routing.Clusters(jnp.zeros((N, 1), jnp.int32), probability_NC, probability_NC)
    return routing.RoutingInfo(
      tile, jnp.ones((N, 1)), probability_NJ, probability_NJ, jnp.zeros((4, 3)), probability_NJ, candidate, clusters
    )

  load, cluster_load = jnp.array([1.0, 0, 0, 0]), jnp.array([1.0, 0])
  # (T * 1 + C * 1) / 2, then with undecided probabilities (T / 2 + C / 2) / 2.
  assert routing.balance_loss(info(one_hot, one_hot), load, cluster_load) == pytest.approx((4 + 2) / 2)
  half = jnp.full((N, 2), 0.5)
  assert routing.balance_loss(info(half, half), load, cluster_load) == pytest.approx((2 + 1) / 2)
  even = routing.balance_loss(info(half, half), jnp.full(4, 0.25), jnp.full(2, 0.5))
  assert even == pytest.approx(1)
