"""Graft a donor's tile into its host, and send tokens to it by many keys: nothing of host and tile is trained.

A key says whether a token goes to the grafted tiles or to the host, whose own tiles find their tokens by their votes as
before. It scores the host's tiles and the grafted ones, token by token or as a running mean over the text so far.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.measures import carved, forced
from experiments.suites.graft import KEYS, SCORES
from trix_jax.core import routing, ternary
from trix_jax.data import corpora
from trix_jax.editing import grafting
from trix_jax.evaluation.evaluator import record_tiles
from trix_jax.inference import forward, weights
from trix_jax.nn import ffn, router, transformer, unit_routings
from trix_jax.nn.model_config import ModelConfig
from trix_jax.runs import checkpoints
from trix_jax.training import naming

WINDOWS_AT_A_TIME = 16
# Windows of each training text for keys from data; steps of training a row, and windows in each.
WINDOWS, ROW_STEPS, ROW_WINDOWS, ROW_RATE = 96, 400, 8, 0.3


class Keys(NamedTuple):
  """What scores the tiles of a layer by a linear key: [T, D] and [T]."""

  key_TD: jax.Array
  bias_T: jax.Array


# What each layer saw of a text: its inputs [N, D], and the first tile of each [N].
Inputs = list[tuple[np.ndarray, np.ndarray]]
# The scores of a layer's tiles: (what is asked, the layer's arrays) -> [N, T].
Score = Callable[[router.Asked, dict[str, Any]], jax.Array]


def score_linearly(asked: router.Asked, layer: dict[str, Any]) -> jax.Array:
  """Score by the layer's `keys`."""
  return dequantise(asked) @ layer['keys'].key_TD.T + layer['keys'].bias_T


def score_by_energy(asked: router.Asked, layer: dict[str, Any]) -> jax.Array:
  """Score by votes and energy of the scaled units, divided by the trace of the tile's energy.

  The trace is the energy of all directions together. So a tile gains nothing by larger scales.
  """
  tiles = layer['tiles']
  square_TH = jnp.sum(jnp.square(tiles.up_TDH), axis=1) * jnp.square(tiles.up_scale_TH)
  trace_T = jnp.sum(square_TH * ffn.measure_outputs(tiles), axis=-1)
  return unit_routings.score_by_energy(asked, tiles) / jnp.maximum(trace_T, 1e-30)


def score_by_arrow(asked: router.Asked, layer: dict[str, Any]) -> jax.Array:
  """Score by the size of the input along the direction that a tile's product of matrices stretches most (Arrow)."""
  return jnp.abs(dequantise(asked) @ layer['directions_TDE'][..., 0].T)


def score_by_spectrum(asked: router.Asked, layer: dict[str, Any]) -> jax.Array:
  """Score by the input's length after a tile's product of matrices: all its directions, each stretched (SpectR)."""
  along_NTE = jnp.einsum('nd,tde->nte', dequantise(asked), layer['directions_TDE'])
  return jnp.linalg.norm(along_NTE * layer['stretch_TE'], axis=-1)


def dequantise(asked: router.Asked) -> jax.Array:
  """Return what is asked as the signatures see it."""
  return asked.q_ND * asked.step_N1


SCORE_BY: dict[str, Score] = {'energy': score_by_energy, 'arrow': score_by_arrow, 'spectr': score_by_spectrum}


def decompose(tiles: ffn.TernaryTiles) -> tuple[jax.Array, jax.Array]:
  """Return directions [T, D, E] and stretches [T, E] of each tile's matrices, multiplied as those of a LoRA are."""
  up_TDH = tiles.up_TDH * tiles.up_scale_TH[:, None]
  down_THD = tiles.down_THD * tiles.down_scale_TD[:, None]
  directions_TDE, stretch_TE, _ = jnp.linalg.svd(up_TDH @ down_THD, full_matrices=False)
  return directions_TDE, stretch_TE


def choose(
  score_NT: jax.Array, vote_NT: jax.Array, host_tiles: int, length: int, is_mean: jax.Array | bool
) -> jax.Array:
  """Return the tile of every token, [N, 1]: the best grafted one where its score is above all of the host's.

  Args:
    score_NT: of the key, for texts of `length` tokens one after the other.
    vote_NT: by which the host finds its own tiles.
    host_tiles: the first ones.
    length: L.
    is_mean: whether scores are those of the text so far, in the mean.
  """
  score_NT = jnp.where(is_mean, naming.mean_so_far(score_NT, length), score_NT)
  own_NT, grafted_NT = score_NT[:, :host_tiles], score_NT[:, host_tiles:]
  wins_N1 = grafted_NT.max(axis=-1, keepdims=True) > own_NT.max(axis=-1, keepdims=True)
  grafted_N1 = host_tiles + routing.select(grafted_NT, 1)
  return jnp.where(wins_N1, grafted_N1, routing.select(vote_NT[:, :host_tiles], 1)).astype(jnp.int32)


@functools.cache
def make_computation(score: Score, host_tiles: int) -> forward.Computation:
  """Make the computation of a grafted model that sends tokens to tiles by a key's scores."""

  def apply_tiles(arrays, name, config, x_ND, tokens, random_key):
    layer = arrays[name]

    def choose_tiles(asked):
      info = router.route(layer['router'], config, asked, random_key)
      tile_N1 = choose(score(asked, layer), info.selection_NJ, host_tiles, tokens.number.shape[-1], arrays['is_mean'])
      return dataclasses.replace(info, tile_NK=tile_N1, gate_NK=jnp.ones(tile_N1.shape))

    return ffn.apply_tiles(config, layer['tiles'], x_ND, tokens, choose_tiles)

  return forward.XLA._replace(apply_tiles=apply_tiles)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sums(computation, config, first, arrays, windows, targets):
  """Sum the losses of true targets, and count them and the choices of tiles from `first` on, over all layers."""
  logits, infos = forward.whole_text(computation, config, arrays, windows[:, :-1])
  true_BL = jnp.arange(windows.shape[1] - 1) < targets[:, None]
  loss = jnp.sum(transformer.next_token_loss(logits, windows[:, 1:]) * true_BL)
  grafted = sum(jnp.sum((info.tile_NK[:, 0] >= first) * true_BL.reshape(-1)) for info in infos) / len(infos)
  return jnp.stack([loss, jnp.sum(true_BL), grafted])


def evaluate(computation, config: weights.InferenceConfig, first: int, arrays, token_N: np.ndarray) -> list[float]:
  """Return the loss of a text in nats a token, and the share of its tokens at tiles from `first` on."""
  windows, targets = corpora.cut_windows(token_N, config.model.context)
  total = np.sum(
    [
      np.asarray(_sums(computation, config, first, arrays, *part), np.float64)
      for _, part in corpora.batches(WINDOWS_AT_A_TIME, windows, targets)
    ],
    axis=0,
  )
  return [float(total[0] / total[1]), float(total[2] / total[1])]


def graft_by_many_keys(trained: checkpoints.Trained) -> dict[str, Any]:
  """Graft a donor into the run that it started from, and evaluate both texts under every key.

  Args:
    trained: the donor, or any other run that started from the host, which is evaluated on both texts alone.

  Returns:
    On the validation texts of `donor` and `host`: losses of the host, `ungrafted`, and of the run `itself`. For a donor
    also `rows` of keys with their losses and shares of tokens at grafted tiles, and a `passage`. It is empty for a run
    that started from none.
  """
  if not trained.config.training.start_from:
    return {}
  host = checkpoints.load_trained(pathlib.Path(trained.config.training.start_from), 'best')
  corpus = {'donor': trained.corpus(), 'host': host.corpus()}
  found: dict[str, Any] = {'ungrafted': _losses(host, corpus), 'itself': _losses(trained, corpus)}
  if not trained.config.training.train_only:
    return found
  donor = grafting.Donor('donor', trained.params, trained.config.model)
  params, model = grafting.graft(host.params, host.config.model, [donor])
  first = host.config.model.ffn.tiles
  config = weights.InferenceConfig(model, len(host.vocabulary), 'float32', 'float32')
  arrays = with_directions(weights.as_trained(params, {}, model), model)
  inputs = [look_at_layers(run, corpus[name].train) for name, run in (('host', host), ('donor', trained))]
  votes = [votes_of(arrays[f'layer_{layer}.ffn']) for layer in range(model.layers)]
  rows = []
  for key in KEYS:
    if key == 'shipped_row':
      steps = min(ROW_STEPS, trained.config.training.steps)
      of_layers = train_rows(arrays, votes, first, inputs, config, [of.train for of in corpus.values()], steps)
    else:
      of_layers = make_keys(key, votes, first, inputs)
    computation = make_computation(SCORE_BY.get(key, score_linearly), first)
    for scores in SCORES:
      keyed = {**with_keys(arrays, of_layers), 'is_mean': jnp.asarray(scores == 'mean')}
      row: dict[str, Any] = {'key': key, 'scores': scores}
      for name, of in corpus.items():
        row[name], row[f'share_{name}'] = evaluate(computation, config, first, keyed, of.validation)
      row['R'] = (found['ungrafted']['donor'] - row['donor']) / (found['ungrafted']['donor'] - found['itself']['donor'])
      row['F'] = row['host'] - found['ungrafted']['host']
      rows.append(row)
      print(f'  {row}', flush=True)
  return {**found, 'rows': rows, 'passage': show_passage(params, model, host.vocabulary, corpus)}


def _losses(trained: checkpoints.Trained, corpus: dict[str, corpora.Corpus]) -> dict[str, float]:
  config = weights.InferenceConfig(trained.config.model, len(trained.vocabulary), 'float32', 'float32')
  arrays = weights.as_trained(trained.params, trained.routing_state, trained.config.model)
  return {name: evaluate(forward.XLA, config, 0, arrays, of.validation)[0] for name, of in corpus.items()}


def show_passage(params: Any, model: ModelConfig, vocabulary: str, corpus: dict[str, corpora.Corpus]) -> dict[str, Any]:
  """Return half a window of the host's text, then of the donor's, and the tile of each token by votes, by layer."""
  half = model.context // 2
  token_N = np.concatenate([corpus[name].validation[1 : half + 1] for name in ('host', 'donor')])
  tile_YNK, _ = record_tiles(transformer.TransformerLM(model, len(vocabulary)), params, {}, token_N)
  text = ''.join(vocabulary[token] for token in token_N).encode('utf-8', 'replace').decode()
  return {'text': text, 'tiles': tile_YNK[..., 0].tolist()}


def with_keys(arrays: dict[str, Any], of_layers: list[Keys]) -> dict[str, Any]:
  """Give the layers of a model their keys."""
  keyed = {f'layer_{layer}.ffn': {**arrays[f'layer_{layer}.ffn'], 'keys': keys} for layer, keys in enumerate(of_layers)}
  return {**arrays, **keyed}


def with_directions(arrays: dict[str, Any], model: ModelConfig) -> dict[str, Any]:
  """Add what the spectral keys read to the arrays of a grafted model."""
  arrays = dict(arrays)
  for layer in range(model.layers):
    name = f'layer_{layer}.ffn'
    directions_TDE, stretch_TE = decompose(arrays[name]['tiles'])
    arrays[name] = {**arrays[name], 'directions_TDE': directions_TDE, 'stretch_TE': stretch_TE}
  return arrays


def look_at_layers(trained: checkpoints.Trained, token_N: np.ndarray) -> Inputs:
  """Run a model over some windows of a text, and return what its layers see."""
  config = trained.config.model
  windows = corpora.draw_batch(token_N, config.context, WINDOWS, 0, 0)
  return [
    forced.look(trained, layer, windows, lambda at_work: (at_work.x_ND, at_work.info.tile_NK[:, 0]))
    for layer in range(config.layers)
  ]


def make_keys(key: str, votes: list[Keys], first: int, inputs: list[Inputs]) -> list[Keys]:
  """Make the linear keys of all layers: the votes of the signatures, with something else for the grafted tiles."""
  if key not in KEY_OF:
    return votes
  return [KEY_OF[key](of, first, layer, [part[layer] for part in inputs]) for layer, of in enumerate(votes)]


def votes_of(layer: dict[str, Any]) -> Keys:
  """Return the signatures as linear keys."""
  by = layer['router']
  return Keys(by.key_TD * by.scale_T[:, None], jnp.zeros(len(by.scale_T)))


def at_root_mean_square_1(row_D: jax.Array) -> jax.Array:
  return row_D / jnp.sqrt(jnp.mean(jnp.square(row_D)))


def replace_grafted(votes: Keys, first: int, row_D: jax.Array) -> Keys:
  """Give all grafted tiles one row, as long as a signature."""
  return votes._replace(key_TD=votes.key_TD.at[first:].set(at_root_mean_square_1(row_D)))


def draw_row(votes: Keys, first: int, layer: int, _) -> Keys:
  return replace_grafted(votes, first, jax.random.normal(jax.random.key(layer), votes.key_TD.shape[1:]))


def mean_row(votes: Keys, first: int, layer: int, _) -> Keys:
  return replace_grafted(votes, first, votes.key_TD[:first].mean(axis=0))


def find_centroids(votes: Keys, first: int, _, seen) -> Keys:
  """Return the mean input of each tile, at root mean square 1: of the host's on its text, of the others on theirs."""
  (x_host, tile_N), (x_donor, donor_tile_N) = seen
  rows = []
  for tile in range(len(votes.key_TD)):
    x_ND = x_host[tile_N == tile] if tile < first else x_donor[donor_tile_N == tile - first]
    mean_D = jnp.asarray(x_ND.mean(axis=0)) if len(x_ND) else jnp.zeros(votes.key_TD.shape[1])
    rows.append(at_root_mean_square_1(mean_D) if len(x_ND) else mean_D)
  return votes._replace(key_TD=jnp.stack(rows))


def fit_by_ridge(votes: Keys, first: int, _, seen) -> Keys:
  """Fit which of the two texts an input comes from, by ridge regression; all tiles of a side have its key."""
  (x_host, _), (x_donor, _) = seen
  target_N1 = np.repeat([-1.0, 1.0], [len(x_host), len(x_donor)])[:, None]
  weight_D1, [bias] = carved.fit_ridge(np.concatenate([x_host, x_donor]), target_N1)
  is_grafted_T1 = (jnp.arange(len(votes.key_TD)) >= first)[:, None]
  key_TD = jnp.where(is_grafted_T1, jnp.asarray(weight_D1[:, 0], jnp.float32), 0.0)
  return Keys(key_TD, jnp.where(is_grafted_T1[:, 0], float(bias), 0.0))


KEY_OF = {'random': draw_row, 'mean_row': mean_row, 'centroid': find_centroids, 'ridge': fit_by_ridge}


def train_rows(
  arrays: dict[str, Any],
  votes: list[Keys],
  first: int,
  inputs: list[Inputs],
  config: weights.InferenceConfig,
  texts: list[np.ndarray],
  steps: int,
) -> list[Keys]:
  """Train one row a layer for the grafted tiles, from their centroid, on both texts; all else stays as it is.

  Each token computes the side with the higher score, and the gradient is that of a mixture of both sides. So a row
  learns what the other side would have done.
  """
  rows = [(keys.key_TD[first:].mean(axis=0), jnp.zeros(())) for keys in make_keys('centroid', votes, first, inputs)]
  optimizer = optax.adam(optax.cosine_decay_schedule(ROW_RATE, steps))

  def keys_of(rows):
    grafted_T = jnp.arange(len(votes[0].key_TD)) >= first
    return [
      Keys(jnp.where(grafted_T[:, None], row_D, of.key_TD), jnp.where(grafted_T, bias, of.bias_T))
      for of, (row_D, bias) in zip(votes, rows, strict=True)
    ]

  def apply_tiles(arrays, name, ffn_config, x_ND, tokens, _):
    layer = arrays[name]

    def choose_tiles(asked):
      info = router.route(layer['router'], ffn_config, asked)
      score_NT = score_linearly(asked, layer)
      own_NT, grafted_NT = score_NT[:, :first], score_NT[:, first:]
      score_N2 = jnp.stack([own_NT.max(axis=-1), grafted_NT.max(axis=-1)], axis=-1)
      mixed_N2 = jax.nn.softmax(score_N2 * ffn_config.d_model**-0.5)
      chosen_N2 = jax.nn.one_hot(jnp.argmax(score_N2, axis=-1), 2)
      tile_N2 = jnp.concatenate(
        [routing.select(info.selection_NJ[:, :first], 1), first + routing.select(grafted_NT, 1)], axis=-1
      )
      return dataclasses.replace(info, tile_NK=tile_N2, gate_NK=ternary.straight_through(chosen_N2, mixed_N2))

    return ffn.apply_tiles(ffn_config, layer['tiles'], x_ND, tokens, choose_tiles)

  computation = forward.XLA._replace(apply_tiles=apply_tiles)

  def loss_fn(rows, windows):
    logits, _ = forward.whole_text(computation, config, with_keys(arrays, keys_of(rows)), windows[:, :-1])
    return transformer.next_token_loss(logits, windows[:, 1:]).mean()

  @jax.jit
  def step_fn(rows, state, windows):
    updates, state = optimizer.update(jax.grad(loss_fn)(rows, windows), state)
    return optax.apply_updates(rows, updates), state

  state = optimizer.init(rows)
  for step in range(steps):
    halves = [corpora.draw_batch(of, config.model.context, ROW_WINDOWS // 2, 0, step) for of in texts]
    rows, state = step_fn(rows, state, np.concatenate(halves))
  return keys_of(rows)
