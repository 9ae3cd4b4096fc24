"""Products of packed weights: exact integers, the bits of the reference, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from inputs import ODD_SIZES, codes_of, on_every_path, quantised

import xla_kernels
from xla_kernels import packing, reference

x_, scales_ = np.ones((2, 32), np.float32), np.ones(16, np.float32)
packed_ = xla_kernels.pack(np.ones((16, 32), np.int8))


@given(ODD_SIZES)
def test_accumulators_are_exact_for_every_size(size):
  rows, columns, tokens, seed = size
  rng = np.random.default_rng(seed)
  codes, q = codes_of(rng, (rows, columns)), rng.integers(-127, 128, (tokens, columns)).astype(np.int8)
  packed = xla_kernels.pack(codes)
  want = q.astype(np.int64) @ codes.T.astype(np.int64)
  np.testing.assert_array_equal(jax.jit(reference.accumulate)(q, packed), want)
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


def test_halves_are_rounded_to_even():
  values = [127, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5, 126.5, 0, 0.25, -0.75, 0, 0, 0, 0]
  q = np.float32([127, 0, 2, 2, 4, 0, -2, -2, 126, 0, 0, -1, 0, 0, 0, 0])
  step = np.float32(127) * reference.INVERSE_INT8_MAX
  x, packed = np.float32([values]), xla_kernels.pack(np.eye(16, dtype=np.int8))
  np.testing.assert_array_equal(jax.jit(reference.quantise)(x)[0][0], q)
  for got in on_every_path(lambda: xla_kernels.ternary_matmul(x, packed, np.ones(16, np.float32))):
    np.testing.assert_array_equal(got[0], q * step)


@given(ODD_SIZES)
def test_matmul_has_the_bits_of_the_reference(size):
  rows, columns, tokens, seed = size
  rng = np.random.default_rng(seed)
  codes, scales = codes_of(rng, (rows, columns)), rng.normal(size=rows).astype(np.float32)
  x = (rng.normal(size=(tokens, columns)) * 10.0 ** rng.integers(-20, 20, (tokens, 1))).astype(np.float32)
  packed = xla_kernels.pack(codes)
  want = np.asarray(jax.jit(reference.ternary_matmul)(x, packed, scales))
  q, step = quantised(x)
  np.testing.assert_allclose(want, q @ codes.T.astype(np.float64) * step * scales, rtol=1e-6)
  for got in on_every_path(lambda: xla_kernels.ternary_matmul(x, packed, scales)):
    np.testing.assert_array_equal(got, want)


@given(ODD_SIZES)
def test_int8_products_have_the_bits_of_the_reference(size):
  rows, columns, tokens, seed = size
  rng = np.random.default_rng(seed)
  weights, scales = rng.integers(-128, 128, (rows, columns)).astype(np.int8), rng.normal(size=rows).astype(np.float32)
  x = rng.normal(size=(tokens, columns)).astype(np.float32)
  packed = xla_kernels.pack_int8(weights)
  want = np.asarray(jax.jit(reference.int8_matmul)(x, packed, scales))
  q, step = quantised(x)
  np.testing.assert_allclose(want, (q @ weights.T.astype(np.float64)) * step * scales, rtol=1e-6)
  for got in on_every_path(lambda: xla_kernels.int8_matmul(x, packed, scales)):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('kind', ['ternary', 'int8'])
def test_a_bias_is_added_last(kind):
  rng = np.random.default_rng(5)
  codes, x = rng.integers(-1, 2, (70, 33)).astype(np.int8), rng.normal(size=(9, 33)).astype(np.float32)
  scales, bias = (rng.normal(size=70).astype(np.float32) for _ in range(2))
  matmul, pack = {
    'ternary': (xla_kernels.ternary_matmul, xla_kernels.pack),
    'int8': (xla_kernels.int8_matmul, xla_kernels.pack_int8),
  }[kind]
  packed = pack(codes)
  want = np.asarray(matmul(x, packed, scales)) + bias
  for got in on_every_path(lambda: matmul(x, packed, scales, bias)):
    np.testing.assert_array_equal(got, want)
  with pytest.raises(ValueError, match='bias must have shape'):
    matmul(x, packed, scales, bias[:69])


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
  np.testing.assert_array_equal(y, jax.jit(reference.ternary_matmul)(x, packed, scales))
  assert np.isnan(y[:2]).all()
  np.testing.assert_array_equal(y[2:5], 0)
  np.testing.assert_allclose(y[5], 0.5e38, rtol=1e-6)
  assert np.isinf(y[6]).all()
  np.testing.assert_allclose(y[7], 10, rtol=1e-6)
  tile, score = xla_kernels.route(x, np.ones((2, 20), np.int8), top_k=2)
  np.testing.assert_array_equal(tile[:2], [[0, 1], [0, 1]])
  assert np.isnan(score[:2]).all()


def test_many_tokens_are_multiplied_as_few(path):
  """More than are quantised at a time."""
  rng = np.random.default_rng(0)
  codes, q = codes_of(rng, (20, 300)), rng.integers(-127, 128, (3000, 300)).astype(np.int8)
  packed, want = xla_kernels.pack(codes), q.astype(np.int64) @ codes.T
  np.testing.assert_array_equal(xla_kernels.accumulate(q, packed), want)
  q[:, 0] = 127  # So that the step is 1.
  y = xla_kernels.ternary_matmul(q.astype(np.float32), packed, np.ones(20, np.float32))
  np.testing.assert_allclose(y, q.astype(np.int64) @ codes.T, rtol=1e-6)


def test_large_products_on_several_threads_have_the_same_bits(path):
  """Enough work for seven tasks, to which 18 blocks of rows do not go evenly."""
  rng = np.random.default_rng(0)
  codes = codes_of(rng, (1000, 300))
  x = rng.normal(size=(50, 300)).astype(np.float32)
  packed, scales = xla_kernels.pack(codes), rng.normal(size=1000).astype(np.float32)
  np.testing.assert_array_equal(
    xla_kernels.ternary_matmul(x, packed, scales), jax.jit(reference.ternary_matmul)(x, packed, scales)
  )


def test_bfloat16(path):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(5, 64)), jnp.bfloat16)
  packed, scales = xla_kernels.pack(codes_of(rng, (40, 64))), jnp.ones(40)
  y = xla_kernels.ternary_matmul(x, packed, scales)
  assert y.dtype == jnp.bfloat16
  want = xla_kernels.ternary_matmul(x.astype(jnp.float32), packed, scales).astype(jnp.bfloat16)
  np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(
  'arguments, error, message',
  [
    ((x_.astype(np.float64), packed_, scales_), TypeError, 'x must be an array of float32 or bfloat16, not float64'),
    ((x_, packed_.data, scales_), TypeError, 'takes weights from xla_kernels.pack'),
    ((x_, packed_, scales_.astype(np.int32)), TypeError, 'scales must be an array of float32'),
    ((x_[0], packed_, scales_), ValueError, 'x must have shape'),
    ((x_[:, :31], packed_, scales_), ValueError, '31 columns and the packed matrix 32'),
    ((x_, packed_, scales_[:15]), ValueError, 'scales must have shape'),
    ((x_, xla_kernels.PackedTernary(packed_.data[:-1], 16, 32), scales_), ValueError, 'uint8'),
    ((x_, xla_kernels.PackedTernary(packed_.data, 17, 32), np.ones(17, np.float32)), ValueError, 'uint8'),
    ((x_, xla_kernels.pack(np.ones((2, 16, 32), np.int8)), scales_), ValueError, 'use jax.vmap'),
  ],
)
def test_wrong_arguments_of_matmul(arguments, error, message):
  with pytest.raises(error, match=message):
    xla_kernels.ternary_matmul(*arguments)


@pytest.mark.parametrize(
  'arguments, error, message',
  [
    ((x_, packed_, scales_), TypeError, 'takes weights from xla_kernels.pack_int8, not PackedTernary'),
    ((x_, xla_kernels.pack_int8(np.ones((16, 31), np.int8)), scales_), ValueError, '32 columns and the packed matr'),
    ((x_, xla_kernels.pack_int8(np.ones((15, 32), np.int8)), scales_), ValueError, 'scales must have shape'),
    ((x_, xla_kernels.PackedInt8(np.ones(512, np.uint8), 16, 32), scales_), ValueError, 'are int8'),
    ((x_, xla_kernels.PackedInt8(np.ones(511, np.int8), 16, 32), scales_), ValueError, r'int8 \[..., 512\]'),
  ],
)
def test_wrong_arguments_of_int8_products(arguments, error, message):
  with pytest.raises(error, match=message):
    xla_kernels.int8_matmul(*arguments)
