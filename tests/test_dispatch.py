import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trix_jax.core import dispatch

# Few shapes and any content: a new shape is a new compilation. (tiles, tokens, tiles a token, block)
SHAPES = [(1, 1, 1, None), (4, 1, 1, 8), (1, 9, 1, 4), (5, 33, 1, None), (9, 20, 3, 1), (4, 64, 1, 8), (3, 17, 2, 64)]


@st.composite
def assignments(draw):
  tiles, n, k, block = draw(st.sampled_from(SHAPES))
  high = draw(st.integers(0, tiles - 1))  # Often leaves tiles empty, or one tile with all.
  rng = np.random.default_rng(draw(st.integers(0, 999)))
  return tiles, block, rng.integers(0, high + 1, (n, k)).astype(np.int32)


@functools.partial(jax.jit, static_argnums=(1, 2))
def plan_of(tile_A, tiles, block):
  return dispatch.plan_dispatch(tile_A, tiles, block)


@settings(max_examples=60, deadline=None)
@given(assignments())
def test_every_assignment_has_its_own_slot_in_a_block_of_its_tile(case):
  tiles, block, tile_NK = case
  tile_A = tile_NK.reshape(-1)
  plan = plan_of(tile_A, tiles, block)
  slot_A, assignment_S = np.asarray(plan.slot_A), np.asarray(plan.assignment_S)
  assert len(set(slot_A)) == len(tile_A)
  np.testing.assert_array_equal(assignment_S[slot_A], np.arange(len(tile_A)))
  assert np.sum(assignment_S < len(tile_A)) == len(tile_A)
  np.testing.assert_array_equal(np.asarray(plan.tile_G)[slot_A // int(plan.block)], tile_A)
  np.testing.assert_array_equal(plan.count_T, np.bincount(tile_A, minlength=tiles))


@functools.partial(jax.jit, static_argnums=(4, 5))
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def grouped(x, w, tile_NK, upstream, tiles, block):
  plan = dispatch.plan_dispatch(tile_NK.reshape(-1), tiles, block)
  y = jnp.tanh(dispatch.multiply(dispatch.to_slots(x, plan), w, plan))
  return jnp.sum(dispatch.from_slots(y, plan) * upstream)


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def plain(x, w, tile_NK, upstream):
  x_of_assignment = jnp.repeat(x, tile_NK.shape[1], axis=0)
  return jnp.sum(jnp.tanh(jnp.einsum('ax,axy->ay', x_of_assignment, w[tile_NK.reshape(-1)])) * upstream)


@settings(max_examples=40, deadline=None)
@given(assignments())
def test_there_and_back_with_gradients_like_a_plain_loop(case):
  tiles, block, tile_NK = case
  rng = np.random.default_rng(0)
  x, w, upstream = (
    rng.standard_normal(shape).astype(np.float32) for shape in ((len(tile_NK), 3), (tiles, 3, 2), (tile_NK.size, 2))
  )
  got, expected = grouped(x, w, tile_NK, upstream, tiles, block), plain(x, w, tile_NK, upstream)
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
