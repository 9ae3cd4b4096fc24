"""Show which tiles of a trained model answer which characters, and describe a tile.

  trix lookup --workdir=runs/quickstart --text='for line in lines:'
  trix lookup --workdir=runs/quickstart --layer=1 --tile=3

The first command prints, for every character, the tiles of each layer and the margin of the first tile. The margin is
its probability minus the highest of the others. A margin below zero means that a balance bias chose the tile.

The second command prints the card of a tile: its signature and the input dimensions with the largest entries. It also
prints the tile's share of the validation text, its characters, and the most similar tiles.
"""

from absl import flags

from trix_jax.cli import arguments
from trix_jax.errors import InputError
from trix_jax.inspection import tile_cards
from trix_jax.runs import checkpoints

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a run.', required=True, flag_values=FLAGS)
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'best', checkpoints.KINDS, 'Checkpoint to load.', flag_values=FLAGS)
_TEXT = flags.DEFINE_string('text', None, 'Show the tiles for every character of this text.', flag_values=FLAGS)
_LAYER = flags.DEFINE_integer('layer', None, 'Show the card of a tile of this layer, from 0.', flag_values=FLAGS)
_TILE = flags.DEFINE_integer('tile', None, 'Number of the tile, from 0.', flag_values=FLAGS)


def main() -> None:
  text, layer, tile = _TEXT.value, _LAYER.value, _TILE.value
  if (text is None) == (layer is None) or (layer is None) != (tile is None):
    raise InputError('give either --text, or both --layer and --tile')
  trained = checkpoints.load_trained(arguments.folder_of(_WORKDIR), _CHECKPOINT.value)
  if text is not None:
    print(tile_cards.format_answers(text, tile_cards.look_up(trained, text)))
  elif layer is not None and tile is not None:
    print(tile_cards.format_card(tile_cards.make_card(trained, layer, tile, trained.corpus().validation)))
