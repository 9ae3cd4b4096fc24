"""Drawing tokens: the probabilities of a softmax, the same token on every path, and no others than the top k."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xla_kernels
from xla_kernels import native, reference


def arguments(rng, B, V, *, temperature=None, top_k=None):
  logits = rng.normal(size=(B, V)).astype(np.float32) * 2
  uniform = rng.random(B, np.float32) * np.float32(0.999)
  temperature = rng.choice([0.0, 0.3, 1.0, 5.0], B) if temperature is None else np.full(B, temperature)
  top_k = rng.integers(1, V + 3, B) if top_k is None else np.full(B, top_k)
  return logits, uniform, temperature.astype(np.float32), top_k.astype(np.int32)


def by_hand(logits, uniform, temperature, top_k):
  """In float64, one row at a time; also how near the number is to where the token changes."""
  if temperature == 0:
    return int(np.argmax(logits)), np.inf
  logits = logits.astype(np.float64)
  share = np.exp((logits - logits.max()) / temperature)
  share[logits < np.sort(logits)[max(0, len(logits) - top_k)]] = 0
  cumulative = np.cumsum(share) / share.sum()
  return int(np.argmax(cumulative > uniform)), np.abs(cumulative - uniform).min()


@given(st.integers(0, 40), st.integers(1, 150), st.integers(0, 99))
def test_every_path_draws_the_token_that_the_definition_names(B, V, seed):
  drawn_from = arguments(np.random.default_rng(seed), B, V)
  for path in native.available_paths():
    if path != native.REFERENCE:
      native.force(path)
    draw = reference.draw if path == native.REFERENCE else xla_kernels.draw
    for token, *row in zip(np.asarray(draw(*drawn_from)), *drawn_from, strict=True):
      want, nearest = by_hand(*row)
      assert token == want or nearest < 1e-5
  native.force(native.available_paths()[0])


def test_frequencies_are_the_probabilities(path):
  rng = np.random.default_rng(0)
  B, V, temperature = 20_000, 7, 0.7
  logits = rng.normal(size=V).astype(np.float32)
  uniform = rng.random(B, np.float32) * np.float32(1 - 2**-20)
  token_B = xla_kernels.draw(
    np.tile(logits, (B, 1)), uniform, np.full(B, temperature, np.float32), np.full(B, V, np.int32)
  )
  share = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
  deviation = np.sqrt(share * (1 - share) / B)
  assert np.all(np.abs(np.bincount(token_B, minlength=V) / B - share) < 5 * deviation)


def test_many_small_weights_are_not_lost(path):
  # In float32, sums of a large and a hundred thousand small ones would round the small ones away.
  V, B = 128_256, 40
  logits = np.full((B, V), np.log(5e-8), np.float32)
  logits[:, 0] = 0
  uniform = np.linspace(0.9945, 0.9999, B, dtype=np.float32)
  token_B = xla_kernels.draw(logits, uniform, np.ones(B, np.float32), np.full(B, V, np.int32))
  weight = np.float64(np.exp(logits[0, 1]))
  want = (uniform.astype(np.float64) * (1 + weight * (V - 1)) - 1) / weight
  np.testing.assert_allclose(token_B, want, atol=3)


def test_a_tiny_temperature_is_greedy_in_the_reference_too(path):
  logits = np.array([[1, 90, 3, 9], [1e9, 0, 0, 0]], np.float32)
  for draw in (xla_kernels.draw, reference.draw):
    token_B = draw(logits, np.full(2, 0.7, np.float32), np.full(2, 1e-37, np.float32), np.full(2, 4, np.int32))
    np.testing.assert_array_equal(token_B, [1, 0])


def test_only_the_top_k_and_their_equals_are_drawn(path):
  logits = np.tile(np.array([0, 3, 1, 3, 2, -1], np.float32), (600, 1))
  uniform = np.linspace(0, 0.999, 600, dtype=np.float32)
  for top_k, allowed in ((1, {1, 3}), (2, {1, 3}), (3, {1, 3, 4}), (6, set(range(6))), (99, set(range(6)))):
    token_B = xla_kernels.draw(logits, uniform, np.full(600, 3, np.float32), np.full(600, top_k, np.int32))
    assert set(np.asarray(token_B).tolist()) == allowed


def test_temperature_0_takes_the_first_of_the_likeliest(path):
  logits = np.array([[1, 5, 5, 2], [-np.inf, -7, -7, -8]], np.float32)
  for uniform in (0, 0.99):
    token_B = xla_kernels.draw(
      logits, np.full(2, uniform, np.float32), np.zeros(2, np.float32), np.full(2, 4, np.int32)
    )
    np.testing.assert_array_equal(token_B, [1, 1])


def test_vmap(path):
  rng = np.random.default_rng(1)
  logits, uniform, temperature, top_k = arguments(rng, 12, 30)
  many = jax.vmap(xla_kernels.draw, (0, 0, None, None))(
    logits.reshape(3, 4, 30), uniform.reshape(3, 4), temperature[:4], top_k[:4]
  )
  for i in range(3):
    rows = slice(4 * i, 4 * i + 4)
    np.testing.assert_array_equal(many[i], xla_kernels.draw(logits[rows], uniform[rows], temperature[:4], top_k[:4]))


@pytest.mark.parametrize(
  'position, wrong, message',
  [
    (0, np.zeros((2, 0), np.float32), 'no columns'),
    (1, np.zeros(3, np.float32), 'uniform must have shape'),
    (2, np.zeros(2, np.int32), 'temperature must be an array of float32'),
    (3, np.ones(2, np.float32), 'top_k must be an array of int32'),
  ],
)
def test_wrong_arguments(position, wrong, message):
  given_ = list(arguments(np.random.default_rng(0), 2, 5))
  given_[position] = wrong
  with pytest.raises((TypeError, ValueError), match=f'draw: .*{message}'):
    xla_kernels.draw(*given_)


@pytest.mark.parametrize(
  'position, value, message',
  [
    (1, 1.0, 'random number is not from 0 to 1'),
    (2, -1, 'temperature is negative'),
    (3, 0, 'top_k must be at least 1'),
  ],
)
def test_numbers_out_of_range(path, position, value, message):
  drawn_from = list(arguments(np.random.default_rng(0), 2, 5))
  drawn_from[position][1] = value
  with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match=message):
    jax.block_until_ready(xla_kernels.draw(*drawn_from))
