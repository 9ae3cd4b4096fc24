"""Routing through an index: clusters first, then the tiles of a few, exact on every path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inputs import ffn_arguments, on_every_path, quantised

import xla_kernels
from xla_kernels import reference

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 90), st.integers(0, 40), st.integers(0, 99))


def random_keys(rng, C, M, D, tally=True, biased=True):
  """Keys of tiles and of clusters as plain arrays: (keys, scale, bias) of each, and members."""
  most = 127 if tally else 1

  def keys(*shape):
    return (
      rng.integers(-most, most + 1, (*shape, D)).astype(np.int8),
      rng.uniform(0.1, 2, shape).astype(np.float32),
      rng.normal(size=shape).astype(np.float32) * biased,
    )

  return keys(C, M), keys(C), rng.permutation(C * M).reshape(C, M).astype(np.int32)


def index_of(clusters, members, probes):
  keys, scale, bias = clusters
  ternary = np.abs(keys).max(initial=0) <= 1
  return xla_kernels.TileIndex(
    (xla_kernels.pack if ternary else xla_kernels.pack_int8)(keys), scale, bias, members, probes
  )


def by_hand(x, tiles, clusters, members, probes, top_k):
  """Tiles and scores, with float64 products and the float32 operations that are promised."""
  q = quantised(x)[0]

  def scored(keys, scale, bias):
    dot = (q @ keys.reshape(-1, keys.shape[-1]).T.astype(np.float64)).astype(np.float32)
    return dot * scale.reshape(-1), (dot + bias.reshape(-1) / scale.reshape(-1)) * scale.reshape(-1)

  cluster = np.argsort(-scored(*clusters)[1], axis=1, kind='stable')[:, :probes]
  M = members.shape[1]
  place = (np.sort(cluster, axis=1)[..., None] * M + np.arange(M)).reshape(len(x), probes * M)
  score, selection = (np.take_along_axis(values, place, axis=1) for values in scored(*tiles))
  best = np.argsort(-selection, axis=1, kind='stable')[:, :top_k]
  return members.reshape(-1)[np.take_along_axis(place, best, axis=1)], np.take_along_axis(score, best, axis=1)


@given(SIZES, st.booleans())
def test_lookups_are_exact_for_every_size(size, tally):
  C, M, D, N, seed = size
  rng = np.random.default_rng(seed)
  tiles, clusters, members = random_keys(rng, C, M, D, tally)
  probes = int(rng.integers(1, C + 1))
  top_k = int(rng.integers(1, min(4, probes * M) + 1))
  x = rng.normal(size=(N, D)).astype(np.float32)
  packed = (xla_kernels.pack_int8 if tally else xla_kernels.pack)(tiles[0])
  index = index_of(clusters, members, probes)
  if tally:  # Small random tallies could be all ternary.
    index = xla_kernels.TileIndex(xla_kernels.pack_int8(clusters[0]), *clusters[1:], members, probes)
  want = by_hand(x, tiles, clusters, members, probes, top_k)

  def route():
    return xla_kernels.route(x, packed, tiles[2], scale_T=tiles[1], top_k=top_k, index=index)

  keys = (packed, tiles[1], tiles[2] / tiles[1], index.clusters, clusters[1], clusters[2] / clusters[1], members)
  compiled = jax.jit(reference.route, static_argnums=(2, 3))(x, keys, top_k, probes)
  for got in (*on_every_path(route), compiled):
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def test_among_equal_tiles_the_first_in_the_order_of_clusters_wins():
  members, ones = np.int32([[4, 1], [0, 3], [5, 2]]), np.ones((1, 16), np.float32)
  packed = xla_kernels.pack_int8(np.ones((3, 2, 16), np.int8))
  # The last cluster matches best, then the first; the other is not probed.
  clusters = xla_kernels.pack_int8(np.int8([1, -1, 2])[:, None] * np.ones((3, 16), np.int8))
  index = xla_kernels.TileIndex(clusters, None, None, members, 2)
  scales, biases = ((np.full((3, 2), of, np.float32), np.full(3, of, np.float32)) for of in (1, 0))
  keys = (packed, scales[0], biases[0], clusters, scales[1], biases[1], members)
  for tile, _ in (
    *on_every_path(lambda: xla_kernels.route(ones, packed, top_k=3, index=index)),
    jax.jit(reference.route, static_argnums=(2, 3))(ones, keys, 3, 2),
  ):
    np.testing.assert_array_equal(tile, [[4, 1, 5]])


def layer_arguments(rng, N=50, C=4, M=5, D=48, H=16, probes=2):
  tiles, clusters, members = random_keys(rng, C, M, D)
  x, *weights = ffn_arguments(rng, N, D, H, C * M, 1)[:5]
  settings = {'scale_T': 0.02 * tiles[1], 'bias_T': tiles[2], 'index': index_of(clusters, members, probes)}
  weights, settings = jax.tree.map(jnp.asarray, (weights, settings))
  return x, xla_kernels.pack_int8(tiles[0]), weights, {**settings, 'top_k': 3}


@pytest.mark.parametrize('gate', ['probability', 'one_hot'])
def test_a_layer_through_an_index_is_its_parts(path, gate):
  x, signatures, weights, settings = layer_arguments(np.random.default_rng(0))
  y, tile, gates = xla_kernels.routed_ffn(x, signatures, *weights, **settings, gate=gate)
  np.testing.assert_array_equal(
    tile,
    xla_kernels.route(x, signatures, settings['bias_T'], scale_T=settings['scale_T'], top_k=3, index=settings['index'])[
      0
    ],
  )
  np.testing.assert_array_equal(y, xla_kernels.routed_tile_ffn(x, *weights, tile, gates))
  index = settings['index']
  keys = (
    signatures,
    settings['scale_T'],
    settings['bias_T'] / settings['scale_T'],
    index.clusters,
    index.scale_C,
    index.bias_C / index.scale_C,
    index.member_CM,
  )
  want = jax.jit(
    lambda x: reference.routed_ffn(
      x, keys, tuple(weights), 3, 2, gate == 'probability', True, np.float32(48**-0.5), np.float32(np.inf)
    )
  )(x)
  np.testing.assert_array_equal(tile, want[1])
  np.testing.assert_allclose(gates, want[2], rtol=2e-6)
  np.testing.assert_allclose(y, want[0], rtol=2e-6, atol=1e-6 * np.abs(y).max())
  assert gate == 'one_hot' or len(np.unique(np.round(np.asarray(gates), 3))) > 20


@pytest.mark.parametrize('through_index', [False, True])
def test_tiles_that_a_sure_token_does_without_are_not_computed(path, through_index):
  rng = np.random.default_rng(1)
  x, signatures, weights, settings = layer_arguments(rng)
  if not through_index:
    settings = {'scale_T': settings['scale_T'].reshape(-1), 'top_k': 3}
    signatures = xla_kernels.pack_int8(xla_kernels.unpack(signatures).reshape(20, 48))
  _y, tile, gates = xla_kernels.routed_ffn(x, signatures, *weights, **settings)
  step = np.abs(x).max(axis=1, keepdims=True) * np.float32(1 / np.float32(127))
  score = xla_kernels.route(
    x, signatures, settings.get('bias_T'), scale_T=settings['scale_T'], top_k=3, index=settings.get('index')
  )[1]
  margin = float(np.median((score[:, :1] - score)[:, 1:] * step))
  kept_y, kept_tile, kept = xla_kernels.routed_ffn(x, signatures, *weights, **settings, keep_margin=margin)
  np.testing.assert_array_equal(kept_tile, tile)
  unneeded = np.asarray((score[:, :1] - score) * step > np.float32(margin))
  assert 0.3 < unneeded[:, 1:].mean() < 0.7 and not unneeded[:, 0].any()
  np.testing.assert_array_equal(kept, np.where(unneeded, 0, gates))
  np.testing.assert_array_equal(kept_y, xla_kernels.routed_tile_ffn(x, *weights, tile, kept))
  # Not computed: weights of a tile that everybody does without may be anything.
  unused = np.setdiff1d(np.arange(20), np.asarray(tile)[~unneeded])
  if unused.size:
    weights[3] = weights[3].at[unused].set(jnp.nan)
    np.testing.assert_array_equal(
      xla_kernels.routed_ffn(x, signatures, *weights, **settings, keep_margin=margin)[0], kept_y
    )
  one_y, _, one = xla_kernels.routed_ffn(x[:1], signatures, *weights, **settings, keep_margin=0.0)
  assert np.all(score[0, 1:] < score[0, 0])
  np.testing.assert_array_equal(one[:, 1:], 0)
  np.testing.assert_array_equal(one_y, xla_kernels.routed_tile_ffn(x[:1], *weights, tile[:1, :1], one[:, :1]))


@pytest.mark.parametrize('wrong', [{'keep_margin': -1.0}, {'keep_margin': np.nan}, {'top_k': None}])
def test_margins_and_numbers_of_tiles_that_mean_nothing_are_refused(wrong):
  x, signatures, weights, settings = layer_arguments(np.random.default_rng(0))
  with pytest.raises(ValueError, match=next(iter(wrong))):
    xla_kernels.routed_ffn(x, signatures, *weights, **settings | wrong)


def test_a_token_that_is_not_finite_goes_to_the_first_place(path):
  x, signatures, weights, settings = layer_arguments(np.random.default_rng(0), N=3)
  x[1, 4] = np.nan
  y, tile, _ = xla_kernels.routed_ffn(x, signatures, *weights, **settings)
  np.testing.assert_array_equal(tile[1], settings['index'].member_CM[0, :3])
  assert np.isnan(y[1]).all() and np.isfinite(np.asarray(y)[[0, 2]]).all()


def test_an_index_that_names_no_tile_is_an_error(path):
  x, signatures, weights, settings = layer_arguments(np.random.default_rng(0))
  for bad in (-1, 20):
    settings['index'] = xla_kernels.TileIndex(settings['index'].clusters, None, None, np.full((4, 5), bad, np.int32), 2)
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=f'names tile {bad}; there are 20'):
      jax.block_until_ready(xla_kernels.routed_ffn(x, signatures, *weights, **settings))


def test_under_the_transformations_of_jax(path):
  rng = np.random.default_rng(2)
  x, signatures, weights, settings = layer_arguments(rng)
  want = xla_kernels.routed_ffn(x, signatures, *weights, **settings)
  run = jax.jit(lambda x: xla_kernels.routed_ffn(x, signatures, *weights, **settings))
  jax.tree.map(np.testing.assert_array_equal, run(x), want)
  rows = jax.vmap(lambda row: run(row[None]))(x)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, 0], b), rows, want)
  _, scanned = jax.lax.scan(lambda carry, row: (carry, run(row[None])), 0, jnp.asarray(x))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, 0], b), scanned, want)
  # Several layers at once, each with an index of its own.
  others = [layer_arguments(np.random.default_rng(seed)) for seed in (2, 3)]
  stacked = jax.tree.map(
    lambda *leaves: jnp.stack(leaves),
    *[(signatures, weights, settings['scale_T'], settings['index']) for _, signatures, weights, settings in others],
  )
  both = jax.vmap(
    lambda signatures, weights, scale, index: xla_kernels.routed_ffn(
      x, signatures, *weights, scale_T=scale, index=index, top_k=3
    )
  )(*stacked)
  for i, (_, signatures, weights, settings) in enumerate(others):
    settings.pop('bias_T')
    alone = xla_kernels.routed_ffn(x, signatures, *weights, **settings)
    jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), both, alone)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'probes': 5}, 'probes = 5 of 4 clusters'),
    ({'probes': 0}, 'probes = 0'),
    ({'member_CM': np.zeros((5, 4), np.int32)}, r'member must have shape \[C M\] = \[4, 5\]'),
    ({'member_CM': np.zeros((4, 5), np.int64)}, 'member must be an array of int32'),
    ({'clusters': xla_kernels.pack(np.ones((4, 48), np.int8))}, 'they must be of one kind'),
    ({'clusters': xla_kernels.pack_int8(np.ones((3, 48), np.int8)), 'scale_C': None, 'bias_C': None}, 'one kind'),
    ({'clusters': xla_kernels.pack_int8(np.ones((4, 32), np.int8))}, 'with 48 columns'),
    ({'scale_C': np.ones(5, np.float32)}, 'index: clusters: scale must have shape'),
  ],
)
def test_an_index_that_does_not_fit_is_refused(change, message):
  x, signatures, weights, settings = layer_arguments(np.random.default_rng(0))
  index = settings.pop('index')
  fields = {name: getattr(index, name) for name in ('clusters', 'scale_C', 'bias_C', 'member_CM', 'probes')}
  with pytest.raises((ValueError, TypeError), match=message):
    xla_kernels.routed_ffn(x, signatures, *weights, **settings, index=xla_kernels.TileIndex(**{**fields, **change}))
