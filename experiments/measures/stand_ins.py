"""Match the tiles of two models, and let each tile stand in for its partner."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.optimize

from experiments.measures import forced
from trix_jax.data import corpora
from trix_jax.nn import ffn
from trix_jax.runs import checkpoints

# Windows of the training text that align and match, and the seed of their draw.
WINDOWS, SEED = 64, 12_346


class Seen(NamedTuple):
  """What a layer read, put out and chose on some text."""

  x_ND: np.ndarray
  y_ND: np.ndarray
  choice_N: np.ndarray


def let_stand_in(trained: checkpoints.Trained, partner: checkpoints.Trained | None) -> list[dict[str, Any]]:
  """Return a row for each layer; see `measure_layer`. It is empty without a partner."""
  if partner is None:
    return []
  train = corpora.draw_batch(trained.corpus().train, trained.model.config.context, WINDOWS, SEED, 0)
  validation = forced.held_windows(trained)
  rows = []
  for layer in range(trained.model.config.layers):
    rows.append({'layer': layer, **measure_layer(trained, partner, layer, train, validation)})
    print(f'  {rows[-1]}', flush=True)
  return rows


def measure_layer(
  trained: checkpoints.Trained,
  partner: checkpoints.Trained,
  layer: int,
  train_BL: np.ndarray,
  validation_BL: np.ndarray,
) -> dict[str, Any]:
  """Measure what a layer loses when tiles of another model stand in for its own.

  The routing and its gates stay; only what the chosen tile computes is replaced, at each token alone. Losses are nats
  above the model as trained, mean over all tokens.

  A tile of the partner reads and writes the stream in the partner's basis. So it stands in as it is (`plain`), and
  behind two rotations (`aligned`) that fit what both layers read, and what they put out, on the same training text.

  Returns:
    silent: loss with outputs of 0. own: with the model's own tile of the most similar signature. any_own: with another
    of its own tiles, mean over all.
    pairs: for every way to match and to stand in, the loss with matched tiles, with others (mean over all that are not
    matched), with the best tile for each; how often the matched one is the best; and the mean cosine of the signatures.
  """
  config = trained.model.config.ffn
  ours, theirs = look_at(trained, layer, train_BL), look_at(partner, layer, train_BL)
  tiles_of_partner = ffn.quantise_tiles(partner.params[f'layer_{layer}']['ffn'], partner.model.config.ffn)
  inwards_DD, outwards_DD = rotation(ours.x_ND, theirs.x_ND), rotation(theirs.y_ND, ours.y_ND)
  T, of_partner = config.tiles, partner.model.config.ffn.tiles

  def outputs(at_work, _):
    gate_N1 = at_work.info.gate_NK
    plain_TND = ffn.compute_tile_outputs(at_work.x_ND, tiles_of_partner, partner.model.config.ffn)
    aligned_TND = ffn.compute_tile_outputs(at_work.x_ND @ inwards_DD, tiles_of_partner, partner.model.config.ffn)
    own_TND = ffn.compute_tile_outputs(at_work.x_ND, at_work.tiles, config)
    silent_1ND = jnp.zeros_like(at_work.y_ND)[None]
    return jnp.concatenate([plain_TND, aligned_TND @ outwards_DD, own_TND, silent_1ND]) * gate_N1

  routed_N, loss_SN, choice_N = forced.run(
    trained, layer, validation_BL, outputs, lambda at_work: at_work.info.tile_NK[:, 0]
  )
  more_TS = sums_by_tile(loss_SN - routed_N, choice_N, T) / len(choice_N)
  plain_TT, aligned_TT, own_TT, silent_T1 = np.split(more_TS, np.cumsum([of_partner, of_partner, T]), axis=1)
  signatures_TD = np.asarray(ffn.quantise_tiles(trained.params[f'layer_{layer}']['ffn'], config).signatures_TD)
  keys_TD = np.asarray(tiles_of_partner.signatures_TD)
  usage_TT = np.zeros((T, of_partner))
  np.add.at(usage_TT, (ours.choice_N, theirs.choice_N), 1)
  likeness = {
    'plain_signatures': (plain_TT, cosines(signatures_TD, keys_TD)),
    'aligned_signatures': (aligned_TT, cosines(signatures_TD @ inwards_DD, keys_TD)),
    'aligned_usage': (aligned_TT, usage_TT),
    'plain_usage': (plain_TT, usage_TT),
  }
  own_cosine_TT = cosines(signatures_TD, signatures_TD)
  np.fill_diagonal(own_cosine_TT, -np.inf)
  others_TT = ~np.eye(T, dtype=bool)
  return {
    'routed': float(routed_N.mean()),
    'silent': float(silent_T1.sum()),
    'own': float(own_TT[np.arange(T), own_cosine_TT.argmax(axis=1)].sum()),
    'any_own': float(own_TT[others_TT].sum() / (T - 1)),
    'pairs': {name: stand_in(*of) for name, of in likeness.items()},
  }


def look_at(trained: checkpoints.Trained, layer: int, window_BL: np.ndarray) -> Seen:
  """Return what a layer reads, puts out and chooses."""

  def keep(at_work):
    return at_work.x_ND, at_work.y_ND, at_work.info.tile_NK[:, 0]

  return Seen(*forced.look(trained, layer, window_BL, keep))


def rotation(from_ND: np.ndarray, to_ND: np.ndarray) -> np.ndarray:
  """Return the orthogonal matrix that maps one set of vectors nearest to another (Procrustes), [D, D]."""
  left_DD, _, right_DD = np.linalg.svd(from_ND.astype(np.float64).T @ to_ND.astype(np.float64))
  return (left_DD @ right_DD).astype(np.float32)


def cosines(first_TD: np.ndarray, second_TD: np.ndarray) -> np.ndarray:
  """Return the cosine of every pair, [T, T]."""
  return _unit(first_TD) @ _unit(second_TD).T


def _unit(x_TD):
  return x_TD / np.maximum(np.linalg.norm(x_TD, axis=1, keepdims=True), 1e-9)


def sums_by_tile(value_SN: np.ndarray, choice_N: np.ndarray, tiles: int) -> np.ndarray:
  """Return the sum of some values over the tokens of each tile, [T, S]."""
  sum_TS = np.zeros((tiles, len(value_SN)))
  np.add.at(sum_TS, choice_N, value_SN.T)
  return sum_TS


def stand_in(more_TT: np.ndarray, likeness_TT: np.ndarray) -> dict[str, float]:
  """Match tiles by their likeness and tell what the matched ones and others lose.

  The matching is the one to one with the highest sum (Hungarian method).

  Args:
    more_TT: what all tokens of a tile lose when one of the partner's tiles stands in, divided by the number of all
      tokens.
    likeness_TT: of every pair.
  """
  ours_T, matched_T = scipy.optimize.linear_sum_assignment(likeness_TT, maximize=True)
  matched = more_TT[ours_T, matched_T]
  others = (more_TT.sum(axis=1) - matched) / (more_TT.shape[1] - 1)
  used = more_TT.any(axis=1)  # A tile without tokens loses nothing with any other.
  return {
    'matched': float(matched.sum()),
    'others': float(others.sum()),
    'best': float(more_TT.min(axis=1).sum()),
    'matched_is_best': float((matched == more_TT.min(axis=1))[used].mean()),
    'likeness': float(likeness_TT[ours_T, matched_T].mean()),
  }
