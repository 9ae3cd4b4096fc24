"""Show which characters live at which address, in models that route by the token alone."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.evaluation.classes import character_class
from trix_jax.inference.language_model import LanguageModel
from trix_jax.inference.unpacking import read_addresses
from trix_jax.nn import transformer
from trix_jax.nn.model_config import NO_CONTROL
from trix_jax.runs import checkpoints

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def map_addresses(trained: checkpoints.Trained) -> np.ndarray:
  """Return the tiles of every character of the vocabulary in every layer, best first: int32 [Y, V, K].

  A tile that a character drops, see `FFNConfig.keep_ratio`, is -1.

  Raises:
    InputError: for a model in which a character's tiles depend on its context.
  """
  config = trained.model.config
  if not config.ffn.has_fixed_addresses or config.control != NO_CONTROL:
    raise InputError(
      'the tiles of this model may depend on the context; a map needs model.address=token, a routing by scores, and no '
      'control'
    )
  token_V1 = np.arange(len(trained.vocabulary), dtype=np.int32)[:, None]
  apply = jax.jit(transformer.apply, static_argnums=0)
  infos = apply(trained.model, trained.params, trained.routing_state, token_V1)[1]
  return np.stack([_computed(info.tile_NK, info.gate_NK) for info in infos])


def _computed(tile_VK, gate_VK):
  return np.where(gate_VK == 0, -1, tile_VK)


def read_map(model: LanguageModel) -> np.ndarray:
  """Return the map of a packed model, as `map_addresses` does. Raise InputError for one without addresses by token."""
  config = model.config.model
  if not config.ffn.has_fixed_addresses:
    raise InputError('the tiles of this model may depend on the context; a map needs model.address=token')
  token_V = jnp.arange(len(model.vocabulary))
  return np.stack(
    [_computed(*read_addresses(model.arrays, f'layer_{layer}.ffn', token_V)) for layer in range(config.layers)]
  )


def format_map(tile_YVK: np.ndarray, vocabulary: str, tiles: int) -> str:
  """Write the characters of each of the T tiles, a block for each layer. With K > 1 a character has several tiles."""
  lines = []
  for layer, tile_VK in enumerate(tile_YVK):
    lines.append(f'layer {layer}')
    for tile in range(tiles):
      characters = [vocabulary[token] for token in np.flatnonzero((tile_VK == tile).any(axis=1))]
      lines.append(f'  tile {tile:>3}  {" ".join(map(_name, characters))}'.rstrip())
  return '\n'.join(lines)


def draw_map(tile_YVK: np.ndarray, vocabulary: str, tiles: int) -> 'Figure':
  """Draw which tiles each character has, a panel for each layer, the first tile darkest. Classes stand together."""
  from matplotlib.figure import Figure

  order_V = sorted(range(len(vocabulary)), key=lambda token: (character_class(vocabulary[token]), vocabulary[token]))
  layers, _, K = tile_YVK.shape
  size = 0.5 + layers * (0.6 + 0.09 * tiles), 1.0 + 0.115 * len(vocabulary)
  figure = Figure(figsize=size, layout='constrained')
  axes = figure.subplots(1, layers, sharey=True, squeeze=False)[0]
  for layer, (ax, tile_VK) in enumerate(zip(axes, tile_YVK, strict=True)):
    shade_VT = np.zeros((len(vocabulary), tiles))
    for place in range(K):
      tokens_N = np.flatnonzero(tile_VK[:, place] >= 0)
      shade_VT[tokens_N, tile_VK[tokens_N, place]] = 1 - place / (K + 1)
    ax.imshow(shade_VT[order_V], vmin=0, vmax=1.15, aspect='auto', cmap='Blues', interpolation='nearest')
    ax.set(title=f'layer {layer}', xlabel='tile', yticks=range(len(vocabulary)))
    ax.set_yticklabels([_name(vocabulary[token]) for token in order_V], fontsize=7, family='monospace')
    ax.tick_params(length=0)
  return figure


def _name(character: str) -> str:
  """Return a character as it is, or in quotes where it would not be seen."""
  return corpora.quote(character) if character.isspace() or not character.isprintable() else character
