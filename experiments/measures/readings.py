"""Read a model without its loss, and hold what was read against the loss that it should predict."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from experiments.measures import forced
from experiments.measures.stand_ins import cosines
from trix_jax.core import routing, signatures
from trix_jax.data import corpora
from trix_jax.nn import ffn, transformer
from trix_jax.nn.model_config import FFNConfig
from trix_jax.runs import checkpoints

# Windows of the training text for what is read from data, and the seed of their draw.
WINDOWS, SEED = 64, 12_347


def read_and_hold(trained: checkpoints.Trained) -> dict[str, Any]:
  """Return what was read of layers, tiles and characters, with the losses it should predict.

  Models whose scores choose one tile a token, without an index.

  Returns:
    layers: for each layer, `layer_readings`, and the loss when all its tiles are silent, in nats above the model.
    tiles: for each layer, lists over tiles: `tile_readings`; the loss when a tile is removed, so that its tokens go to
      the next best one; and when it is silent.
    difficulty: see `difficulty`.
  """
  config = trained.model.config
  if config.ffn.top_k != 1 or config.ffn.clusters or not config.ffn.way.by_scores:
    raise ValueError('readings are of models whose scores choose one tile for a token, without an index')
  train = corpora.draw_batch(trained.corpus().train, config.context, WINDOWS, SEED, 0)
  validation = forced.held_windows(trained)
  layers, tiles = [], []
  for layer in range(config.layers):
    read = ffn.quantise_tiles(trained.params[f'layer_{layer}']['ffn'], config.ffn)
    of_layer, of_tiles = lose_parts(trained, layer, validation)
    layers.append({**layer_readings(layer, read), 'silent': of_layer})
    tiles.append({**tile_readings(trained, layer, read, train), **of_tiles})
    print(f'  {layers[-1]} {tiles[-1]}', flush=True)
  return {'layers': layers, 'tiles': tiles, 'difficulty': difficulty(trained, train, validation)}


def lose_parts(trained: checkpoints.Trained, layer: int, window_BL: np.ndarray) -> tuple[float, dict[str, list[float]]]:
  """Return what a model loses without the tiles of a layer, and without each tile, for all tokens at once."""
  config = trained.model.config.ffn

  def outputs(at_work, _):
    T, N = config.tiles, len(at_work.x_ND)
    every_TND = forced.force_tiles(at_work, jnp.ones((N, T)), config)
    removed_TND = jax.vmap(lambda tile: _without(tile, at_work.info, every_TND, config))(jnp.arange(T))
    silent_TN = jnp.arange(T)[:, None] == at_work.info.tile_NK[:, 0]
    silent_TND = jnp.where(silent_TN[..., None], 0.0, at_work.y_ND)
    return jnp.concatenate([removed_TND, silent_TND, jnp.zeros_like(at_work.y_ND)[None]])

  routed_N, loss_SN, _ = forced.run(trained, layer, window_BL, outputs, together=True)
  more_S = loss_SN.mean(axis=1) - routed_N.mean()
  T = config.tiles
  return float(more_S[-1]), {'removed': more_S[:T].tolist(), 'silent': more_S[T : 2 * T].tolist()}


def _without(tile, info: routing.RoutingInfo, every_TND, config: FFNConfig):
  """Return the output of a layer that lacks a tile: the others share its probability."""
  selection_NT = jnp.where(jnp.arange(config.tiles) == tile, -jnp.inf, info.selection_NJ)
  choice_N1 = routing.select(selection_NT, 1)
  gate_N1 = jnp.ones(choice_N1.shape)
  if config.gate != 'one_hot':
    left_N1 = 1 - info.probability_NJ[:, tile, None]
    gate_N1 = jnp.take_along_axis(info.probability_NJ, choice_N1, axis=1) / jnp.maximum(left_N1, 1e-30)
  return every_TND[choice_N1[:, 0], jnp.arange(len(choice_N1))] * gate_N1


def layer_readings(layer: int, tiles: ffn.TernaryTiles) -> dict[str, float]:
  """Read a layer's codes: how much units agree and tiles differ; and as baselines its depth and its weights' size."""
  return {
    'agreement': float(np.mean(agreement(tiles))),
    'diversity': float(signatures.diversity(tiles.signatures_TD)),
    'codes': float(jnp.mean(tiles.up_TDH != 0)),
    'magnitude': float(np.linalg.norm(magnitude(tiles))),
    'depth': float(layer),
  }


def tile_readings(
  trained: checkpoints.Trained, layer: int, tiles: ffn.TernaryTiles, window_BL: np.ndarray
) -> dict[str, list[float]]:
  """Read tiles from codes (`apart`, `agreement`, `magnitude`) and from their use of a text (`load`, `margin`)."""
  config = trained.model.config.ffn
  cosine_TT = cosines(*[np.asarray(tiles.signatures_TD)] * 2)
  np.fill_diagonal(cosine_TT, -np.inf)

  def keep(at_work):
    return at_work.info.tile_NK[:, 0], routing.margins(at_work.info.probability_NJ)

  choice_N, margin_N = forced.look(trained, layer, window_BL, keep)
  return {
    'apart': (1 - cosine_TT.max(axis=1)).tolist(),
    'agreement': agreement(tiles).tolist(),
    'magnitude': magnitude(tiles).tolist(),
    'load': (np.bincount(choice_N, minlength=config.tiles) / len(choice_N)).tolist(),
    'margin': (np.bincount(choice_N, margin_N, config.tiles) / len(choice_N)).tolist(),
  }


def agreement(tiles: ffn.TernaryTiles) -> np.ndarray:
  """Return how much the units of each tile agree: votes against those of as many random codes, which have 1, [T]."""
  tally_TD, count_TD = (np.asarray(of.sum(axis=-1)) for of in (tiles.up_TDH, jnp.abs(tiles.up_TDH)))
  return np.asarray(np.sqrt(np.square(tally_TD).mean(axis=1) / np.maximum(count_TD.mean(axis=1), 1e-9)))


def magnitude(tiles: ffn.TernaryTiles) -> np.ndarray:
  """Return the size of each tile's weights: the norm over units of |input weights| times |output weights|, [T]."""
  up_TH = np.linalg.norm(np.asarray(tiles.up_TDH) * np.asarray(tiles.up_scale_TH)[:, None], axis=1)
  return np.asarray(np.linalg.norm(up_TH * np.asarray(ffn.measure_outputs(tiles)), axis=1))


def difficulty(
  trained: checkpoints.Trained, train_BL: np.ndarray, validation_BL: np.ndarray
) -> dict[str, float | list[float]]:
  """Return Spearman's correlation of the loss of each character with what was known before it.

  Returns:
    margin: of small margins, for each layer. A margin is the probability of the first tile less that of the second.
    mean_margin: of the mean margin of all layers.
    rarity: of rare input characters. by_character: of the mean loss after the input character in training text.
    entropy: of the entropy of what the model predicts.
  """
  step = jax.jit(_margins_and_entropy, static_argnums=0)

  def look(window_BL):
    parts = []
    for start, (windows,) in corpora.batches(16, window_BL):
      found = step(trained.model, trained.params, trained.routing_state, windows)
      count = min(16, len(window_BL) - start) * (windows.shape[1] - 1)
      parts.append([np.asarray(of)[..., :count] for of in found])
    loss_N, entropy_N, margin_YN = (np.concatenate(of, axis=-1) for of in zip(*parts, strict=True))
    return loss_N, entropy_N, margin_YN, window_BL[:, :-1].reshape(-1)

  seen_N, _, _, seen_token_N = look(train_BL)
  loss_N, entropy_N, margin_YN, token_N = look(validation_BL)
  V = len(trained.vocabulary)
  count_V = np.bincount(seen_token_N, minlength=V)
  mean_V = (np.bincount(seen_token_N, seen_N, V) + seen_N.mean()) / (count_V + 1)

  def correlate(value_N):
    return float(scipy.stats.spearmanr(value_N, loss_N).statistic)

  return {
    'margin': [correlate(-margin_N) for margin_N in margin_YN],
    'mean_margin': correlate(-margin_YN.mean(axis=0)),
    'rarity': correlate(-count_V[token_N]),
    'by_character': correlate(mean_V[token_N]),
    'entropy': correlate(entropy_N),
  }


def _margins_and_entropy(model, params, state, window_BL):
  logits, infos = transformer.apply(model, params, state, window_BL[:, :-1])
  log_p = jax.nn.log_softmax(logits)
  loss_N = transformer.next_token_loss(logits, window_BL[:, 1:]).reshape(-1)
  entropy_N = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1).reshape(-1)
  return loss_N, entropy_N, jnp.stack([routing.margins(info.probability_NJ) for info in infos])
