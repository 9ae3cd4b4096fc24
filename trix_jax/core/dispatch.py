"""Group tokens by tile with static shapes, so that each token costs the work of its own tiles only.

Tokens are sorted by tile. Padding fills each tile's run to whole blocks of `block` rows, so every block belongs to one
tile. The layer becomes one batched matrix product over blocks. At most T - 1 blocks are padding. This is the
block-sparse grouping of MegaBlocks (arXiv 2211.15841) on a dense batched product.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class DispatchPlan(NamedTuple):
  """The slot of every token's assignments.

  There are A = N * K assignments: token n's k-th tile is assignment n * K + k. There are S = G * block slots.

  Attributes:
    slot_A: [A] int32, slot of each assignment.
    assignment_S: [S] int32, assignment in each slot; A where the slot is padding.
    tile_G: [G] int32, tile of each block.
    count_T: [T] int32, assignments of each tile.
    block: rows in a block.
  """

  slot_A: jax.Array
  assignment_S: jax.Array
  tile_G: jax.Array
  count_T: jax.Array
  block: int


def block_size(assignments: int, tiles: int) -> int:
  """Return the rows in a block. On a GPU it is 1, which makes `multiply` a ragged product.

  Elsewhere a block is an eighth of a tile's fair share, so that padding adds at most an eighth to the work. A block has
  at least 8 rows, so padding adds more where the share is below 64 rows. Larger blocks give faster matrix products: at
  128 x 128, blocks of 512 rows ran twice as fast as blocks of 64.
  """
  if jax.default_backend() == 'gpu':
    return 1
  share = max(1, assignments // tiles)
  return min(512, max(8, 1 << max(1, share // 8).bit_length() - 1))


def plan_dispatch(tile_A: jax.Array, tiles: int, block: int | None = None) -> DispatchPlan:
  """Sort assignments by tile into whole blocks.

  Args:
    tile_A: [A] int32 tile of each assignment, A >= 1, 0 <= tile < tiles.
    tiles: T.
    block: rows in a block; by default `block_size`.
  """
  A = tile_A.shape[0]
  block = block or block_size(A, tiles)
  # The tokens of one tile would fill ceil(A / block) blocks. Each further non-empty tile adds at most a partial block.
  G = -(-A // block) + min(tiles, A) - 1
  order_A = jnp.argsort(tile_A, stable=True).astype(jnp.int32)
  count_T = jnp.zeros(tiles, jnp.int32).at[tile_A].add(1)
  first_T = jnp.cumsum(count_T) - count_T
  blocks_T = (count_T + block - 1) // block
  last_block_T = jnp.cumsum(blocks_T)
  tile_G = jnp.minimum(jnp.searchsorted(last_block_T, jnp.arange(G), side='right'), tiles - 1).astype(jnp.int32)
  row_G = (jnp.arange(G) - (last_block_T - blocks_T)[tile_G]) * block
  rank_GR = row_G[:, None] + jnp.arange(block)[None, :]
  taken_GR = rank_GR < count_T[tile_G][:, None]
  position_GR = jnp.where(taken_GR, first_T[tile_G][:, None] + rank_GR, 0)
  assignment_S = jnp.where(taken_GR, order_A[position_GR], A).reshape(-1)
  # This is the inverse permutation. Padding writes to the extra last entry, which is cut off.
  slot_A = jnp.zeros(A + 1, jnp.int32).at[assignment_S].set(jnp.arange(G * block, dtype=jnp.int32))[:A]
  return DispatchPlan(slot_A, assignment_S, tile_G, count_T, block)


def to_slots(x_NX: jax.Array, plan: DispatchPlan) -> jax.Array:
  """Copy every token to the slots of its assignments: [N, X] -> [G, block, X], zeros in padding."""
  slots_SX = _to_slots(x_NX, plan.slot_A, plan.assignment_S)
  return slots_SX.reshape(-1, plan.block, x_NX.shape[-1])


def multiply(x_GRX: jax.Array, weights_TXY: jax.Array, plan: DispatchPlan) -> jax.Array:
  """Multiply every slot's row by the weights of its tile: [G, block, X] -> [G, block, Y].

  With blocks of one row the slots are simply sorted, and `jax.lax.ragged_dot` multiplies them fast on GPU and TPU. On
  CPU `ragged_dot` multiplies every row by every tile, so a batched product over larger blocks replaces it.
  """
  if plan.block == 1:
    return jax.lax.ragged_dot(x_GRX[:, 0], weights_TXY, plan.count_T)[:, None]
  return x_GRX @ tiles_of_blocks(weights_TXY, plan.tile_G)


def from_slots(y_GRX: jax.Array, plan: DispatchPlan) -> jax.Array:
  """Take every assignment's row back: [G, block, X] -> [A, X]."""
  return _from_slots(y_GRX.reshape(-1, y_GRX.shape[-1]), plan.slot_A, plan.assignment_S)


# Each direction is a gather, and JAX makes the gradient of a gather a scatter. Slots and assignments are permutations
# of each other, so here the gradient is also a gather: that of the other direction.


@jax.custom_vjp
def _to_slots(x_NX, slot_A, assignment_S):
  N, A = x_NX.shape[0], slot_A.shape[0]
  return _take_rows(x_NX, jnp.where(assignment_S < A, assignment_S // (A // N), N))


def _to_slots_fwd(x_NX, slot_A, assignment_S):
  return _to_slots(x_NX, slot_A, assignment_S), (slot_A, x_NX.shape[0])


def _to_slots_bwd(residuals, grad_SX):
  slot_A, N = residuals
  return grad_SX[slot_A].reshape(N, -1, grad_SX.shape[-1]).sum(axis=1), None, None


@jax.custom_vjp
def _from_slots(y_SX, slot_A, assignment_S):
  del assignment_S
  return y_SX[slot_A]


def _from_slots_fwd(y_SX, slot_A, assignment_S):
  return y_SX[slot_A], assignment_S


def _from_slots_bwd(assignment_S, grad_AX):
  return _take_rows(grad_AX, assignment_S), None, None


def _take_rows(x_NX, index_S):
  """Take rows of `x_NX`, zeros where the index is N."""
  return jnp.take(x_NX, index_S, axis=0, mode='fill', fill_value=0)


_to_slots.defvjp(_to_slots_fwd, _to_slots_bwd)
_from_slots.defvjp(_from_slots_fwd, _from_slots_bwd)


@jax.custom_vjp
def tiles_of_blocks(weights_TX: jax.Array, tile_G: jax.Array) -> jax.Array:
  """Take each block's tile parameters: [T, ...] -> [G, ...]. Blocks are in the order of tiles, as in a plan."""
  return weights_TX[tile_G]


def _tiles_of_blocks_fwd(weights_TX, tile_G):
  return weights_TX[tile_G], (tile_G, weights_TX.shape[0])


def _tiles_of_blocks_bwd(residuals, grad_GX):
  tile_G, T = residuals
  return jax.ops.segment_sum(grad_GX, tile_G, T, indices_are_sorted=True), None


tiles_of_blocks.defvjp(_tiles_of_blocks_fwd, _tiles_of_blocks_bwd)
