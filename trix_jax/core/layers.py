"""Small pure layers of the transformer, with gradients that are fast on a CPU."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from trix_jax.core import ternary

CONVOLUTION_WIDTH = 4


@jax.custom_vjp
def project(x_BLD: jax.Array, kernel_DE: jax.Array) -> jax.Array:
  """Multiply by a kernel, [B, L, D] x [D, E] -> [B, L, E], with a kernel gradient that is fast on a CPU.

  The gradient sums one product for each window. A single product over all B * L rows is slower: XLA would transpose its
  operands first, and then multiply at a third of the speed.
  """
  return x_BLD @ kernel_DE


def _project_forward(x_BLD, kernel_DE):
  return project(x_BLD, kernel_DE), (x_BLD, kernel_DE)


def _project_backward(residuals, grad_BLE):
  x_BLD, kernel_DE = residuals
  return grad_BLE @ kernel_DE.T, jnp.einsum('bld,ble->bde', x_BLD, grad_BLE).sum(axis=0)


project.defvjp(_project_forward, _project_backward)


def project_ternary(x_BLD: jax.Array, latent_DE: jax.Array) -> jax.Array:
  """Multiply int8 activations by the absmean codes of a latent kernel, [B, L, D] x [D, E] -> [B, L, E]."""
  codes_DE, scale = ternary.ternarise(latent_DE, 'absmean')
  return multiply_codes(x_BLD, codes_DE, scale[0])


def multiply_codes(x: jax.Array, codes_DE: jax.Array, scale: jax.Array) -> jax.Array:
  """Multiply int8 activations by ternary codes, [..., D] x [D, E] -> [..., E], in the roundings of packed products."""
  q, step = ternary.quantise_int8(x)
  return project(q, codes_DE) * step * scale


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
  """Zero a share of the entries, `rate` rounded to a multiple of 1/256, and scale the others so that the mean stays.

  It draws one random byte for each entry. `flax.linen.Dropout` draws four, which took a tenth of a training step on
  CPU.
  """
  dropped = min(round(256 * rate), 255)
  words = jax.random.bits(key, (-(-x.size // 4),), jnp.uint32)
  bytes_ = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size].reshape(x.shape)
  return jnp.where(bytes_ >= dropped, x * (256 / (256 - dropped)), 0.0)


def normalise_rms(x: jax.Array) -> jax.Array:
  """Normalise the last axis to root mean square 1."""
  normalised: Any = nn.RMSNorm(use_scale=False, parent=None).apply({}, x)
  return normalised


def short_convolution(x_BPD: jax.Array, taps_WD: jax.Array) -> jax.Array:
  """Add to x_t a per-feature mix of x_t ... x_{t-3}: [B, W - 1 + L, D] -> [B, L, D].

  The first W - 1 inputs are earlier ones. This depthwise causal convolution gives attention and tiles the last few
  characters for 4 D parameters. Primer (arXiv 2109.08668) has such convolutions in attention.
  """
  before = taps_WD.shape[0] - 1
  L = x_BPD.shape[1] - before
  return x_BPD[:, before:] + sum(taps_WD[lag] * x_BPD[:, before - lag : before - lag + L] for lag in range(before + 1))


def last_inputs(padded_BPD: jax.Array, length_B: jax.Array) -> jax.Array:
  """Return the last valid inputs of a convolution, [B, W - 1, D]."""
  count = CONVOLUTION_WIDTH - 1
  if padded_BPD.shape[1] == count + 1:
    return padded_BPD[:, 1:]
  index_BW = length_B[:, None] + jnp.arange(count)
  return jnp.take_along_axis(padded_BPD, index_BW[..., None], axis=1)
