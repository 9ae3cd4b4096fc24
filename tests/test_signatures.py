import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trix_jax.core import signatures, ternary


def latent(T=3, D=10, H=7, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal((T, D, H)), jnp.float32)


def read(weights, kind, quantiser='absmean'):
  codes, _ = ternary.ternarise(weights, quantiser)
  return signatures.read_signatures(codes, weights, kind)


def test_signatures_by_hand():
  codes = jnp.array([[[1, 1, -1], [-1, 0, 1], [-1, -1, 0]]], jnp.float32)  # One tile, D = 3, H = 3; tallies 1, 0, -2.
  sign, sign_scale = signatures.read_signatures(codes, codes, 'sign')
  votes, votes_scale = signatures.read_signatures(codes, codes, 'votes')
  np.testing.assert_array_equal(sign, [[1, 0, -1]])
  np.testing.assert_array_equal(sign_scale, [1])
  np.testing.assert_array_equal(votes, [[1, 0, -2]])
  np.testing.assert_allclose(votes_scale, [np.sqrt(3 / 5)], rtol=1e-6)


def test_votes_are_clipped_to_int8():
  codes = jnp.ones((1, 2, 300))
  np.testing.assert_array_equal(signatures.read_signatures(codes, codes, 'votes')[0], [[127, 127]])


def test_a_tile_without_votes_has_scale_zero():
  votes, scale = signatures.read_signatures(jnp.zeros((1, 4, 4)), jnp.zeros((1, 4, 4)), 'votes')
  assert not np.any(votes) and not np.any(scale)


@pytest.mark.parametrize('kind', signatures.KINDS)
def test_every_weight_of_a_row_gets_the_gradient_of_its_signature_entry(kind):
  weights, upstream = latent(), jnp.asarray(np.random.default_rng(1).standard_normal((3, 10)), jnp.float32)
  value, _ = read(weights, kind)
  grad = jax.grad(lambda w: jnp.sum(read(w, kind)[0] * upstream))(weights)
  # The surrogate is sum_h w, brought to the root mean square of the value.
  total = np.asarray(weights).sum(axis=-1)
  ratio = np.sqrt(np.mean(np.asarray(value) ** 2, axis=-1) / np.mean(total**2, axis=-1))
  expected = np.broadcast_to((np.asarray(upstream) * ratio[:, None])[..., None], weights.shape)
  np.testing.assert_allclose(grad, expected, rtol=1e-5)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
  T=st.sampled_from([1, 3]),
  D=st.sampled_from([1, 12]),
  H=st.sampled_from([2, 9, 16]),
  quantiser=st.sampled_from(ternary.QUANTISERS),
  seed=st.integers(0, 99),
  data=st.data(),
)
def test_what_is_written_is_read(T, D, H, quantiser, seed, data):
  majority = data.draw(st.integers(1, H // 2))
  rng = np.random.default_rng(seed)
  target = rng.integers(-1, 2, (T, D))
  weights = jnp.asarray(rng.standard_normal((T, D, H)) * 0.3, jnp.float32)
  written = signatures.write_signatures(weights, jnp.asarray(target), quantiser, majority)
  assert written.shape == weights.shape
  np.testing.assert_array_equal(read(written, 'sign', quantiser)[0], target)
  codes, _ = ternary.ternarise(written, quantiser)
  np.testing.assert_array_equal(codes.sum(axis=-1), 2 * majority * target)


@pytest.mark.parametrize(
  'weights',
  [
    np.zeros((1, 4, 2)),
    np.eye(16)[None, :, :2] * 100 + 1e-3,  # One row holds nearly all of the magnitude.
    np.random.default_rng(125).standard_normal((3, 16, 5)) * np.exp(2 * np.arange(16) / 4)[:, None],
  ],
)
@pytest.mark.parametrize('quantiser', ternary.QUANTISERS)
def test_signatures_are_written_into_uneven_weights(weights, quantiser):
  target = np.random.default_rng(0).integers(-1, 2, weights.shape[:2])
  written = signatures.write_signatures(jnp.asarray(weights, jnp.float32), jnp.asarray(7 * target), quantiser)
  np.testing.assert_array_equal(read(written, 'sign', quantiser)[0], target)


def test_writing_needs_room_for_the_majority():
  with pytest.raises(ValueError, match='4 hidden units, not 3'):
    signatures.write_signatures(latent(H=3), jnp.ones((3, 10)), 'absmean', majority=2)
  with pytest.raises(ValueError, match='unknown quantiser'):
    signatures.write_signatures(latent(), jnp.ones((3, 10)), 'sign')


def test_diversity_by_hand():
  # Pairs differ in 2/4, 4/4 and 2/4 entries.
  s = jnp.array([[1, 1, 1, 1], [1, 1, -1, -1], [-1, -1, -1, -1]])
  assert signatures.diversity(s) == pytest.approx(2 / 3)
  assert signatures.diversity(s[:1]) == 0


def test_steps_on_the_similarity_loss_alone_drive_signatures_apart():
  base = latent(T=1, D=32, H=8)
  weights = jnp.concatenate([base, base, base]) + 0.3 * latent(T=3, D=32, H=8, seed=1)

  def loss(w):
    return signatures.similarity_loss(read(w, 'votes')[0])

  before, diversity_before = loss(weights), signatures.diversity(read(weights, 'votes')[0])
  step = jax.jit(lambda w: w - jax.grad(loss)(w))
  for _ in range(100):
    weights = step(weights)
  assert loss(weights) < 0.3 * before
  assert signatures.diversity(read(weights, 'votes')[0]) > diversity_before + 0.05


def test_a_signature_without_votes_has_a_finite_gradient():
  grad = jax.grad(signatures.similarity_loss)(jnp.ones((3, 4)).at[1].set(0))
  assert np.all(np.isfinite(grad))
