"""Attention over a cache: what softmax says, the same bits on every path and however the tokens come."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xla_kernels
from xla_kernels import native, reference

compiled = jax.jit(reference.cached_attention, static_argnames='scale')


def random(rng, *shape):
  return rng.normal(size=shape).astype(np.float32)


def in_float64(q_BLHW, k_BLHW, v_BLHW):
  """Causal attention of whole rows, without a cache."""
  q, k, v = (np.float64(x) for x in (q_BLHW, k_BLHW, v_BLHW))
  L = q.shape[1]
  score = np.einsum('blhw,bmhw->bhlm', q, k) * q.shape[-1] ** -0.5
  score = np.where(np.arange(L)[:, None] >= np.arange(L), score, -np.inf)
  weight = np.exp(score - score.max(axis=-1, keepdims=True))
  return np.einsum('bhlm,bmhw->blhw', weight / weight.sum(axis=-1, keepdims=True), v)


@functools.partial(jax.jit, static_argnums=(3, 4))
def in_pieces(q, k, v, pieces, slots):
  """The tokens in groups of so many, one after the other; the cache begins with NaN, which nobody may look at."""
  B, _, H, W = q.shape
  cache = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), xla_kernels.empty_cache(B, H, W, slots))
  outputs, first = [], 0
  for piece in pieces:
    part = slice(first, first + piece)
    out, cache = xla_kernels.cached_attention(q[:, part], k[:, part], v[:, part], jnp.full(B, first, jnp.int32), cache)
    outputs.append(out)
    first += piece
  return jnp.concatenate(outputs, axis=1), cache


@given(st.integers(1, 3), st.integers(1, 90), st.integers(1, 3), st.integers(1, 40), st.integers(0, 99))
def test_attention_of_every_size_on_every_path(B, L, H, W, seed):
  rng = np.random.default_rng(seed)
  q, k, v = (random(rng, B, L, H, W) for _ in range(3))
  want = in_float64(q, k, v)
  cut = int(rng.integers(0, L))
  bits = None
  for path in native.available_paths():
    if path == native.REFERENCE:
      continue
    native.force(path)
    whole, _ = in_pieces(q, k, v, (L,), L)
    np.testing.assert_allclose(whole, want, rtol=1e-5, atol=1e-5)
    bits = whole if bits is None else bits
    np.testing.assert_array_equal(whole, bits)
    # More slots than needed, and two calls.
    parts, _ = in_pieces(q, k, v, tuple(n for n in (cut, L - cut) if n), L + 40)
    np.testing.assert_array_equal(parts, bits)
  native.force(native.available_paths()[0])
  cache = xla_kernels.empty_cache(B, H, W, L)
  got = compiled(q, k, v, jnp.zeros(B, jnp.int32), *cache, scale=W**-0.5)[0]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_one_at_a_time_is_all_at_once(path):
  rng = np.random.default_rng(0)
  q, k, v = (random(rng, 2, 70, 4, 32) for _ in range(3))
  whole, whole_cache = in_pieces(q, k, v, (70,), 80)
  single, cache = in_pieces(q, k, v, (1,) * 70, 80)
  np.testing.assert_array_equal(single, whole)
  jax.tree.map(np.testing.assert_array_equal, cache, whole_cache)


def test_rows_have_positions_of_their_own(path):
  rng = np.random.default_rng(1)
  q, k, v = (random(rng, 3, 1, 2, 16) for _ in range(3))
  cache = xla_kernels.KeyValueCache(random(rng, 3, 2, 3, 16, 16), random(rng, 3, 2, 48, 16))
  position = np.array([0, 17, 47], np.int32)
  out, new = xla_kernels.cached_attention(q, k, v, position, cache)
  for row, first in enumerate(position):
    one = jax.tree.map(lambda x, row=row: x[row : row + 1], cache)
    of_row = slice(row, row + 1)
    alone, kept = xla_kernels.cached_attention(q[of_row], k[of_row], v[of_row], position[of_row], one)
    np.testing.assert_array_equal(out[row], alone[0])
    jax.tree.map(lambda a, b, row=row: np.testing.assert_array_equal(a[row], b[0]), new, kept)
    np.testing.assert_array_equal(new.keys_BHGWK[row, :, first // 16, :, first % 16], k[row, 0])
    np.testing.assert_array_equal(new.values_BHSW[row, :, first], v[row, 0])
  want = compiled(q, k, v, position, *cache, scale=0.25)
  np.testing.assert_allclose(out, want[0], rtol=1e-5, atol=1e-6)


def test_extreme_scores(path):
  """One token takes all; scores so low that their weight is zero; and a query that is no number."""
  k = np.zeros((1, 3, 1, 16), np.float32)
  k[0, 1] = 100
  v = np.arange(3, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 1, 16), np.float32)
  q = np.full((1, 3, 1, 16), 10, np.float32)
  out, _ = in_pieces(q, k, v, (3,), 16)
  np.testing.assert_array_equal(out[0, :, 0, 0], [0, 1, 1])
  q[0, 2] = np.nan
  out, _ = in_pieces(q, k, v, (3,), 16)
  assert np.isnan(out[0, 2]).all() and np.isfinite(out[0, :2]).all()


def test_a_full_cache_is_an_error(path):
  x = np.ones((2, 1, 1, 16), np.float32)
  for position in (16, -1, 2**31 - 1):
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=f'after {position} in a cache of 16'):
      jax.block_until_ready(
        xla_kernels.cached_attention(x, x, x, np.array([0, position], np.int32), xla_kernels.empty_cache(2, 1, 16, 16))
      )


def test_a_full_cache_is_nan_in_the_reference():
  x = np.ones((2, 1, 1, 16), np.float32)
  out, *_ = compiled(x, x, x, np.array([15, 16], np.int32), *xla_kernels.empty_cache(2, 1, 16, 16), scale=0.25)
  assert np.isfinite(out[0]).all() and np.isnan(out[1]).all()


def test_in_place_in_a_scan_and_old_caches_stay(path):
  """The cache is carried through a loop; one that somebody still holds is not written to."""
  rng = np.random.default_rng(2)
  q, k, v = (random(rng, 20, 2, 1, 4, 16) for _ in range(3))
  empty = xla_kernels.empty_cache(2, 4, 16, 32)

  def step(cache, inputs):
    *qkv, position = inputs
    out, cache = xla_kernels.cached_attention(*qkv, jnp.full(2, position), cache)
    return cache, out

  run = jax.jit(lambda cache: jax.lax.scan(step, cache, (q, k, v, np.arange(20, dtype=np.int32))))
  cache, out = run(empty)
  want, want_cache = in_pieces(*(x[:, :, 0].swapaxes(0, 1) for x in (q, k, v)), (20,), 32)
  np.testing.assert_array_equal(out[:, :, 0].swapaxes(0, 1), want)
  np.testing.assert_array_equal(cache.values_BHSW[:, :, :20], want_cache.values_BHSW[:, :, :20])
  jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), empty)


def test_vmap(path):
  rng = np.random.default_rng(3)
  q, k, v = (random(rng, 3, 2, 4, 2, 16) for _ in range(3))
  empty = xla_kernels.empty_cache(2, 2, 16, 16)
  position = np.array([[0, 1], [5, 2], [12, 3]], np.int32)
  outs, caches = jax.vmap(xla_kernels.cached_attention, (0, 0, 0, 0, None))(q, k, v, position, empty)
  for i in range(3):
    out, cache = xla_kernels.cached_attention(q[i], k[i], v[i], position[i], empty)
    np.testing.assert_array_equal(outs[i], out)
    jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), caches, cache)


one_ = np.ones((2, 1, 3, 8), np.float32)


@pytest.mark.parametrize(
  'change, error, message',
  [
    ({'q': one_[0]}, ValueError, 'q must have shape'),
    ({'k': one_[:, :, :2]}, ValueError, 'k must have shape'),
    ({'v': one_.astype(np.float64)}, TypeError, 'v must be an array of float32'),
    ({'position': np.zeros(2, np.int64)}, TypeError, 'position must be'),
    ({'position': np.zeros(3, np.int32)}, ValueError, 'position must have shape'),
    ({'cache': xla_kernels.empty_cache(2, 3, 9, 16)}, ValueError, 'keys must have shape'),
    (
      {'cache': xla_kernels.KeyValueCache(np.zeros((2, 3, 2, 8, 16), np.float32), np.zeros((2, 3, 31, 8), np.float32))},
      ValueError,
      'values must have shape',
    ),
  ],
)
def test_wrong_arguments(change, error, message):
  arguments = {
    'q': one_,
    'k': one_,
    'v': one_,
    'position': np.zeros(2, np.int32),
    'cache': xla_kernels.empty_cache(2, 3, 8, 16),
    **change,
  }
  with pytest.raises(error, match=f'cached_attention: .*{message}'):
    xla_kernels.cached_attention(*arguments.values())
