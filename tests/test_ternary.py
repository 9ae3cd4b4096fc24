import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trix_jax.core import ternary


def normal(*shape, seed=0, scale=1.0):
  return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_absmean_codes_follow_the_formula_tile_by_tile():
  latent = normal(3, 8, 5) * np.array([0.02, 1.0, 30.0], np.float32)[:, None, None]
  codes, scale = ternary.ternarise(jnp.asarray(latent), 'absmean')
  for tile in range(3):
    s = np.abs(latent[tile].astype(np.float64)).mean()
    np.testing.assert_allclose(scale[tile, 0, 0], s, rtol=1e-6)
    np.testing.assert_array_equal(codes[tile], np.clip(np.rint(latent[tile] / np.float32(s)), -1, 1))


def test_absmean_leaves_about_31_percent_zeros_whatever_the_scale():
  # P(|w| < mean|w| / 2) for a Gaussian: erf(sqrt(2 / pi) / 2 / sqrt(2)) = 0.310.
  for scale in (0.02, 5.0):
    codes, _ = ternary.ternarise(jnp.asarray(normal(200, 200, scale=scale)), 'absmean')
    assert np.mean(np.asarray(codes) == 0) == pytest.approx(0.310, abs=0.01)


def test_absmean_of_a_zero_tile_is_zero_not_nan():
  codes, scale = ternary.ternarise(jnp.zeros((2, 4, 4)), 'absmean')
  assert not np.any(codes) and not np.any(scale)


def test_threshold_codes_and_its_boundaries():
  latent = jnp.array([[-2.0, -0.51, -0.5, 0.0, 0.5, 0.51, 1.6]])
  codes, scale = ternary.ternarise(latent, 'threshold')
  np.testing.assert_array_equal(codes, [[-1, -1, 0, 0, 0, 1, 1]])
  np.testing.assert_array_equal(scale, [[1]])


def test_gradient_of_the_scaled_codes_is_passed_straight_through():
  latent, upstream = jnp.asarray(normal(2, 6, 4)), jnp.asarray(normal(2, 6, 4, seed=1))

  def effective(latent):
    codes, scale = ternary.ternarise(latent, 'absmean')
    return jnp.sum(scale * codes * upstream)

  np.testing.assert_allclose(jax.grad(effective)(latent), upstream, rtol=1e-5)


def test_threshold_gradient_is_cut_beyond_1_5():
  latent = jnp.array([[-1.6, -1.4, 0.1, 1.4, 1.6]])
  grad = jax.grad(lambda w: jnp.sum(ternary.ternarise(w, 'threshold')[0]))(latent)
  np.testing.assert_array_equal(grad, [[0, 1, 1, 1, 0]])


def test_int8_is_bit_exact_in_the_documented_order_of_roundings():
  x = normal(500, 33) * np.exp(normal(500, 1, seed=1) * 5)
  q, step = jax.jit(ternary.quantise_int8)(x)
  a = np.abs(x).max(axis=-1, keepdims=True)
  np.testing.assert_array_equal(q, np.rint(x * (np.float32(127) / a)))
  np.testing.assert_array_equal(step, a * (np.float32(1) / np.float32(127)))
  assert np.abs(np.asarray(q)).max() == 127


def test_int8_takes_that_order_where_another_would_round_otherwise():
  a = np.abs(normal(500, 1)) + np.float32(0.1)
  x = np.concatenate([(np.arange(127, dtype=np.float32) + np.float32(0.5)) * (a / np.float32(127)), a], axis=1)
  expected = np.rint(x * (np.float32(127) / a))
  assert np.mean(expected != np.rint(x * np.float32(127) / a)) > 0.05  # Values next to ties tell the orders apart.
  np.testing.assert_array_equal(jax.jit(ternary.quantise_int8)(x)[0], expected)


def test_int8_rounds_half_to_even_and_keeps_zero_rows():
  q, step = ternary.quantise_int8(jnp.array([[127.0, 0.5, 1.5, -2.5], [0.0, 0.0, 0.0, 0.0]]))
  np.testing.assert_array_equal(q, [[127, 0, 2, -2], [0, 0, 0, 0]])
  np.testing.assert_array_equal(step, [[1], [0]])


def test_int8_of_rows_too_small_to_scale_is_zero_not_nan():
  q, step = ternary.quantise_int8(jnp.array([[2e-37, 0.0, -1e-37], [1e-20, 0.0, -1e-20]]))
  np.testing.assert_array_equal(q, [[0, 0, 0], [127, 0, -127]])
  assert step[0, 0] == 0 and step[1, 0] > 0


def test_int8_gradient_is_straight_through():
  x, upstream = jnp.asarray(normal(4, 9)), jnp.asarray(normal(4, 9, seed=1))

  def dequantised(x):
    q, step = ternary.quantise_int8(x)
    return jnp.sum(q * step * upstream)

  np.testing.assert_allclose(jax.grad(dequantised)(x), upstream, rtol=1e-5)


def test_float_products_of_codes_are_the_integer_products():
  q = np.random.default_rng(0).integers(-127, 128, (16, 4096)).astype(np.float32)
  codes = np.random.default_rng(1).integers(-1, 2, (4096, 32)).astype(np.float32)
  np.testing.assert_array_equal(jax.jit(jnp.matmul)(q, codes), q.astype(np.int64) @ codes.astype(np.int64))


def test_unknown_quantiser_is_named():
  with pytest.raises(ValueError, match='median'):
    ternary.ternarise(jnp.ones((2, 2)), 'median')
