"""Tile signatures: the input that a tile prefers, read from (and written into) its ternary up-projection."""

import jax
import jax.numpy as jnp

from trix_jax.core import ternary

KINDS = ('sign', 'votes')


def rms(x: jax.Array) -> jax.Array:
  """Return the root mean square over the last axis, which stays with length 1."""
  return jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True))


def normalise(x: jax.Array) -> jax.Array:
  """Return vectors at length 1, over the last axis. Vectors of zeros stay as they are."""
  length = jnp.linalg.norm(x, axis=-1, keepdims=True)
  return x / jnp.where(length > 0, length, 1.0)


def read_signatures(codes_TDH: jax.Array, latent_TDH: jax.Array, kind: str) -> tuple[jax.Array, jax.Array]:
  """Read the signature of every tile, with a straight-through gradient into the latent up-projection.

  Args:
    codes_TDH: ternary codes of the up-projections.
    latent_TDH: the latent weights behind them; they receive the gradient and do not influence the value.
    kind: `sign`, sign(sum_h codes) in {-1, 0, 1}, or `votes`, the tally sum_h codes itself, clipped to int8.

  Returns:
    signatures_TD: integers stored as float32. Their gradient is that of sum_h latent, scaled to the same root mean
      square. It is not clipped: the sum has a standard deviation near sqrt(H), so a clip at 1 would remove it.
    scale_T: factor that brings a tally to root mean square 1 (1 for `sign`; 0 for a tile without any vote).
  """
  tally_TD = jax.lax.stop_gradient(codes_TDH).sum(axis=-1)
  if kind == 'sign':
    value_TD = jnp.sign(tally_TD)
  elif kind == 'votes':
    value_TD = jnp.clip(tally_TD, -ternary.INT8_MAX, ternary.INT8_MAX)
  else:
    raise ValueError(f'unknown signature kind {kind!r}; choose one of {", ".join(KINDS)}')
  return with_gradient_of(value_TD, latent_TDH.sum(axis=-1)), scale_of(value_TD, kind)


def with_gradient_of(value_TD: jax.Array, latent_TD: jax.Array) -> jax.Array:
  """Return constant values with the gradient of latent ones, scaled to the same root mean square."""
  latent_rms_T1 = jax.lax.stop_gradient(rms(latent_TD))
  return ternary.straight_through(
    value_TD, latent_TD * (rms(value_TD) / jnp.where(latent_rms_T1 > 0, latent_rms_T1, 1.0))
  )


def scale_of(value_TD: jax.Array, kind: str) -> jax.Array:
  """Return the factor that brings tallies to root mean square 1, [T]. It is 0 without any vote, and 1 for `sign`."""
  if kind == 'sign':
    return jnp.ones(value_TD.shape[0], value_TD.dtype)
  rms_T = jax.lax.stop_gradient(rms(value_TD))[:, 0]
  return jnp.where(rms_T > 0, 1.0 / jnp.where(rms_T > 0, rms_T, 1.0), 0.0)


def write_signatures(latent_TDH: jax.Array, target_TD: jax.Array, quantiser: str, majority: int = 1) -> jax.Array:
  """Return latent weights whose `sign` signatures are exactly `target_TD`, close to `latent_TDH` in distribution.

  In every row of H weights the second half becomes the negated first half, so that votes cancel in pairs. Then the
  `majority` strongest pairs change sign to vote for the target together. That leaves a tally of 2 * majority * target.
  Magnitudes stay, except that those of the changed pairs rise to where a weight surely is a vote.

  Args:
    latent_TDH: random latent weights; H >= 2 * majority. For odd H the middle weight becomes 0.
    target_TD: signs to write, {-1, 0, 1}.
    quantiser: see `ternary.ternarise`.
    majority: how many pairs vote for each entry.
  """
  H = latent_TDH.shape[-1]
  if majority < 1 or H < 2 * majority:
    raise ValueError(
      f'writing signatures with majority {majority} takes tiles of at least {max(2, 2 * majority)} '
      f'hidden units, not {H}'
    )
  first_TDP = latent_TDH[..., : H // 2]
  if quantiser == 'threshold':
    floor_T11 = jnp.full((latent_TDH.shape[0], 1, 1), 1.5 * ternary.THRESHOLD)
  elif quantiser == 'absmean':
    # Let m be the mean |w| of the mirrored weights. Lifting weights to 1.25 m raises the mean to 2.25 m at most. A
    # lifted weight is more than half of that, so it still rounds to a vote.
    mean_T11 = jnp.mean(jnp.abs(first_TDP), axis=(-2, -1), keepdims=True) * (2 * (H // 2) / H)
    floor_T11 = jnp.where(mean_T11 > 0, 1.25 * mean_T11, 1.0)
  else:
    raise ValueError(f'unknown quantiser {quantiser!r}; choose one of {", ".join(ternary.QUANTISERS)}')
  rank_TDP = jnp.argsort(jnp.argsort(-jnp.abs(first_TDP), axis=-1), axis=-1)
  target_TD1 = jnp.sign(target_TD)[..., None].astype(latent_TDH.dtype)
  turned_TDP = (rank_TDP < majority) & (target_TD1 != 0)
  vote_TDP = target_TD1 * jnp.maximum(jnp.abs(first_TDP), floor_T11)
  middle_TDM = jnp.zeros(latent_TDH.shape[:-1] + (H % 2,), latent_TDH.dtype)
  return jnp.concatenate(
    [jnp.where(turned_TDP, vote_TDP, first_TDP), middle_TDM, jnp.where(turned_TDP, vote_TDP, -first_TDP)], axis=-1
  )


def diversity(signatures_TD: jax.Array) -> jax.Array:
  """Return the share of entries in which two signatures differ, averaged over pairs of different tiles, in [0, 1].

  It compares the signs of tallies, so that both kinds of signatures are measured alike.
  """
  T = signatures_TD.shape[0]
  if T == 1:
    return jnp.zeros(())
  # The ordered pairs that disagree in an entry number T^2 minus the sum over signs of the squared count.
  count_3D = jnp.stack([jnp.sum(jnp.sign(signatures_TD) == sign, axis=0, dtype=jnp.float32) for sign in (-1, 0, 1)])
  return jnp.mean(T * T - jnp.sum(jnp.square(count_3D), axis=0)) / (T * (T - 1))


def similarity_loss(signatures_TD: jax.Array) -> jax.Array:
  """Return the mean squared cosine similarity over pairs of different tiles: 0 when all signatures are orthogonal.

  Unlike `diversity` it is differentiable, through the straight-through gradient of `read_signatures`.
  """
  T = signatures_TD.shape[0]
  if T == 1:
    return jnp.zeros(())
  square_T1 = jnp.sum(jnp.square(signatures_TD), axis=-1, keepdims=True)
  # The choice comes before the root, because the root's gradient at 0 is infinite.
  unit_TD = signatures_TD / jnp.sqrt(jnp.where(square_T1 > 0, square_T1, 1.0))
  cosine_TT = unit_TD @ unit_TD.T
  return jnp.sum(jnp.square(cosine_TT) * (1 - jnp.eye(T))) / (T * (T - 1))
