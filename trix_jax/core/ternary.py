"""Ternary weights and int8 activations, each with a straight-through gradient.

Quantised values are *integers stored in float32*. A float32 product of int8 activations and ternary codes is exact up
to 2**24 on every backend, because TF32 and bfloat16 inputs also hold +-127 exactly. So a training step and a packed
integer kernel produce the same accumulators.
"""

import jax
import jax.numpy as jnp
import numpy as np

QUANTISERS = ('absmean', 'threshold')

# The reference set-up: |w| > 0.5 is a vote, and a latent weight beyond 1.5 gets no gradient.
THRESHOLD = 0.5
GRADIENT_CUT = 1.5

INT8_MAX = 127.0
TINY = 2.0**-100
# XLA turns `a / 127` into a product with this constant. NumPy and C++ use the product too, so that all round alike.
INVERSE_INT8_MAX = np.float32(1.0) / np.float32(127.0)


@jax.custom_jvp
def straight_through(value: jax.Array, surrogate: jax.Array) -> jax.Array:
  """Return `value` forward and the gradient of `surrogate` backward (Bengio et al., arXiv 1308.3432).

  The usual `surrogate + stop_gradient(value - surrogate)` rounds, but integers must stay integers here.
  """
  del surrogate
  return value


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
  return primals[0], tangents[1]


def ternarise(latent: jax.Array, quantiser: str) -> tuple[jax.Array, jax.Array]:
  """Return ternary codes and their scale. Each trailing matrix (one tile) is quantised by itself.

  Args:
    latent: [..., rows, columns] float32 latent weights.
    quantiser: `absmean`, codes = clip(round(w / s), -1, 1) with s = mean |w| (BitNet b1.58, arXiv 2402.17764), or
      `threshold`, the reference's fixed |w| > 0.5 with s = 1.

  Returns:
    codes like `latent`, float32 in {-1, 0, 1}, and scale [..., 1, 1]. The gradient of `scale * codes` passes straight
    to `latent`; with `threshold` it is 0 where |w| > 1.5.
  """
  if quantiser == 'absmean':
    scale = jax.lax.stop_gradient(jnp.mean(jnp.abs(latent), axis=(-2, -1), keepdims=True))
    latent = latent / jnp.where(scale > 0, scale, 1.0)
    return straight_through(jnp.clip(jnp.round(latent), -1, 1), latent), scale
  if quantiser == 'threshold':
    codes = (latent > THRESHOLD).astype(latent.dtype) - (latent < -THRESHOLD).astype(latent.dtype)
    scale = jnp.ones(latent.shape[:-2] + (1, 1), latent.dtype)
    return straight_through(codes, jnp.clip(latent, -GRADIENT_CUT, GRADIENT_CUT)), scale
  raise ValueError(f'unknown quantiser {quantiser!r}; choose one of {", ".join(QUANTISERS)}')


def quantise_int8(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Quantise to symmetric int8 by the largest magnitude of each row: q = rint(x * (127 / a)), a = max |x|.

  A row with a < 2**-100 counts as zero, with q = 0 and step 0. Below 2**-121 the factor 127 / a would overflow.

  Args:
    x: [..., width] float32.

  Returns:
    q like `x`, integers in [-127, 127] stored as float32, and step [..., 1], so that x is about `q * step`. The
    gradient of `q * step` passes straight to `x`.
  """
  a = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
  nonzero = a >= TINY
  scaled = x * jnp.where(nonzero, INT8_MAX / jnp.where(nonzero, a, 1.0), 0.0)
  return straight_through(jnp.round(scaled), scaled), jnp.where(nonzero, a * INVERSE_INT8_MAX, 0.0)


def quantise_activations(x: jax.Array, int8: bool) -> tuple[jax.Array, jax.Array]:
  """Return `quantise_int8`, or for float-activation models the values themselves with step 1."""
  if int8:
    return quantise_int8(x)
  return x, jnp.ones(x.shape[:-1] + (1,), x.dtype)
