import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xla_kernels
from xla_kernels import native, packing, reference

ODD_SIZES = st.tuples(st.integers(1, 140), st.integers(1, 300), st.integers(0, 40), st.integers(0, 99))


def codes_of(rng, shape):
  return rng.integers(-1, 2, shape).astype(np.int8)


def paths():
  return [path for path in native.available_paths() if path != native.REFERENCE]


def on_every_path(function):
  """Results of a function under each native path."""
  results = []
  try:
    for path in paths():
      native.force(path)
      results.append(jax.tree.map(np.asarray, function()))
  finally:
    native.force(native.available_paths()[0])
  return results


def quantised(x):
  """float64 NumPy's reading of the quantiser: only the operations that are promised in float32 are in float32."""
  a = np.abs(x).max(axis=-1, keepdims=True)
  q = np.rint(np.float64(x * (np.float32(127) / np.where(a > 0, a, np.float32(1)))))
  return q, a * np.float32(1 / np.float32(127))


# Integers.


@given(ODD_SIZES)
def test_accumulators_are_exact_for_every_size(size):
  rows, columns, tokens, seed = size
  rng = np.random.default_rng(seed)
  codes, q = codes_of(rng, (rows, columns)), rng.integers(-127, 128, (tokens, columns)).astype(np.int8)
  packed = xla_kernels.pack(codes)
  want = q.astype(np.int64) @ codes.T.astype(np.int64)
  np.testing.assert_array_equal(reference.accumulate(q, packed), want)
  for got in on_every_path(lambda: xla_kernels.accumulate(q, packed)):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('code', [-1, 1])
@pytest.mark.parametrize('columns', [16, 1000, packing.MAX_COLUMNS])
def test_extremes_do_not_saturate(path, code, columns):
  packed = xla_kernels.pack(np.full((17, columns), code, np.int8))
  signs = np.where(np.random.default_rng(0).random((3, columns)) < 0.9, 127, -127).astype(np.int8)
  signs[0] = -127
  signs[1] = 127
  got = xla_kernels.accumulate(signs, packed)
  np.testing.assert_array_equal(got, code * signs.astype(np.int64).sum(axis=1, keepdims=True).repeat(17, axis=1))


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
  for got in (*on_every_path(route), reference.route(x, given_signatures, scale, offset, top_k)):
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
  for bias, scale, want in ((np.zeros(4), np.zeros(4), [[0, 1, 2, 3]] * 2), (np.zeros(4), [-1, 1, 1, 1], None),
                            (nan, np.ones(4), [[0, 2, 3, 1]] * 2)):
    bias, scale = np.asarray(bias, np.float32), np.asarray(scale, np.float32)
    tile, score = xla_kernels.route(x, signatures, bias, scale_T=scale, top_k=4)
    offset = np.divide(bias, scale, out=np.zeros(4, np.float32), where=scale > 0)
    wants = reference.route(x, xla_kernels.pack_int8(signatures), scale, offset, 4)
    np.testing.assert_array_equal(tile, wants[0])
    np.testing.assert_array_equal(score, wants[1])
    if want:
      np.testing.assert_array_equal(tile, want)


def test_many_tokens_are_routed_as_few(path):
  """Enough to be shared out among threads."""
  rng = np.random.default_rng(0)
  signatures, x = codes_of(rng, (64, 128)), rng.normal(size=(1500, 128)).astype(np.float32)
  dot = quantised(x)[0] @ signatures.T.astype(np.float64)
  tile, score = xla_kernels.route(x, signatures)
  np.testing.assert_array_equal(tile, dot.argmax(axis=1))
  np.testing.assert_array_equal(score, dot.max(axis=1))


def test_many_tokens_are_multiplied_as_few(path):
  """More than are quantised at a time."""
  rng = np.random.default_rng(0)
  codes, q = codes_of(rng, (20, 300)), rng.integers(-127, 128, (3000, 300)).astype(np.int8)
  packed, want = xla_kernels.pack(codes), q.astype(np.int64) @ codes.T
  np.testing.assert_array_equal(xla_kernels.accumulate(q, packed), want)
  q[:, 0] = 127  # So that the step is 1.
  y = xla_kernels.ternary_matmul(q.astype(np.float32), packed, np.ones(20, np.float32))
  np.testing.assert_allclose(y, q.astype(np.int64) @ codes.T, rtol=1e-6)


def test_bias_selects_but_does_not_score(path):
  signatures = np.stack([np.ones(16), -np.ones(16)]).astype(np.int8)
  tile, score = xla_kernels.route(np.ones((1, 16), np.float32), signatures, np.array([0, 1e6], np.float32))
  assert (int(tile[0]), float(score[0])) == (1, -16 * 127.0)


# Floats.


@given(ODD_SIZES)
def test_matmul_has_the_bits_of_the_reference(size):
  rows, columns, tokens, seed = size
  rng = np.random.default_rng(seed)
  codes, scales = codes_of(rng, (rows, columns)), rng.normal(size=rows).astype(np.float32)
  x = (rng.normal(size=(tokens, columns)) * 10.0 ** rng.integers(-20, 20, (tokens, 1))).astype(np.float32)
  packed = xla_kernels.pack(codes)
  want = np.asarray(reference.ternary_matmul(x, packed, scales))
  q, step = quantised(x)
  np.testing.assert_allclose(want, q @ codes.T.astype(np.float64) * step * scales, rtol=1e-6)
  for got in on_every_path(lambda: xla_kernels.ternary_matmul(x, packed, scales)):
    np.testing.assert_array_equal(got, want)


def test_rows_that_are_not_ordinary_numbers(path):
  x = np.ones((8, 20), np.float32)
  x[0, 3] = np.nan
  x[1, 19] = -np.inf
  x[2] = 0
  x[3] = 1e-40  # Denormal.
  x[4] = 2.0**-101
  x[5, 0], x[5, 1:] = 1e38, 1e-40
  x[6] = np.finfo(np.float32).max
  packed, scales = xla_kernels.pack(np.ones((3, 20), np.int8)), np.full(3, 0.5, np.float32)
  y = np.asarray(xla_kernels.ternary_matmul(x, packed, scales))
  np.testing.assert_array_equal(y, reference.ternary_matmul(x, packed, scales))
  assert np.isnan(y[:2]).all()
  np.testing.assert_array_equal(y[2:5], 0)
  np.testing.assert_allclose(y[5], 0.5e38, rtol=1e-6)
  assert np.isinf(y[6]).all()
  np.testing.assert_allclose(y[7], 10, rtol=1e-6)
  tile, score = xla_kernels.route(x, np.ones((2, 20), np.int8), top_k=2)
  np.testing.assert_array_equal(tile[:2], [[0, 1], [0, 1]])
  assert np.isnan(score[:2]).all()


def ffn_arguments(rng, N, D, H, T, K):
  return (rng.normal(size=(N, D)).astype(np.float32), xla_kernels.pack(codes_of(rng, (T, H, D))),
          rng.uniform(0.1, 1, (T, H)).astype(np.float32), xla_kernels.pack(codes_of(rng, (T, D, H))),
          rng.uniform(0.1, 1, (T, D)).astype(np.float32), rng.integers(0, T, (N, K)).astype(np.int32),
          rng.uniform(0, 1, (N, K)).astype(np.float32))


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


@pytest.mark.parametrize('N, D, H, T, K', [(0, 16, 16, 1, 1), (1, 128, 512, 1, 1), (50, 32, 16, 4, 1),
                                           (33, 47, 40, 5, 3), (130, 64, 48, 8, 2)])
@pytest.mark.parametrize('activation', ['relu', 'relu_squared'])
def test_tiles_have_the_bits_of_the_reference(N, D, H, T, K, activation):
  arguments = ffn_arguments(np.random.default_rng(0), N, D, H, T, K)
  squared = activation == 'relu_squared'
  want = np.asarray(reference.routed_tile_ffn(*arguments, squared))
  largest = np.abs(want).max(initial=0)
  np.testing.assert_allclose(want, ffn_in_float64(*arguments, squared), rtol=1e-5, atol=1e-6 * largest)
  for got in on_every_path(lambda: xla_kernels.routed_tile_ffn(*arguments, activation)):
    # Several tiles of a token are added up, and the reference may add them in another order.
    np.testing.assert_allclose(got, want, rtol=0 if K == 1 else 1e-6, atol=0 if K == 1 else 1e-6 * largest)


@given(st.integers(0, 30), st.integers(1, 70), st.integers(1, 70), st.integers(1, 6), st.integers(1, 3),
       st.integers(0, 99))
def test_tiles_of_every_size(N, D, H, T, K, seed):
  """The same bits on every path; some tiles are empty, and now and then there is no token or one."""
  arguments = ffn_arguments(np.random.default_rng(seed), N, D, H, T, min(K, T))
  results = on_every_path(lambda: xla_kernels.routed_tile_ffn(*arguments))
  want = ffn_in_float64(*arguments, True)
  for got in results:
    np.testing.assert_array_equal(got, results[0])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).max(initial=0))


def test_all_tokens_to_one_tile_and_the_others_empty(path):
  arguments = list(ffn_arguments(np.random.default_rng(1), 200, 32, 32, 6, 1))
  arguments[5][:] = 4
  want = ffn_in_float64(*arguments, True)
  np.testing.assert_allclose(xla_kernels.routed_tile_ffn(*arguments), want, rtol=1e-5, atol=1e-6 * np.abs(want).max())


def test_bfloat16(path):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(5, 64)), jnp.bfloat16)
  packed, scales = xla_kernels.pack(codes_of(rng, (40, 64))), jnp.ones(40)
  y = xla_kernels.ternary_matmul(x, packed, scales)
  assert y.dtype == jnp.bfloat16
  want = xla_kernels.ternary_matmul(x.astype(jnp.float32), packed, scales).astype(jnp.bfloat16)
  np.testing.assert_array_equal(y, want)


@given(ODD_SIZES)
def test_int8_products_have_the_bits_of_the_reference(size):
  rows, columns, tokens, seed = size
  rng = np.random.default_rng(seed)
  weights, scales = rng.integers(-128, 128, (rows, columns)).astype(np.int8), rng.normal(size=rows).astype(np.float32)
  x = rng.normal(size=(tokens, columns)).astype(np.float32)
  packed = xla_kernels.pack_int8(weights)
  want = np.asarray(reference.int8_matmul(x, packed, scales))
  q, step = quantised(x)
  np.testing.assert_allclose(want, (q @ weights.T.astype(np.float64)) * step * scales, rtol=1e-6)
  for got in on_every_path(lambda: xla_kernels.int8_matmul(x, packed, scales)):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('gate', ['probability', 'one_hot'])
@pytest.mark.parametrize('N, D, H, T, K', [(0, 16, 16, 2, 1), (1, 128, 32, 16, 2), (40, 30, 20, 3, 3),
                                           (90, 64, 16, 70, 1)])
def test_a_whole_layer_is_its_parts(N, D, H, T, K, gate):
  """Routing, gates and tiles in one call: the tiles and the bits that two calls give, and softmax for the gates."""
  rng = np.random.default_rng(0)
  x, up, up_scale, down, down_scale, *_ = ffn_arguments(rng, N, D, H, T, K)
  scale, bias = rng.uniform(0.01, 0.1, T).astype(np.float32), rng.normal(size=T).astype(np.float32)
  tallies = rng.integers(-60, 61, (T, D)).astype(np.int8)
  for signatures in (xla_kernels.pack_int8(tallies), xla_kernels.pack(np.sign(tallies))):
    def layer(signatures=signatures):
      return xla_kernels.routed_ffn(x, signatures, up, up_scale, down, down_scale, scale_T=scale, bias_T=bias, top_k=K,
                                    gate=gate)
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
    y, tiles, gates = reference.routed_ffn(x, signatures, scale, bias / scale, up, up_scale, down, down_scale, K,
                                           gate == 'probability', True, D**-0.5)
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


# Errors.


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
  want = np.asarray(reference.routed_tile_ffn(*arguments, True))
  arguments[5][:3, 0] = -1, 4, 2**31 - 1
  got = np.asarray(reference.routed_tile_ffn(*arguments, True))
  assert np.isnan(got[:3]).all()
  np.testing.assert_array_equal(got[3], want[3])


x_, scales_ = np.ones((2, 32), np.float32), np.ones(16, np.float32)
packed_ = xla_kernels.pack(np.ones((16, 32), np.int8))


@pytest.mark.parametrize('arguments, error, message', [
    ((x_.astype(np.float64), packed_, scales_), TypeError, 'x must be an array of float32 or bfloat16, not float64'),
    ((x_, packed_.data, scales_), TypeError, 'takes weights from xla_kernels.pack'),
    ((x_, packed_, scales_.astype(np.int32)), TypeError, 'scales must be an array of float32'),
    ((x_[0], packed_, scales_), ValueError, 'x must have shape'),
    ((x_[:, :31], packed_, scales_), ValueError, '31 columns and the packed matrix 32'),
    ((x_, packed_, scales_[:15]), ValueError, 'scales must have shape'),
    ((x_, xla_kernels.PackedTernary(packed_.data[:-1], 16, 32), scales_), ValueError, 'uint8'),
    ((x_, xla_kernels.PackedTernary(packed_.data, 17, 32), np.ones(17, np.float32)), ValueError, 'uint8'),
    ((x_, xla_kernels.pack(np.ones((2, 16, 32), np.int8)), scales_), ValueError, 'use jax.vmap'),
])
def test_wrong_arguments_of_matmul(arguments, error, message):
  with pytest.raises(error, match=message):
    xla_kernels.ternary_matmul(*arguments)


@pytest.mark.parametrize('position, value, error', [
    (0, np.ones((3, 17), np.float32), ValueError), (1, packed_, ValueError),
    (2, np.ones((4, 15), np.float32), ValueError), (4, np.ones((3, 16), np.float32), ValueError),
    (5, np.zeros((3, 1), np.int64), TypeError), (5, np.zeros((2, 1), np.int32), ValueError),
    (5, np.zeros((3, 0), np.int32), ValueError),
    (6, np.ones((3, 2), np.float32), ValueError), (5, [0, 0, 0], TypeError), (5, None, TypeError),
    (5, np.zeros(3, np.int32), ValueError)])
def test_wrong_arguments_of_tiles(position, value, error):
  arguments = list(ffn_arguments(np.random.default_rng(0), 3, 16, 16, 4, 1))
  arguments[position] = value
  with pytest.raises(error, match='routed_tile_ffn'):
    xla_kernels.routed_tile_ffn(*arguments)


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


@pytest.mark.parametrize('arguments, error, message', [
    ((x_, packed_, scales_), TypeError, 'takes weights from xla_kernels.pack_int8, not PackedTernary'),
    ((x_, xla_kernels.pack_int8(np.ones((16, 31), np.int8)), scales_), ValueError, '32 columns and the packed matr'),
    ((x_, xla_kernels.pack_int8(np.ones((15, 32), np.int8)), scales_), ValueError, 'scales must have shape'),
    ((x_, xla_kernels.PackedInt8(np.ones(512, np.uint8), 16, 32), scales_), ValueError, 'are int8'),
    ((x_, xla_kernels.PackedInt8(np.ones(511, np.int8), 16, 32), scales_), ValueError, r'int8 \[..., 512\]')])
def test_wrong_arguments_of_int8_products(arguments, error, message):
  with pytest.raises(error, match=message):
    xla_kernels.int8_matmul(*arguments)


@pytest.mark.parametrize('settings, message', [
    ({'gate': 'soft'}, 'gate is'), ({'top_k': 5}, 'top_k = 5 of 4 tiles'), ({'activation': 'gelu'}, 'activation is'),
    ({'signatures': np.ones((3, 32), np.int8)}, '3 signatures for 4 tiles'),
    ({'signatures': np.ones((4, 31), np.int8)}, 'signatures must have shape'),
    ({'scale_T': np.ones(3, np.float32)}, 'scale must have shape')])
def test_wrong_arguments_of_a_layer(settings, message):
  signatures = settings.pop('signatures', np.ones((4, 32), np.int8))
  with pytest.raises(ValueError, match=f'routed_ffn: .*{message}'):
    xla_kernels.routed_ffn(x_, signatures, *tiles_[1:5], **settings)


def test_scale_and_bias_may_be_left_out_with_64_bit_types():
  with jax.enable_x64(True):
    assert int(xla_kernels.route(x_, np.ones((4, 32), np.int8))[0][0]) == 0


tiles_ = ffn_arguments(np.random.default_rng(0), 2, 32, 16, 4, 1)


@pytest.mark.parametrize('name, function', [
    ('ternary_matmul', lambda x: xla_kernels.ternary_matmul(x, packed_, scales_)),
    ('route', lambda x: xla_kernels.route(x, packed_)[1]),
    ('routed_tile_ffn', lambda x: xla_kernels.routed_tile_ffn(x, *tiles_[1:])),
    ('routed_ffn', lambda x: xla_kernels.routed_ffn(x, np.ones((4, 32), np.int8), *tiles_[1:5])[0]),
    ('int8_matmul', lambda x: xla_kernels.int8_matmul(x, xla_kernels.pack_int8(np.ones((16, 32), np.int8)), scales_))])
def test_a_gradient_names_the_training_path(name, function):
  with pytest.raises(NotImplementedError, match=rf'{name} is for inference.*trix_jax\.ffn\.SparseTriXFFN'):
    jax.grad(lambda x: function(x).sum())(jnp.asarray(x_))


# XLA.


def test_scan_and_donated_buffers(path):
  packed = xla_kernels.pack(codes_of(np.random.default_rng(0), (32, 32)))
  def step(x, _):
    y = xla_kernels.ternary_matmul(x, packed, jnp.full(32, 0.2))
    return y, y
  x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32))
  want, wants = x, []
  for _ in range(4):
    want, _ = step(want, None)
    wants.append(want)
  got, gots = jax.jit(lambda x: jax.lax.scan(step, x, length=4), donate_argnums=0)(x)
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(gots, wants)
  assert x.is_deleted()


def test_vmap_over_activations_weights_or_both(path):
  rng = np.random.default_rng(0)
  xs = rng.normal(size=(3, 2, 32)).astype(np.float32)
  packed, scales = xla_kernels.pack(codes_of(rng, (3, 16, 32))), rng.normal(size=(3, 16)).astype(np.float32)
  one = jax.tree.map(lambda data: data[1], packed)
  want = np.stack([[reference.ternary_matmul(x, jax.tree.map(lambda data, i=i: data[i], packed), scales[i])
                    for i in range(3)] for x in xs])
  get = xla_kernels.ternary_matmul
  np.testing.assert_array_equal(jax.vmap(get, (0, None, None))(xs, one, scales[1]), want[:, 1])
  np.testing.assert_array_equal(jax.vmap(get, (None, 0, 0))(xs[0], packed, scales), want[0])
  np.testing.assert_array_equal(jax.vmap(get)(xs, packed, scales), want[np.arange(3), np.arange(3)])
  both = jax.vmap(jax.vmap(get, (None, 0, 0)), (0, None, None))
  np.testing.assert_array_equal(jax.jit(both)(xs, packed, scales), want)


def test_vmap_of_routing_and_tiles(path):
  rng = np.random.default_rng(0)
  arguments = ffn_arguments(rng, 6, 32, 16, 4, 2)
  xs = rng.normal(size=(3, 6, 32)).astype(np.float32)
  got = jax.vmap(lambda x: xla_kernels.routed_tile_ffn(x, *arguments[1:]))(xs)
  for x, y in zip(xs, got, strict=True):
    np.testing.assert_array_equal(y, xla_kernels.routed_tile_ffn(x, *arguments[1:]))
  for signatures in (codes_of(rng, (4, 32)), xla_kernels.pack(codes_of(rng, (4, 32)))):
    tiles, scores = jax.vmap(lambda x, signatures=signatures: xla_kernels.route(x, signatures))(xs)
    for x, tile, score in zip(xs, tiles, scores, strict=True):
      want = xla_kernels.route(x, signatures)
      np.testing.assert_array_equal(tile, want[0])
      np.testing.assert_array_equal(score, want[1])
    layers = jax.vmap(lambda x, signatures=signatures: xla_kernels.routed_ffn(x, signatures, *arguments[1:5]))(xs)
    for x, *got in zip(xs, *layers, strict=True):
      jax.tree.map(np.testing.assert_array_equal, tuple(got),
                   xla_kernels.routed_ffn(x, signatures, *arguments[1:5]))


def test_shard_map_keeps_tokens_apart(path):
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec('data')
  rng = np.random.default_rng(0)
  packed, scales = xla_kernels.pack(codes_of(rng, (16, 32))), rng.normal(size=16).astype(np.float32)
  x = jax.device_put(rng.normal(size=(4 * jax.device_count(), 32)).astype(np.float32),
                     jax.sharding.NamedSharding(mesh, spec))
  sharded = jax.jit(jax.shard_map(lambda x: xla_kernels.ternary_matmul(x, packed, scales), mesh=mesh, in_specs=spec,
                                  out_specs=spec))
  y = sharded(x)
  assert y.sharding.spec == spec
  np.testing.assert_array_equal(y, reference.ternary_matmul(x, packed, scales))


def test_large_products_on_several_threads_have_the_same_bits(path):
  """Enough work to be shared out, at sizes that leave uneven rests."""
  rng = np.random.default_rng(0)
  codes = codes_of(rng, (1000, 300))
  x = rng.normal(size=(150, 300)).astype(np.float32)
  packed, scales = xla_kernels.pack(codes), rng.normal(size=1000).astype(np.float32)
  np.testing.assert_array_equal(xla_kernels.ternary_matmul(x, packed, scales),
                                reference.ternary_matmul(x, packed, scales))
  arguments = ffn_arguments(rng, 700, 128, 64, 3, 2)
  y = np.asarray(xla_kernels.routed_tile_ffn(*arguments))
  np.testing.assert_allclose(y, reference.routed_tile_ffn(*arguments, True), rtol=1e-6, atol=1e-6 * np.abs(y).max())


def test_other_backends_lower_to_the_reference():
  lowered = jax.jit(xla_kernels.ternary_matmul).trace(x_, packed_, scales_).lower(lowering_platforms=('cuda',))
  assert 'trix_' not in lowered.as_text()
  if paths():
    assert 'trix_ternary_matmul' in jax.jit(xla_kernels.ternary_matmul).lower(x_, packed_, scales_).as_text()


def test_paths():
  assert xla_kernels.available_paths()[-1] == 'reference'
  assert xla_kernels.active_path() == xla_kernels.available_paths()[0]
  with pytest.raises(ValueError, match='choose one of'):
    native.force('avx1024')
