"""Show which tiles answer which characters, and describe a tile."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from trix_jax.core import routing
from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.evaluation.evaluator import record_tiles
from trix_jax.nn import controls, ffn, indexed_ffn, transformer
from trix_jax.nn.model_config import ModelConfig
from trix_jax.runs import checkpoints, origins

DIMENSIONS, NEIGHBOURS, CHARACTERS = 8, 5, 8


@dataclasses.dataclass(frozen=True)
class Answer:
  """The tiles of one layer for each of L characters.

  Attributes:
    tile_LK: tiles, best first.
    gate_LK: factors of their outputs; 0 for tiles that were not computed.
    margin_L: probability of the first tile minus the highest of all others, in [-1, 1]. It is below 0 where a balance
      bias chose the tile over a likelier one, and 1 for a single tile.
  """

  tile_LK: np.ndarray
  gate_LK: np.ndarray
  margin_L: np.ndarray


@dataclasses.dataclass(frozen=True)
class TileCard:
  """One tile of a layer.

  Attributes:
    layer, tile: numbers of the layer and the tile.
    cluster: its cluster in the index; None without one.
    signature_D: its signature or key, integers.
    routes: whether the signature routes; a learned gate does not read signatures.
    dimensions: indices of the input dimensions with the largest entries, largest first.
    share: share of a text's tokens that go to the tile.
    characters: how often each character uses the tile, most first.
    neighbours: other tiles of the layer and the cosine of their signatures with this one, most similar first.
    origin: where a tile of another run comes from; '' for the run's own.
  """

  layer: int
  tile: int
  cluster: int | None
  signature_D: np.ndarray
  routes: bool
  dimensions: np.ndarray
  share: float
  characters: list[tuple[str, int]]
  neighbours: list[tuple[int, float]]
  origin: str = ''


@jax.jit
def _answers_of(info: routing.RoutingInfo):
  chosen_N1 = routing.select(info.selection_NJ, 1)
  first_N = jnp.take_along_axis(info.probability_NJ, chosen_N1, axis=-1)[:, 0]
  columns_J = jnp.arange(info.probability_NJ.shape[-1])
  return info.tile_NK, info.gate_NK, first_N - jnp.where(columns_J == chosen_N1, 0.0, info.probability_NJ).max(axis=-1)


def look_up(trained: checkpoints.Trained, text: str) -> list[Answer]:
  """Return the tiles of every layer for each character of a text no longer than the context.

  Raises:
    InputError: for an empty text, a text longer than the context, unknown characters, or a model whose routing looks
      nothing up.
  """
  context, token_L = trained.model.config.context, corpora.encode(text, trained.vocabulary)
  if not 1 <= len(token_L) <= context:
    unit = corpora.name_unit(trained.vocabulary)
    raise InputError(f'the text has {len(token_L)} {unit}; this model takes 1 to {context} at once')
  _check_looks_up(trained.model.config)
  apply = jax.jit(transformer.apply, static_argnums=0)
  infos = apply(trained.model, trained.params, trained.routing_state, token_L[None])[1]
  return [Answer(*(np.asarray(part) for part in _answers_of(info))) for info in infos]


def spell(trained: checkpoints.Trained, text: str) -> str:
  """Return a text with one symbol for each of its tokens: itself, or its bytes as in `corpora.BYTES`."""
  return ''.join(trained.vocabulary[token] for token in corpora.encode(text, trained.vocabulary))


def _check_looks_up(config: ModelConfig) -> None:
  if not config.ffn.way.by_scores:
    raise InputError(f'this model has {config.ffn.routing} routing, which looks nothing up')
  if not controls.find(config.control).reads_signatures:
    raise InputError(f'this model routes by the control {config.control}, and not by its signatures')


def make_card(trained: checkpoints.Trained, layer: int, tile: int, token_N: np.ndarray) -> TileCard:
  """Return the card of a tile. It counts the tile's use on the whole windows of a text, each as long as the context.

  Raises:
    InputError: for an unknown layer or tile, a text shorter than a context, or a model that looks nothing up.
  """
  model = trained.model.config
  for name, value, count in (('layer', layer, model.layers), ('tile', tile, model.ffn.tiles)):
    if not 0 <= value < count:
      raise InputError(f'{name} {value} is not there; this model has {name}s 0 to {count - 1}')
  corpora.check_context(token_N, model.context, 'given')
  _check_looks_up(model)
  signatures_TD, members = read_keys(trained, layer)
  tile_YNK, gate_YNK = record_tiles(trained.model, trained.params, trained.routing_state, token_N)
  used_N = np.any((tile_YNK[layer] == tile) & (gate_YNK[layer] != 0), axis=1)
  used_V = np.bincount(token_N[: len(used_N)][used_N], minlength=len(trained.vocabulary))
  length_T = np.linalg.norm(signatures_TD, axis=1)
  cosine_T = signatures_TD @ signatures_TD[tile] / np.maximum(length_T * length_T[tile], 1e-30)
  near = [int(other) for other in np.argsort(-cosine_T, kind='stable') if other != tile][:NEIGHBOURS]
  most = [int(token) for token in np.argsort(-used_V, kind='stable')[:CHARACTERS] if used_V[token]]
  return TileCard(
    layer,
    tile,
    None if members is None else int(np.argwhere(members == tile)[0, 0]),
    signatures_TD[tile].astype(int),
    not model.ffn.way.has_gate,
    np.argsort(-np.abs(signatures_TD[tile]), kind='stable')[:DIMENSIONS],
    float(used_N.mean()),
    [(trained.vocabulary[token], int(used_V[token])) for token in most],
    [(other, float(cosine_T[other])) for other in near],
    origins.name(trained, layer, tile),
  )


def read_keys(trained: checkpoints.Trained, layer: int) -> tuple[np.ndarray, np.ndarray | None]:
  """Return the keys of a layer's tiles, integers [T, D], and its clusters [C, M], which are None without an index."""
  config, name = trained.model.config.ffn, f'layer_{layer}'
  if config.clusters:
    index = indexed_ffn.read_index(trained.routing_state[name]['ffn'], config)
    return np.asarray(index.key_TD), np.asarray(index.member_CM)
  return np.asarray(ffn.quantise_tiles(trained.params[name]['ffn'], config).signatures_TD), None


def format_answers(text: str, answers: list[Answer]) -> str:
  """Tabulate each layer's tiles and the margin of the first, a line for each symbol; see `spell`."""
  lines = ['character  ' + ''.join(f'{f"layer {layer}: tile, margin":<28}' for layer in range(len(answers)))]
  for position, character in enumerate(text):
    cells = ''
    for answer in answers:
      computed = answer.tile_LK[position][answer.gate_LK[position] != 0]
      cells += f'{" ".join(map(str, computed)) + f"  {answer.margin_L[position]:.3f}":<28}'
    lines.append(f'{corpora.quote(character):<11}{cells}'.rstrip())
  return '\n'.join(lines)


def format_card(card: TileCard) -> str:
  """Write a card as text for people."""
  where = '' if card.cluster is None else f', in cluster {card.cluster}'
  signature = ' '.join(f'{vote:+d}' if vote else '0' for vote in card.signature_D)
  return '\n'.join(
    [
      f'layer {card.layer}, tile {card.tile}{where}: {100 * card.share:.2f} % of characters',
      '  used for     ' + '  '.join(f'{corpora.quote(character)} {count:,}' for character, count in card.characters),
      '  looks at     ' + '  '.join(f'dimension {index} ({card.signature_D[index]:+d})' for index in card.dimensions),
      '  most like    ' + '  '.join(f'tile {tile} ({cosine:+.2f})' for tile, cosine in card.neighbours),
      f'  signature    {signature}',
      *([f'  comes from   {card.origin}'] if card.origin else []),
      *([] if card.routes else ['  A learned gate chose this tile; its signature did not.']),
    ]
  )
