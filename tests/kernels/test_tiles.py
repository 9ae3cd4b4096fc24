"""Tiles of routed tokens, and a whole layer in one call."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inputs import codes_of, ffn_arguments, on_every_path, quantised

import xla_kernels
from xla_kernels import reference

compiled_tiles = jax.jit(reference.routed_tile_ffn, static_argnums=7)
compiled_layer = jax.jit(reference.routed_ffn, static_argnums=tuple(range(3, 9)))


def ffn_in_float64(x, up, up_scale, down, down_scale, tile, gate, squared):
  up, down = np.asarray(xla_kernels.unpack(up), np.float64), np.asarray(xla_kernels.unpack(down), np.float64)
  y = np.zeros(x.shape)
  q, step = quantised(x)
  for n, k in np.ndindex(*tile.shape):
    t = tile[n, k]
    hidden = np.maximum(((up[t] @ q[n]).astype(np.float32) * step[n]) * up_scale[t], 0)
    hidden_q, hidden_step = quantised((hidden * hidden if squared else hidden)[None])
    y[n] += gate[n, k] * (down[t] @ hidden_q[0]) * hidden_step[0] * down_scale[t]
  return y


@pytest.mark.parametrize(
  'N, D, H, T, K',
  [
    (0, 16, 16, 1, 1),
    (1, 128, 512, 1, 1),
    (50, 32, 16, 4, 1),
    (33, 47, 40, 5, 3),
    (130, 64, 48, 8, 2),
    (3, 200, 4, 128, 32),
  ],
)
@pytest.mark.parametrize('activation', ['relu', 'relu_squared'])
def test_tiles_have_the_bits_of_the_reference(N, D, H, T, K, activation):
  arguments = ffn_arguments(np.random.default_rng(0), N, D, H, T, K)
  squared = activation == 'relu_squared'
  want = np.asarray(compiled_tiles(*arguments, squared))
  largest = np.abs(want).max(initial=0)
  np.testing.assert_allclose(want, ffn_in_float64(*arguments, squared), rtol=1e-5, atol=1e-6 * largest)
  for got in on_every_path(lambda: xla_kernels.routed_tile_ffn(*arguments, activation)):
    # Several tiles of a token are added up, and the reference may add them in another order.
    np.testing.assert_allclose(got, want, rtol=0 if K == 1 else 1e-6, atol=0 if K == 1 else 1e-6 * largest)


@given(
  st.integers(0, 30), st.integers(1, 70), st.integers(1, 70), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99)
)
def test_tiles_of_every_size(N, D, H, T, K, seed):
  """The same bits on every path; some tiles are empty, and now and then there is no token or one."""
  arguments = ffn_arguments(np.random.default_rng(seed), N, D, H, T, min(K, T))
  results = on_every_path(lambda: xla_kernels.routed_tile_ffn(*arguments))
  want = ffn_in_float64(*arguments, True)
  for got in results:
    np.testing.assert_array_equal(got, results[0])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).max(initial=0))


@given(
  st.integers(1, 40), st.integers(1, 280), st.integers(1, 68), st.integers(2, 9), st.booleans(), st.integers(0, 99)
)
def test_tiles_that_a_token_gathers_are_the_sum_of_its_tiles_in_order(N, D, H, K, gated, seed):
  """Bit for bit: the kernels go through one tile a token in another way."""
  x, *tiles, tile, gate = ffn_arguments(np.random.default_rng(seed), N, D, H, K + 2, K)
  gate[:, 1] = 0
  gate = gate if gated else np.sign(gate)
  for got in on_every_path(lambda: xla_kernels.routed_tile_ffn(x, *tiles, tile, gate)):
    want = 0
    for k in range(K):
      want = want + np.asarray(xla_kernels.routed_tile_ffn(x, *tiles, tile[:, k : k + 1], gate[:, k : k + 1]))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('H', range(1, 18))
def test_narrow_tiles_have_the_bits_of_every_path(H):
  arguments = list(ffn_arguments(np.random.default_rng(H), 5, 70, H, 12, 6))
  arguments[0][1] = 0  # Its tiles have nothing to quantise.
  arguments[0][2] *= 1e-25  # Whose squares are below what is quantised.
  arguments[0][3, 4] = np.inf
  results = on_every_path(lambda: xla_kernels.routed_tile_ffn(*arguments))
  for got in results:
    np.testing.assert_array_equal(got, results[0])
    assert np.isnan(got[3]).all() and not got[1:3].any()
    x, *tiles, tile, gate = arguments
    want = ffn_in_float64(x[::4], *tiles, tile[::4], gate[::4], True)
    np.testing.assert_allclose(got[::4], want, rtol=1e-5, atol=1e-6 * np.abs(want).max())


def test_all_tokens_to_one_tile_and_the_others_empty(path):
  arguments = list(ffn_arguments(np.random.default_rng(1), 200, 32, 32, 6, 1))
  arguments[5][:] = 4
  want = ffn_in_float64(*arguments, True)
  np.testing.assert_allclose(xla_kernels.routed_tile_ffn(*arguments), want, rtol=1e-5, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize('H', [64, 65])  # Gathered, and grouped.
def test_many_tokens_have_the_tiles_of_few(path, H):
  """Enough to be shared out among threads, and that unevenly."""
  arguments = ffn_arguments(np.random.default_rng(0), 700, 128, H, 3, 2)
  y = np.asarray(xla_kernels.routed_tile_ffn(*arguments))
  np.testing.assert_allclose(y, compiled_tiles(*arguments, True), rtol=1e-6, atol=1e-6 * np.abs(y).max())


@pytest.mark.parametrize('gate', ['probability', 'one_hot'])
@pytest.mark.parametrize(
  'N, D, H, T, K', [(0, 16, 16, 2, 1), (1, 128, 32, 16, 2), (40, 30, 20, 3, 3), (90, 64, 16, 70, 1)]
)
def test_a_whole_layer_is_its_parts(N, D, H, T, K, gate):
  """Routing, gates and tiles in one call: the tiles and the bits that two calls give, and softmax for the gates."""
  rng = np.random.default_rng(0)
  x, up, up_scale, down, down_scale, *_ = ffn_arguments(rng, N, D, H, T, K)
  scale, bias = rng.uniform(0.01, 0.1, T).astype(np.float32), rng.normal(size=T).astype(np.float32)
  tallies = rng.integers(-60, 61, (T, D)).astype(np.int8)
  for signatures in (xla_kernels.pack_int8(tallies), xla_kernels.pack(np.sign(tallies))):

    def layer(signatures=signatures):
      return xla_kernels.routed_ffn(
        x, signatures, up, up_scale, down, down_scale, scale_T=scale, bias_T=bias, top_k=K, gate=gate
      )

    tile, _ = xla_kernels.route(x, signatures, bias, scale_T=scale, top_k=K)
    q, step = quantised(x) if N else (np.zeros((0, D)), np.zeros((0, 1)))
    z = (q @ np.asarray(xla_kernels.unpack(signatures), np.float64).T) * scale * step * D**-0.5
    e = np.exp(z - z.max(axis=1, keepdims=True)) if N else z
    want = np.take_along_axis(e / e.sum(axis=1, keepdims=True), np.asarray(tile), axis=1)
    results = on_every_path(layer)
    for y, tiles, gates in results:
      np.testing.assert_array_equal(tiles, tile)
      np.testing.assert_allclose(gates, want if gate == 'probability' else np.ones((N, K)), rtol=2e-6)
      np.testing.assert_array_equal(y, xla_kernels.routed_tile_ffn(x, up, up_scale, down, down_scale, tiles, gates))
      np.testing.assert_array_equal(y, results[0][0])
    y, tiles, gates = compiled_layer(
      x,
      (signatures, scale, bias / scale),
      (up, up_scale, down, down_scale),
      K,
      0,
      gate == 'probability',
      True,
      D**-0.5,
      np.inf,
    )
    np.testing.assert_array_equal(tiles, tile)
    np.testing.assert_allclose(gates, want if gate == 'probability' else np.ones((N, K)), rtol=2e-6)
    np.testing.assert_allclose(y, results[0][0] if results else y, rtol=2e-6, atol=1e-6 * np.abs(y).max(initial=0))


def test_a_layer_of_a_token_that_is_no_number(path):
  rng = np.random.default_rng(0)
  x, up, up_scale, down, down_scale, *_ = ffn_arguments(rng, 3, 32, 16, 4, 1)
  x[1, 7] = np.nan
  y, tile, gate = xla_kernels.routed_ffn(x, codes_of(rng, (4, 32)), up, up_scale, down, down_scale)
  assert np.isnan(y[1]).all() and int(tile[1, 0]) == 0 and np.isnan(gate[1, 0])
  assert np.isfinite(np.asarray(y)[[0, 2]]).all()
  # Nor does a gate that is a number hide it.
  y = xla_kernels.routed_tile_ffn(
    x, up, up_scale, down, down_scale, np.zeros((3, 1), np.int32), np.ones((3, 1), np.float32)
  )
  assert np.isnan(y[1]).all() and np.isfinite(np.asarray(y)[[0, 2]]).all()


def test_a_tile_out_of_range_is_an_error(path):
  for bad in (-1, 4, 2**31 - 1):
    arguments = list(ffn_arguments(np.random.default_rng(0), 3, 16, 16, 4, 1))
    if bad != -1:
      jax.block_until_ready(xla_kernels.routed_tile_ffn(*arguments))  # After a call that went well, too.
    arguments[5] = arguments[5].copy()
    arguments[5][2] = bad
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=f'tile {bad} of token 2 is out of range; there'):
      jax.block_until_ready(xla_kernels.routed_tile_ffn(*arguments))


def test_a_tile_out_of_range_is_nan_in_the_reference():
  arguments = list(ffn_arguments(np.random.default_rng(0), 4, 16, 16, 4, 1))
  want = np.asarray(compiled_tiles(*arguments, True))
  arguments[5][:3, 0] = -1, 4, 2**31 - 1
  got = np.asarray(compiled_tiles(*arguments, True))
  assert np.isnan(got[:3]).all()
  np.testing.assert_array_equal(got[3], want[3])


@pytest.mark.parametrize(
  'position, value, error',
  [
    (0, np.ones((3, 17), np.float32), ValueError),
    (1, xla_kernels.pack(np.ones((16, 32), np.int8)), ValueError),
    (2, np.ones((4, 15), np.float32), ValueError),
    (4, np.ones((3, 16), np.float32), ValueError),
    (5, np.zeros((3, 1), np.int64), TypeError),
    (5, np.zeros((2, 1), np.int32), ValueError),
    (5, np.zeros((3, 0), np.int32), ValueError),
    (6, np.ones((3, 2), np.float32), ValueError),
    (5, [0, 0, 0], TypeError),
    (5, None, TypeError),
    (5, np.zeros(3, np.int32), ValueError),
  ],
)
def test_wrong_arguments_of_tiles(position, value, error):
  arguments = list(ffn_arguments(np.random.default_rng(0), 3, 16, 16, 4, 1))
  arguments[position] = value
  with pytest.raises(error, match='routed_tile_ffn'):
    xla_kernels.routed_tile_ffn(*arguments)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'gate': 'soft'}, 'gate is'),
    ({'top_k': 5}, 'top_k = 5 of 4 tiles'),
    ({'activation': 'gelu'}, 'activation is'),
    ({'signatures': np.ones((3, 32), np.int8)}, '3 signatures for 4 tiles'),
    ({'signatures': np.ones((4, 31), np.int8)}, 'signatures must have shape'),
    ({'scale_T': np.ones(3, np.float32)}, 'scale must have shape'),
  ],
)
def test_wrong_arguments_of_a_layer(settings, message):
  x, up, up_scale, down, down_scale, *_ = ffn_arguments(np.random.default_rng(0), 2, 32, 16, 4, 1)
  with pytest.raises(ValueError, match=f'routed_ffn: .*{message}'):
    xla_kernels.routed_ffn(
      x,
      up=up,
      up_scale_TH=up_scale,
      down=down,
      down_scale_TD=down_scale,
      **{'signatures': np.ones((4, 32), np.int8), **settings},
    )
