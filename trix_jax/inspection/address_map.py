"""Show which characters live at which address, in models that route by the token alone."""

import jax
import numpy as np

from trix_jax.data import corpora
from trix_jax.errors import InputError
from trix_jax.nn import transformer
from trix_jax.nn.model_config import NO_CONTROL
from trix_jax.runs import checkpoints


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
  return np.stack([np.where(info.gate_NK == 0, -1, info.tile_NK) for info in infos])


def format_map(tile_YVK: np.ndarray, vocabulary: str, tiles: int) -> str:
  """Write the characters of each of the T tiles, a block for each layer. With K > 1 a character has several tiles."""
  lines = []
  for layer, tile_VK in enumerate(tile_YVK):
    lines.append(f'layer {layer}')
    for tile in range(tiles):
      characters = [vocabulary[token] for token in np.flatnonzero((tile_VK == tile).any(axis=1))]
      lines.append(f'  tile {tile:>3}  {" ".join(map(_name, characters))}'.rstrip())
  return '\n'.join(lines)


def _name(character: str) -> str:
  """Return a character as it is, or in quotes where it would not be seen."""
  return corpora.quote(character) if character.isspace() or not character.isprintable() else character
