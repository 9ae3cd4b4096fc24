"""Attention over a cache of either kind: what softmax says, the same bits on every path and however the tokens come."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xla_kernels
from xla_kernels import native, reference

compiled = {
  jnp.float32: jax.jit(reference.cached_attention, static_argnames=('scale', 'normalise')),
  jnp.int8: jax.jit(reference.int8_cached_attention, static_argnames=('width', 'scale', 'normalise')),
}
each_kind = pytest.mark.parametrize('dtype', list(compiled), ids=lambda dtype: dtype.dtype.name)


def random(rng, *shape):
  return rng.normal(size=shape).astype(np.float32)


def draw(rng, B, L, heads, H, W):
  """Queries, keys and values [B, L, heads, W], and the same as `cached_attention` takes them."""
  q, k, v = (random(rng, B, L, count, W) for count in (heads, H, H))
  return (q, k, v), np.concatenate([q, k, v], axis=2).reshape(B, L, -1)


def tables_of(W, positions=50):
  angle = np.arange(positions)[:, None] * 100.0 ** (-np.arange(W // 2) / (W // 2))
  return xla_kernels.RotaryTables(np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32))


def call_reference(qkv, position, cache, rotary=None, normalise=False):
  empty = np.zeros((0, 0), np.float32)
  int8 = isinstance(cache, xla_kernels.Int8KeyValueCache)
  width = cache.width if int8 else cache.values_BHSW.shape[3]
  extra = {'width': width} if int8 else {}
  out, *parts = compiled[jnp.int8 if int8 else jnp.float32](
    qkv, position, *(rotary or (empty, empty)), *jax.tree.leaves(cache), scale=width**-0.5, normalise=normalise, **extra
  )
  return out, parts


def turned(x_BLHW, rotary):
  """Heads of root mean square 1, as complex numbers that turn with the position."""
  x = np.float64(x_BLHW)
  x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)
  L, half = x.shape[1], x.shape[-1] // 2
  row = np.minimum(np.arange(L), len(rotary.cos_PU) - 1)
  angle = (np.float64(rotary.cos_PU) + 1j * np.float64(rotary.sin_PU))[row][:, None]
  z = (x[..., :half] + 1j * x[..., half:]) * angle
  return np.concatenate([z.real, z.imag], axis=-1)


def rounded(x, dtype):
  """What a cache keeps of keys and values, and multiplies of queries."""
  if dtype == jnp.float32:
    return np.float64(x)
  integers, step = reference.quantise(np.float32(x))
  return np.float64(integers) * np.float64(step)


def in_float64(q_BLHW, k_BLHW, v_BLHW, dtype):
  """Causal attention of whole rows, without a cache. Neighbouring queries share a head of keys and values."""
  group = q_BLHW.shape[2] // k_BLHW.shape[2]
  q, k, v = (rounded(x, dtype) for x in (q_BLHW, k_BLHW, v_BLHW))
  k, v = (np.repeat(x, group, axis=2) for x in (k, v))
  L = q.shape[1]
  score = np.einsum('blhw,bmhw->bhlm', q, k) * q.shape[-1] ** -0.5
  score = np.where(np.arange(L)[:, None] >= np.arange(L), score, -np.inf)
  weight = np.exp(score - score.max(axis=-1, keepdims=True))
  out = np.einsum('bhlm,bmhw->blhw', weight / weight.sum(axis=-1, keepdims=True), v)
  return out.reshape(*out.shape[:2], -1)


def tolerance(v_BLHW, dtype):
  """Of rounding in float32; and half a unit of each weight, for the largest weight and value there are."""
  units = 0 if dtype == jnp.float32 else v_BLHW.shape[1] / 2 / reference.WEIGHT_MAX
  return 1e-5 + units * np.abs(v_BLHW).max()


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5, 6))
def in_pieces(qkv, pieces, H, W, slots, dtype, turn=False):
  """The tokens in groups of so many, one after the other; the cache begins with what nobody may look at."""
  B = qkv.shape[0]
  cache = jax.tree.map(
    lambda x: jnp.full_like(x, -100 if x.dtype == jnp.int8 else jnp.nan),
    xla_kernels.empty_cache(B, H, W, slots, dtype),
  )
  settings = {'rotary': tables_of(W), 'normalise_heads': True} if turn else {}
  outputs, first = [], 0
  for piece in pieces:
    out, cache = xla_kernels.cached_attention(
      qkv[:, first : first + piece], jnp.full(B, first, jnp.int32), cache, **settings
    )
    outputs.append(out)
    first += piece
  return jnp.concatenate(outputs, axis=1), cache


@each_kind
@given(
  st.integers(1, 3), st.integers(1, 90), st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(0, 99)
)
def test_attention_of_every_size_on_every_path(dtype, B, L, H, group, W, seed):
  rng = np.random.default_rng(seed)
  (q, k, v), qkv = draw(rng, B, L, group * H, H, W)
  want, close = in_float64(q, k, v, dtype), {'rtol': 1e-5, 'atol': tolerance(v, dtype)}
  cut = int(rng.integers(0, L))
  bits = None
  for path in native.available_paths():
    if path == native.REFERENCE:
      continue
    native.force(path)
    whole, _ = in_pieces(qkv, (L,), H, W, L, dtype)
    np.testing.assert_allclose(whole, want, **close)
    bits = whole if bits is None else bits
    np.testing.assert_array_equal(whole, bits)
    # More slots than needed, and two calls.
    parts, _ = in_pieces(qkv, tuple(n for n in (cut, L - cut) if n), H, W, L + 40, dtype)
    np.testing.assert_array_equal(parts, bits)
  native.force(native.available_paths()[0])
  got, _ = call_reference(qkv, jnp.zeros(B, jnp.int32), xla_kernels.empty_cache(B, H, W, L, dtype))
  np.testing.assert_allclose(got, want, **close)


@pytest.mark.parametrize('W', [2, 16, 34])
def test_heads_are_normalised_and_turned(path, W):
  """By hand in float64; in one call, in pieces and by the reference, past the end of the tables."""
  rng = np.random.default_rng(4)
  (q, k, v), qkv = draw(rng, 2, 70, 6, 3, W)
  rotary = tables_of(W)
  want = in_float64(turned(q, rotary), turned(k, rotary), v, jnp.float32)
  whole, cache = in_pieces(qkv, (70,), 3, W, 80, jnp.float32, True)
  np.testing.assert_allclose(whole, want, rtol=1e-4, atol=1e-5)
  parts, _ = in_pieces(qkv, (13, 1, 56), 3, W, 80, jnp.float32, True)
  np.testing.assert_array_equal(parts, whole)
  empty = xla_kernels.empty_cache(2, 3, W, 80)
  out, parts_of_cache = call_reference(qkv, np.zeros(2, np.int32), empty, rotary, True)
  np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(cache.values_BHSW[:, :, :70], parts_of_cache[1][:, :, :70])


@pytest.mark.parametrize('turn', [False, True])
@each_kind
def test_one_at_a_time_is_all_at_once(path, dtype, turn):
  _, qkv = draw(np.random.default_rng(0), 2, 70, 4, 4, 32)
  whole, whole_cache = in_pieces(qkv, (70,), 4, 32, 80, dtype, turn)
  single, cache = in_pieces(qkv, (1,) * 70, 4, 32, 80, dtype, turn)
  np.testing.assert_array_equal(single, whole)
  jax.tree.map(np.testing.assert_array_equal, cache, whole_cache)


@each_kind
def test_rows_have_positions_of_their_own(path, dtype):
  rng = np.random.default_rng(1)
  _, qkv = draw(rng, 3, 1, 2, 2, 16)
  _, cache = in_pieces(draw(rng, 3, 48, 2, 2, 16)[1], (48,), 2, 16, 48, dtype)
  position = np.array([0, 17, 47], np.int32)
  out, new = xla_kernels.cached_attention(qkv, position, cache)
  want, want_cache = call_reference(qkv, position, cache)
  for row in range(3):
    of_row = slice(row, row + 1)
    one = jax.tree.map(lambda x, of_row=of_row: x[of_row], cache)
    alone, kept = xla_kernels.cached_attention(qkv[of_row], position[of_row], one)
    np.testing.assert_array_equal(out[row], alone[0])
    jax.tree.map(lambda a, b, row=row: np.testing.assert_array_equal(a[row], b[0]), new, kept)
  np.testing.assert_allclose(out, want, rtol=1e-5, atol=tolerance(np.full((1, 48), 4), dtype))
  for got, wanted in zip(jax.tree.leaves(new), want_cache, strict=True):
    np.testing.assert_array_equal(got, wanted)


def joined(q, k, v):
  """One head."""
  return np.concatenate([q, k, v], axis=-1)


@each_kind
def test_extreme_scores(path, dtype):
  """One token takes all; scores so low that their weight is zero; and a query that is no number."""
  k = np.zeros((1, 3, 16), np.float32)
  k[0, 1] = 100
  v = np.arange(3, dtype=np.float32)[None, :, None] * np.ones((1, 1, 16), np.float32)
  q = np.full((1, 3, 16), 10, np.float32)
  out, _ = in_pieces(joined(q, k, v), (3,), 1, 16, 16, dtype)
  np.testing.assert_allclose(out[0, :, 0], [0, 1, 1], rtol=1e-6)
  q[0, 2] = np.nan
  out, _ = in_pieces(joined(q, k, v), (3,), 1, 16, 16, dtype)
  assert np.isnan(out[0, 2]).all() and np.isfinite(out[0, :2]).all()


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@each_kind
def test_a_number_that_is_none_shows_in_all_later_tokens(path, dtype, bad):
  """In a key or a value. Earlier tokens do not see it."""
  for which in 'kv':
    arrays = {name: np.ones((1, 40, 16), np.float32) for name in 'qkv'}
    arrays[which][0, 20, 3] = bad
    out, _ = in_pieces(joined(**arrays), (40,), 1, 16, 48, dtype)
    assert np.isfinite(out[0, :20]).all()
    shown = slice(3, 4) if (which, dtype) == ('v', jnp.float32) else slice(None)  # A scale is one for all of a value.
    assert not np.isfinite(out[0, 20:, shown]).any(), which


@each_kind
def test_a_full_cache_is_an_error(path, dtype):
  x = np.ones((2, 1, 48), np.float32)
  for position in (16, -1, 2**31 - 1):
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=f'after {position} in a cache of 16'):
      jax.block_until_ready(
        xla_kernels.cached_attention(x, np.array([0, position], np.int32), xla_kernels.empty_cache(2, 1, 16, 16, dtype))
      )


@each_kind
def test_a_full_cache_is_nan_in_the_reference(dtype):
  x = np.ones((2, 1, 48), np.float32)
  out, _ = call_reference(x, np.array([15, 16], np.int32), xla_kernels.empty_cache(2, 1, 16, 16, dtype))
  assert np.isfinite(out[0]).all() and np.isnan(out[1]).all()


@each_kind
def test_in_place_in_a_scan_and_old_caches_stay(path, dtype):
  """The cache is carried through a loop; one that somebody still holds is not written to."""
  _, qkv = draw(np.random.default_rng(2), 2, 20, 4, 4, 16)
  empty = xla_kernels.empty_cache(2, 4, 16, 32, dtype)

  def step(cache, inputs):
    qkv_BE, position = inputs
    out, cache = xla_kernels.cached_attention(qkv_BE[:, None], jnp.full(2, position), cache)
    return cache, out[:, 0]

  run = jax.jit(lambda cache: jax.lax.scan(step, cache, (qkv.swapaxes(0, 1), np.arange(20, dtype=np.int32))))
  cache, out = run(empty)
  want, want_cache = in_pieces(qkv, (20,), 4, 16, 32, dtype)
  np.testing.assert_array_equal(out.swapaxes(0, 1), want)
  again = [
    xla_kernels.cached_attention(qkv[:, :1], jnp.full(2, 20, jnp.int32), held)[0] for held in (cache, want_cache)
  ]
  np.testing.assert_array_equal(*again)
  jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), empty)


@each_kind
def test_vmap(path, dtype):
  """Over everything, the tables too, each with its own."""
  rng = np.random.default_rng(3)
  qkv = np.stack([draw(rng, 2, 4, 2, 2, 16)[1] for _ in range(3)])
  empty = xla_kernels.empty_cache(2, 2, 16, 16, dtype)
  position = np.array([[0, 1], [5, 2], [12, 3]], np.int32)
  rotary = xla_kernels.RotaryTables(*(np.stack([table[i : i + 9] for i in range(3)]) for table in tables_of(16)))
  call = functools.partial(jax.vmap, in_axes=(0, 0, None, 0))(
    lambda qkv, position, cache, rotary: xla_kernels.cached_attention(qkv, position, cache, rotary=rotary)
  )
  outs, caches = call(qkv, position, empty, rotary)
  for i in range(3):
    own = xla_kernels.RotaryTables(*(table[i] for table in rotary))
    out, cache = xla_kernels.cached_attention(qkv[i], position[i], empty, rotary=own)
    np.testing.assert_array_equal(outs[i], out)
    jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), caches, cache)


one_ = np.ones((2, 1, 72), np.float32)  # Three heads of width 8.
table_ = np.ones((5, 4), np.float32)


def changed(cache, **parts):
  return (cache._replace if hasattr(cache, '_replace') else functools.partial(dataclasses.replace, cache))(**parts)


@pytest.mark.parametrize(
  'change, error, message',
  [
    ({'qkv': one_[0]}, ValueError, 'qkv must have shape'),
    ({'qkv': one_.astype(np.float64)}, TypeError, 'qkv must be an array of float32'),
    ({'qkv': one_[:, :, :71]}, ValueError, 'qkv has 71 columns for 3 heads'),
    ({'qkv': one_[:, :, :48]}, ValueError, 'qkv has 48 columns for 3 heads'),
    ({'qkv': np.ones((2, 1, 80), np.float32)}, ValueError, 'with heads a multiple of 3'),
    ({'position': np.zeros(2, np.int64)}, TypeError, 'position must be'),
    ({'position': np.zeros(3, np.int32)}, ValueError, 'position must have shape'),
    ({'cache': xla_kernels.empty_cache(3, 3, 8, 16)}, ValueError, 'values must have shape'),
    ({'cache': xla_kernels.empty_cache(3, 3, 8, 16, jnp.int8)}, ValueError, 'key_scale must have shape'),
    (
      {'cache': xla_kernels.KeyValueCache(np.zeros((2, 3, 2, 8, 16), np.float32), np.zeros((2, 3, 31, 8), np.float32))},
      ValueError,
      'values have 31 slots',
    ),
    (
      {'cache': xla_kernels.KeyValueCache(np.zeros((2, 3, 2, 9, 16), np.float32), np.zeros((2, 3, 32, 8), np.float32))},
      ValueError,
      'keys must have shape',
    ),
    (
      {'cache': changed(xla_kernels.empty_cache(2, 3, 8, 16, jnp.int8), width=40)},
      ValueError,
      'keys must have shape',
    ),
    (
      {
        'cache': changed(
          xla_kernels.empty_cache(2, 3, 8, 16, jnp.int8), value_scale_BHS=np.zeros((2, 3, 9), np.float32)
        )
      },
      ValueError,
      'value_scale must have shape',
    ),
    ({'rotary': xla_kernels.RotaryTables(table_, table_[:, :3])}, ValueError, 'sin must have shape'),
    ({'rotary': xla_kernels.RotaryTables(table_, table_[:4])}, ValueError, 'rotary tables'),
    ({'rotary': xla_kernels.RotaryTables(table_[:0], table_[:0])}, ValueError, 'rotary tables'),
  ],
)
def test_wrong_arguments(change, error, message):
  arguments = {'qkv': one_, 'position': np.zeros(2, np.int32), 'cache': xla_kernels.empty_cache(2, 3, 8, 16), **change}
  rotary = arguments.pop('rotary', None)
  with pytest.raises(error, match=f'cached_attention: .*{message}'):
    xla_kernels.cached_attention(*arguments.values(), rotary=rotary)


@each_kind
@pytest.mark.parametrize('B, L', [(0, 3), (2, 0)])
def test_no_rows_and_no_tokens(path, dtype, B, L):
  cache = xla_kernels.empty_cache(B, 1, 8, 16, dtype)
  out, new = xla_kernels.cached_attention(jnp.zeros((B, L, 32)), jnp.zeros(B, jnp.int32), cache)
  assert out.shape == (B, L, 16)
  jax.tree.map(np.testing.assert_array_equal, new, cache)


def test_long_sums_stay_exact(path):
  """So many tokens of equal weight that products of whole weights would not fit into an int32."""
  qkv = np.zeros((1, 1200, 48), np.float32)
  qkv[:, :, 32:] = 1
  position, cache = np.zeros(1, np.int32), xla_kernels.empty_cache(1, 1, 16, 1200, jnp.int8)
  out, _ = xla_kernels.cached_attention(qkv, position, cache)
  np.testing.assert_allclose(out, 1, rtol=1e-5)
  np.testing.assert_allclose(call_reference(qkv, position, cache)[0], 1, rtol=1e-5)


def test_caches_that_cannot_be():
  assert xla_kernels.empty_cache(1, 1, 8, 16, 'int8').width == 8
  with pytest.raises(ValueError, match='at least one of each'):
    xla_kernels.empty_cache(1, 1, 8, 0)
  with pytest.raises(ValueError, match='17 tokens for a cache of 16 slots'):
    xla_kernels.cached_attention(
      np.ones((1, 17, 24), np.float32), np.zeros(1, np.int32), xla_kernels.empty_cache(1, 1, 8, 16)
    )
  with pytest.raises(ValueError, match='choose float32 or int8'):
    xla_kernels.empty_cache(1, 1, 8, 16, jnp.bfloat16)
  with pytest.raises(ValueError, match='at most'):
    xla_kernels.empty_cache(1, 1, 8, 70_000, jnp.int8)
