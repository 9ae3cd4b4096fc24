"""Residual sums, normalisation and short convolutions: what Flax says, and the same bits on every path and batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xla_kernels
from trix_jax.core import layers
from xla_kernels import native, reference
from xla_kernels.normalisation import TAPS


def random(rng, *shape):
  return rng.normal(size=shape).astype(np.float32)


def in_flax(x, scale, bias):
  norm = nn.RMSNorm(parent=None) if bias is None else nn.LayerNorm(use_fast_variance=False, parent=None)
  return norm.apply({'params': {'scale': scale} if bias is None else {'scale': scale, 'bias': bias}}, x)


@given(st.integers(0, 70), st.integers(1, 150), st.booleans(), st.booleans(), st.integers(0, 99))
def test_sums_and_norms_of_every_size_on_every_path(N, D, with_bias, with_sum, seed):
  rng = np.random.default_rng(seed)
  x, scale = random(rng, N, D) + 3, random(rng, D)
  bias, add = random(rng, D) if with_bias else None, random(rng, N, D) if with_sum else None
  want = x + add if with_sum else x
  bits = None
  for path in native.available_paths():
    if path != native.REFERENCE:
      native.force(path)
      got = xla_kernels.normalise(x, scale, bias, add=add)
      bits = got if bits is None else bits
      np.testing.assert_array_equal(got[1], bits[1])
      np.testing.assert_array_equal(got[0], want)
      np.testing.assert_allclose(got[1], in_flax(want, scale, bias), rtol=2e-5, atol=2e-5)
  native.force(native.available_paths()[0])
  none = np.zeros(0, np.float32)
  got = reference.normalise(x, none if add is None else add, scale, none if bias is None else bias)
  np.testing.assert_allclose(got[1], in_flax(want, scale, bias), rtol=2e-5, atol=2e-5)


def test_a_row_has_the_same_bits_alone_and_among_others(path):
  rng = np.random.default_rng(0)
  x, add, scale, bias = random(rng, 300, 128), random(rng, 300, 128), random(rng, 128), random(rng, 128)
  for shift in (None, bias):
    many = xla_kernels.normalise(x, scale, shift, add=add)
    for row in (0, 17, 299):
      alone = xla_kernels.normalise(x[row : row + 1], scale, shift, add=add[row : row + 1])
      for all_rows, one in zip(many, alone, strict=True):
        np.testing.assert_array_equal(all_rows[row], one[0])


@pytest.mark.parametrize('with_bias', [False, True])
def test_epsilon_is_added_to_the_mean_square(path, with_bias):
  rng = np.random.default_rng(0)
  x, scale, bias = random(rng, 5, 24), random(rng, 24), random(rng, 24) if with_bias else None
  centred = x - x.mean(axis=-1, keepdims=True) if with_bias else x
  want = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 0.5) * scale + (bias if with_bias else 0)
  np.testing.assert_allclose(xla_kernels.normalise(x, scale, bias, epsilon=0.5)[1], want, rtol=1e-5, atol=1e-6)
  taps, inputs = np.zeros((TAPS, 24), np.float32), np.zeros((5, TAPS - 1, 24), np.float32)
  _, mixed, _ = xla_kernels.normalise_and_convolve(
    x[:, None], scale, bias, taps, inputs, np.ones(5, np.int32), epsilon=0.5
  )
  np.testing.assert_allclose(mixed[:, 0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('with_sum', [False, True])
def test_the_convolution_is_that_of_training_in_one_call_and_in_pieces(path, with_sum):
  rng = np.random.default_rng(1)
  B, L, D = 3, 11, 40
  x, scale, taps = random(rng, B, L, D), random(rng, D), random(rng, TAPS, D)
  add = random(rng, B, L, D) if with_sum else None
  before = random(rng, B, TAPS - 1, D)
  valid = np.array([11, 4, 0], np.int32)
  stream, mixed, latest = xla_kernels.normalise_and_convolve(x, scale, None, taps, before, valid, add=add)
  want = x + add if with_sum else x
  np.testing.assert_array_equal(stream, want)
  padded = np.concatenate([before, in_flax(want, scale, None)], axis=1)
  np.testing.assert_allclose(mixed, layers.short_convolution(padded, taps), rtol=2e-5, atol=2e-5)
  np.testing.assert_allclose(latest, layers.last_inputs(padded, valid), rtol=2e-5, atol=2e-5)
  said = reference.normalise_and_convolve(
    x, np.zeros((0, 0, 0), np.float32) if add is None else add, scale, np.zeros(0, np.float32), taps, before, valid
  )
  for got, wanted in zip((stream, mixed, latest), said, strict=True):
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)
  inputs = before
  for t in range(L):
    here = slice(t, t + 1)
    _, one, inputs = xla_kernels.normalise_and_convolve(
      x[:, here], scale, None, taps, inputs, np.ones(B, np.int32), add=None if add is None else add[:, here]
    )
    np.testing.assert_array_equal(one[:, 0], mixed[:, t])
  np.testing.assert_array_equal(inputs[0], latest[0])


def test_what_is_no_number_stays_in_its_row(path):
  x = np.ones((3, 20), np.float32)
  x[1, 4], x[2] = np.nan, 0
  for bias in (None, np.zeros(20, np.float32)):
    out = xla_kernels.normalise(x, np.ones(20, np.float32), bias)[1]
    assert np.isfinite(out[::2]).all() and np.isnan(out[1]).all()


def test_vmap(path):
  rng = np.random.default_rng(2)
  x, scale = random(rng, 3, 5, 17), random(rng, 17)
  many = jax.vmap(xla_kernels.normalise, (0, None))(x, scale)
  inputs, taps = random(rng, 3, 5, TAPS - 1, 17), random(rng, TAPS, 17)
  convolved = jax.vmap(xla_kernels.normalise_and_convolve, (0, None, None, None, 0, None))(
    x[:, :, None], scale, None, taps, inputs, np.ones(5, np.int32)
  )
  for i in range(3):
    for got, want in zip(many, xla_kernels.normalise(x[i], scale), strict=True):
      np.testing.assert_array_equal(got[i], want)
    one = xla_kernels.normalise_and_convolve(x[i][:, None], scale, None, taps, inputs[i], np.ones(5, np.int32))
    for got, want in zip(convolved, one, strict=True):
      np.testing.assert_array_equal(got[i], want)


x_, row_ = np.ones((2, 8), np.float32), np.ones(8, np.float32)


@pytest.mark.parametrize(
  'arguments, error, message',
  [
    ((x_[0], row_), ValueError, 'x must have shape'),
    ((x_.astype(np.int32), row_), TypeError, 'x must be an array of float32'),
    ((x_[:, :0], row_[:0]), ValueError, 'x has no columns'),
    ((x_, row_[:7]), ValueError, 'scale must have shape'),
    ((x_, row_, row_[:7]), ValueError, 'bias must have shape'),
    ((x_, row_, None, x_[:1]), ValueError, 'add must have shape'),
  ],
)
def test_wrong_arguments(arguments, error, message):
  x, scale, bias, add = (*arguments, *(None,) * (4 - len(arguments)))
  with pytest.raises(error, match=f'normalise: {message}'):
    xla_kernels.normalise(x, scale, bias, add=add)


def test_a_negative_epsilon():
  with pytest.raises(ValueError, match='normalise: epsilon = -1'):
    xla_kernels.normalise(x_, row_, epsilon=-1)


@pytest.mark.parametrize('valid', [3, -1])
def test_more_valid_tokens_than_there_are(path, valid):
  with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=f'{valid} valid tokens of 2'):
    jax.block_until_ready(
      xla_kernels.normalise_and_convolve(
        jnp.ones((1, 2, 8)),
        row_,
        None,
        np.ones((TAPS, 8), np.float32),
        np.ones((1, TAPS - 1, 8), np.float32),
        np.array([valid], np.int32),
      )
    )
