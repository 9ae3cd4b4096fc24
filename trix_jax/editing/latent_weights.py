"""Latent weights that quantise to given codes, so that an edited model trains on."""

import jax
import jax.numpy as jnp

from trix_jax.core import ternary
from trix_jax.nn.model_config import FFNConfig

# Rounds in which latent weights are moved away from the quantiser's threshold before only their codes are kept.
_ROUNDS = 8


def hold_codes(latent_TXY: jax.Array, codes_TXY: jax.Array, config: FFNConfig) -> tuple[jax.Array, jax.Array]:
  """Return latent weights near the given ones that quantise to the given codes, and the scales that are then read.

  `absmean` reads a tile's scale anew, which can move weights over the threshold. They are moved back, and where that
  does not settle, the tile's latent weights become its codes. Under `threshold` only weights on the wrong side change.
  """
  if config.quantiser == 'threshold':
    wrong_TXY = ternary.ternarise(latent_TXY, 'threshold')[0] != codes_TXY
    return jnp.where(wrong_TXY, codes_TXY, latent_TXY), jnp.ones(len(latent_TXY))

  def read(latent_TXY):
    scale_T11 = jnp.mean(jnp.abs(latent_TXY), axis=(-2, -1), keepdims=True)
    return jnp.where(scale_T11 > 0, scale_T11, 1.0)

  for _ in range(_ROUNDS):
    # Room for the scale to move a little after the weights have.
    low_T11, high_T11 = 0.48 * read(latent_TXY), 0.52 * read(latent_TXY)
    magnitude_TXY = jnp.abs(latent_TXY)
    held_TXY = jnp.where(codes_TXY == 0, jnp.minimum(magnitude_TXY, low_T11), jnp.maximum(magnitude_TXY, high_T11))
    latent_TXY = jnp.where(codes_TXY == 0, jnp.sign(latent_TXY), codes_TXY) * held_TXY
  kept_T11 = jnp.all(jnp.clip(jnp.round(latent_TXY / read(latent_TXY)), -1, 1) == codes_TXY, axis=(-2, -1))[
    :, None, None
  ]
  latent_TXY = jnp.where(kept_T11, latent_TXY, codes_TXY)
  return latent_TXY, read(latent_TXY)[:, 0, 0]
