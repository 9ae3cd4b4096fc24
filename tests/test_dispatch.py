import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trix_jax import dispatch


@st.composite
def assignments(draw):
  tiles, n, k = draw(st.integers(1, 9)), draw(st.integers(1, 60)), draw(st.integers(1, 3))
  high = draw(st.integers(0, tiles - 1))  # Often leaves tiles empty, or one tile with all.
  rng = np.random.default_rng(draw(st.integers(0, 99)))
  return tiles, k, rng.integers(0, high + 1, (n, k)).astype(np.int32), draw(st.sampled_from([None, 1, 2, 8, 64]))


@settings(max_examples=25, deadline=None)
@given(assignments())
def test_every_assignment_has_its_own_slot_in_a_block_of_its_tile(case):
  tiles, _, tile_NK, block = case
  tile_A = tile_NK.reshape(-1)
  plan = dispatch.plan_dispatch(jnp.asarray(tile_A), tiles, block)
  slot_A, assignment_S = np.asarray(plan.slot_A), np.asarray(plan.assignment_S)
  assert len(set(slot_A)) == len(tile_A)
  np.testing.assert_array_equal(assignment_S[slot_A], np.arange(len(tile_A)))
  assert np.sum(assignment_S < len(tile_A)) == len(tile_A)
  np.testing.assert_array_equal(np.asarray(plan.tile_G)[slot_A // plan.block], tile_A)


@settings(max_examples=10, deadline=None)
@given(assignments())
def test_there_and_back_with_gradients_like_a_plain_loop(case):
  tiles, k, tile_NK, block = case
  rng = np.random.default_rng(0)
  x, w = rng.standard_normal((len(tile_NK), 3)).astype(np.float32), rng.standard_normal((tiles, 3)).astype(np.float32)
  upstream = rng.standard_normal((len(tile_NK) * k, 3)).astype(np.float32)

  def grouped(x, w):
    plan = dispatch.plan_dispatch(jnp.asarray(tile_NK.reshape(-1)), tiles, block)
    y = jnp.tanh(dispatch.to_slots(x, plan) * dispatch.tiles_of_blocks(w, plan.tile_G)[:, None])
    return jnp.sum(dispatch.from_slots(y, plan) * upstream)

  def plain(x, w):
    return jnp.sum(jnp.tanh(jnp.repeat(x, k, axis=0) * w[tile_NK.reshape(-1)]) * upstream)

  for got, expected in zip(jax.value_and_grad(grouped, (0, 1))(x, w), jax.value_and_grad(plain, (0, 1))(x, w),
                           strict=True):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), got, expected)


def test_padding_is_zero():
  plan = dispatch.plan_dispatch(jnp.array([1, 0, 1]), 2, block=2)
  slots = np.asarray(dispatch.to_slots(jnp.array([[1.0], [2.0], [3.0]]), plan))[..., 0]
  np.testing.assert_array_equal(slots, [[2, 0], [1, 3], [0, 0]])


@pytest.mark.parametrize('tiles', [1, 4, 64, 4096])
def test_padding_adds_at_most_a_block_a_tile(tiles):
  assignments = 16384
  block = dispatch.block_size(assignments, tiles)
  assert block & (block - 1) == 0
  blocks = dispatch.plan_dispatch(jnp.zeros(assignments, jnp.int32), tiles, block).tile_G.shape[0]
  assert blocks * block <= assignments + tiles * block
  if tiles <= 64:
    assert blocks * block <= 1.25 * assignments
