"""Which tile a token goes to: exact scores, ties, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inputs import ODD_SIZES, codes_of, on_every_path, quantised

import xla_kernels
from xla_kernels import reference

compiled = jax.jit(reference.route, static_argnums=(2, 3))


@given(ODD_SIZES, st.booleans())
def test_routing_is_exact_for_every_size(size, tally):
  tiles, width, tokens, seed = size
  rng = np.random.default_rng(seed)
  signatures = rng.integers(-127, 128, (tiles, width)) if tally else rng.integers(-1, 2, (tiles, width))
  signatures = signatures.astype(np.int8)
  x = rng.normal(size=(tokens, width)).astype(np.float32)
  bias = rng.normal(size=tiles).astype(np.float32)
  scale = rng.uniform(0.1, 2, tiles).astype(np.float32)
  dot = (quantised(x)[0] @ signatures.T.astype(np.float64)).astype(np.float32)
  selection = (dot + bias / scale) * scale
  top_k = min(3, tiles)
  tile = np.argsort(-selection, axis=1, kind='stable')[:, :top_k]
  score = np.take_along_axis(dot * scale, tile, axis=1)
  given_signatures = xla_kernels.pack_int8(signatures) if tally else xla_kernels.pack(signatures)

  def route():
    return xla_kernels.route(x, given_signatures, bias, scale_T=scale, top_k=top_k)

  offset = jnp.asarray(bias) / scale
  for got in (*on_every_path(route), compiled(x, (given_signatures, scale, offset), top_k, 0)):
    np.testing.assert_array_equal(got[0], tile)
    np.testing.assert_array_equal(got[1], score)


def test_the_lowest_index_wins_ties(path):
  signatures = np.ones((9, 16), np.int8)
  x = np.ones((7, 16), np.float32)
  for given_signatures in (signatures, xla_kernels.pack_int8(signatures), xla_kernels.pack(signatures)):
    tile, score = xla_kernels.route(x, given_signatures, top_k=9)
    np.testing.assert_array_equal(tile, np.tile(np.arange(9), (7, 1)))
    np.testing.assert_array_equal(score, 16 * 127.0)
    assert not np.any(xla_kernels.route(x, given_signatures)[0])


def test_zeros_of_either_sign_are_ties_and_nan_comes_last(path):
  signatures = np.array([[1] * 16, [-1] * 16, [1] * 16, [1] * 16], np.int8)
  x = np.stack([np.ones(16), np.zeros(16)]).astype(np.float32)
  nan = np.array([0, np.nan, 0, 0], np.float32)
  for bias, scale, want in (
    (np.zeros(4), np.zeros(4), [[0, 1, 2, 3]] * 2),
    (np.zeros(4), [-1, 1, 1, 1], None),
    (nan, np.ones(4), [[0, 2, 3, 1]] * 2),
  ):
    bias, scale = np.asarray(bias, np.float32), np.asarray(scale, np.float32)
    tile, score = xla_kernels.route(x, signatures, bias, scale_T=scale, top_k=4)
    offset = np.divide(bias, scale, out=np.zeros(4, np.float32), where=scale > 0)
    wants = compiled(x, (xla_kernels.pack_int8(signatures), scale, offset), 4, 0)
    np.testing.assert_array_equal(tile, wants[0])
    np.testing.assert_array_equal(score, wants[1])
    if want:
      np.testing.assert_array_equal(tile, want)


@pytest.mark.parametrize('top_k', [8, 9, 100, 700])
@pytest.mark.parametrize('distinct', [False, True])
def test_many_tiles_are_in_order_and_among_equals_the_lowest_first(path, top_k, distinct):
  """Up to eight tiles are found one by one, and more are ranked."""
  rng = np.random.default_rng(top_k)
  x, signatures = rng.normal(size=(3, 4)).astype(np.float32), codes_of(rng, (700, 4))
  bias = (rng.normal(size=700) if distinct else rng.integers(-1, 2, 700)).astype(np.float32)
  bias[[3, 90]], bias[[50, 51, 699]], bias[[7, 600]] = np.nan, np.inf, -np.inf
  x[1] = 0  # Zeros of both signs, from a scale below 0.
  scale = np.where(np.arange(700) % 5, 1, -1).astype(np.float32)
  offset = np.where(scale > 0, bias, 0)
  dot = (quantised(x)[0] @ signatures.T.astype(np.float64)).astype(np.float32)
  selection = (dot + offset) * scale
  selection = np.where(np.isnan(selection), -np.inf, selection)
  want = np.argsort(-selection, axis=1, kind='stable')[:, :top_k]
  tile, score = xla_kernels.route(x, signatures, bias, scale_T=scale, top_k=top_k)
  np.testing.assert_array_equal(tile, want)
  np.testing.assert_array_equal(score, np.take_along_axis(dot * scale, want, axis=1))


def test_many_tokens_are_routed_as_few(path):
  """Enough to be shared out among threads."""
  rng = np.random.default_rng(0)
  signatures, x = codes_of(rng, (64, 128)), rng.normal(size=(1500, 128)).astype(np.float32)
  dot = quantised(x)[0] @ signatures.T.astype(np.float64)
  tile, score = xla_kernels.route(x, signatures)
  np.testing.assert_array_equal(tile, dot.argmax(axis=1))
  np.testing.assert_array_equal(score, dot.max(axis=1))


def test_bias_has_the_unit_of_scores(path):
  x, keys = np.ones((1, 16), np.float32), np.ones((2, 16), np.int8)
  keys[1, 0] = 0
  # Scores 0.5 * 16 * 127 and 0.5 * 15 * 127: a bias of 64 brings the second before the first, and one of 63 does not.
  for bias, want in ((63, 0), (64, 1)):
    tile, score = xla_kernels.route(x, keys, np.float32([0, bias]), scale_T=np.full(2, 0.5, np.float32))
    assert (tile[0], score[0]) == (want, 63.5 * (16 - want))


def test_bias_selects_but_does_not_score(path):
  signatures = np.stack([np.ones(16), -np.ones(16)]).astype(np.int8)
  tile, score = xla_kernels.route(np.ones((1, 16), np.float32), signatures, np.array([0, 1e6], np.float32))
  assert (int(tile[0]), float(score[0])) == (1, -16 * 127.0)


@pytest.mark.parametrize('top_k', [0, 5, -1, 1.0])
def test_wrong_numbers_of_tiles(top_k):
  with pytest.raises(ValueError, match='choose a number from 1 to 4'):
    xla_kernels.route(np.ones((2, 16), np.float32), np.ones((4, 16), np.int8), top_k=top_k)


def test_signatures_that_are_too_wide():
  x = np.ones((1, xla_kernels.MAX_INT8_COLUMNS + 1), np.float32)
  with pytest.raises(ValueError, match='1 <= K <= 65793'):
    xla_kernels.route(x, x.astype(np.int8))
  x = x[:, :-1]
  assert float(xla_kernels.route(x, np.full(x.shape, 127, np.int8))[1][0]) == np.float32(127 * 127 * x.shape[1])


def test_scale_and_bias_may_be_left_out_with_64_bit_types():
  with jax.enable_x64(True):
    assert int(xla_kernels.route(np.ones((2, 32), np.float32), np.ones((4, 32), np.int8))[0][0]) == 0
