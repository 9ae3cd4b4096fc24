"""Causal self-attention that skips the masked half, and rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np

# Measured on a 2-core x86 CPU at length 256, head width 32 (benchmarks/train_speed.py). The scores of two windows stay
# in cache. Four blocks skip 3/8 of the products, and each block is still large enough to be fast.
BLOCKS = 4
WINDOWS_AT_A_TIME = 2


def causal_attention(q_BLHW: jax.Array, k_BLHW: jax.Array, v_BLHW: jax.Array) -> jax.Array:
  """Compute softmax(q k^T / sqrt(width) + causal mask) v, [B, L, heads, width] each.

  On a GPU this calls `jax.nn.dot_product_attention`. Elsewhere it calls the block-wise form below, which is faster on
  a CPU.
  """
  if jax.default_backend() == 'gpu':
    return jax.nn.dot_product_attention(q_BLHW, k_BLHW, v_BLHW, is_causal=True)
  return blockwise_causal_attention(q_BLHW, k_BLHW, v_BLHW)


@jax.custom_vjp
def blockwise_causal_attention(q_BLHW: jax.Array, k_BLHW: jax.Array, v_BLHW: jax.Array) -> jax.Array:
  """Compute exact causal attention in blocks, without the products that the mask hides outside the diagonal blocks.

  It maps over a few windows at a time, so that scores stay in cache. The gradient recomputes the scores from the
  logarithm of their normaliser (FlashAttention, arXiv 2205.14135).
  """
  return _forward(q_BLHW, k_BLHW, v_BLHW)[0]


def _forward(q_BLHW, k_BLHW, v_BLHW):
  out_BLHW, normaliser_BHL = _map_windows(_attend, q_BLHW, k_BLHW, v_BLHW)
  return out_BLHW, (q_BLHW, k_BLHW, v_BLHW, out_BLHW, normaliser_BHL)


def _backward(residuals, grad_BLHW):
  return _map_windows(_attend_gradient, *residuals, grad_BLHW)


blockwise_causal_attention.defvjp(_forward, _backward)


def _map_windows(function, *arrays):
  """Map `function` over the leading axis, a few windows at a time."""
  B = arrays[0].shape[0]
  few = _largest_divisor(B, WINDOWS_AT_A_TIME)
  split = tuple(x.reshape((B // few, few) + x.shape[1:]) for x in arrays)
  with jax.named_scope('causal_attention'):
    mapped = jax.lax.map(lambda xs: function(*xs), split)
  return jax.tree.map(lambda x: x.reshape((B,) + x.shape[2:]), mapped)


def _attend(q_BLHW, k_BLHW, v_BLHW):
  """Return the output [B, L, heads, width] and log(sum(exp(scores))) [B, heads, L], one block of queries at a time."""
  L, width = q_BLHW.shape[1], q_BLHW.shape[3]
  q, k, v = _heads_first(q_BLHW * width**-0.5), _heads_first(k_BLHW), _heads_first(v_BLHW)
  outputs, normalisers = [], []
  for start, end in _spans(L):
    score_BHQK = jnp.einsum('bhqd,bhkd->bhqk', q[:, :, start:end], k[:, :, :end])
    score_BHQK = jnp.where(np.arange(start, end)[:, None] >= np.arange(end), score_BHQK, -jnp.inf)
    highest_BHQ1 = score_BHQK.max(axis=-1, keepdims=True)
    weight_BHQK = jnp.exp(score_BHQK - highest_BHQ1)
    sum_BHQ1 = weight_BHQK.sum(axis=-1, keepdims=True)
    outputs.append(jnp.einsum('bhqk,bhkd->bhqd', weight_BHQK, v[:, :, :end]) / sum_BHQ1)
    normalisers.append((highest_BHQ1 + jnp.log(sum_BHQ1))[..., 0])
  return _heads_first(jnp.concatenate(outputs, axis=2)), jnp.concatenate(normalisers, axis=2)


def _attend_gradient(q_BLHW, k_BLHW, v_BLHW, out_BLHW, normaliser_BHL, grad_BLHW):
  """Return the gradients of q, k and v, one block of keys at a time with the queries from that block on."""
  L, width = q_BLHW.shape[1], q_BLHW.shape[3]
  q, k, v = _heads_first(q_BLHW * width**-0.5), _heads_first(k_BLHW), _heads_first(v_BLHW)
  grad = _heads_first(grad_BLHW)
  # The gradient of the softmax subtracts sum_k weight_qk * (gradient of weight_qk).
  mean_BHL = jnp.sum(out_BLHW * grad_BLHW, axis=-1).transpose(0, 2, 1)
  spans = _spans(L)
  grads_k, grads_v = [], []
  grads_q: list[list[jax.Array]] = [[] for _ in spans]
  for block, (start, end) in enumerate(spans):
    seeing = q[:, :, start:]
    score_BHKQ = jnp.einsum('bhkd,bhqd->bhkq', k[:, :, start:end], seeing)
    visible_KQ = np.arange(start, end)[:, None] <= np.arange(start, L)
    weight_BHKQ = jnp.where(visible_KQ, jnp.exp(score_BHKQ - normaliser_BHL[:, :, None, start:]), 0.0)
    grads_v.append(jnp.einsum('bhkq,bhqd->bhkd', weight_BHKQ, grad[:, :, start:]))
    grad_weight_BHKQ = jnp.einsum('bhkd,bhqd->bhkq', v[:, :, start:end], grad[:, :, start:])
    grad_score_BHKQ = weight_BHKQ * (grad_weight_BHKQ - mean_BHL[:, :, None, start:])
    grads_k.append(jnp.einsum('bhkq,bhqd->bhkd', grad_score_BHKQ, seeing))
    grad_q = jnp.einsum('bhkq,bhkd->bhqd', grad_score_BHKQ, k[:, :, start:end])
    for later, (first, last) in enumerate(spans[block:]):
      grads_q[block + later].append(grad_q[:, :, first - start : last - start])
  grad_q = jnp.concatenate([sum(parts[1:], parts[0]) for parts in grads_q], axis=2) * width**-0.5
  return tuple(map(_heads_first, (grad_q, jnp.concatenate(grads_k, axis=2), jnp.concatenate(grads_v, axis=2))))


def _heads_first(x):
  """[B, L, heads, width] <-> [B, heads, L, width]."""
  return x.transpose(0, 2, 1, 3)


def _spans(length: int) -> list[tuple[int, int]]:
  size = length // _largest_divisor(length, BLOCKS)
  return [(start, start + size) for start in range(0, length, size)]


def _largest_divisor(n: int, at_most: int) -> int:
  return max(d for d in range(1, at_most + 1) if n % d == 0)


def rotary(x_BLHW: jax.Array, position_BL: jax.Array | None = None, context: int | None = None) -> jax.Array:
  """Apply rotary position embedding, base 10,000 (RoFormer, arXiv 2104.09864).

  Args:
    x_BLHW: [B, L, heads, width], width even.
    position_BL: int32 positions, by default 0 ... L - 1 in every row.
    context: number of positions; needed when `position_BL` is given.
  """
  L, half = x_BLHW.shape[1], x_BLHW.shape[-1] // 2
  # Both cases use the same table, so that a position gets the same bits in both.
  tables = (table[:, None] for table in rotary_tables(context or L, 2 * half))
  cos, sin = (table if position_BL is None else jnp.take(table, position_BL, axis=0, mode='clip') for table in tables)
  first, second = x_BLHW[..., :half], x_BLHW[..., half:]
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rotary_tables(positions: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the cosines and sines of `rotary`, float32 [positions, width / 2]."""
  half = width // 2
  angle_Ph = np.arange(positions)[:, None] * 10_000.0 ** (-np.arange(half) / half)
  return np.cos(angle_Ph).astype(np.float32), np.sin(angle_Ph).astype(np.float32)
