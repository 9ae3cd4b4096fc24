"""Show which tiles of a trained model answer which characters, and describe a tile.

  trix lookup --workdir=runs/quickstart --text='for line in lines:'
  trix lookup --workdir=runs/quickstart --layer=1 --tile=3
  trix lookup --workdir=runs/by_token --addresses

The first command prints, for every character, the tiles of each layer and the margin of the first tile. The margin is
its probability minus the highest of the others. A margin below zero means that a balance bias chose the tile.

The second command prints the card of a tile: its signature and the input dimensions with the largest entries. It also
prints the tile's share of the validation text, its characters, and the most similar tiles.

The third command is for models with `model.address=token`. It prints the characters of every tile. --plot=FILE also
draws the tiles of every character.
"""

import pathlib

from absl import flags

from trix_jax.cli import arguments
from trix_jax.errors import InputError
from trix_jax.inspection import address_map, plots, tile_cards
from trix_jax.runs import checkpoints, origins

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a run.', required=True, flag_values=FLAGS)
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'best', checkpoints.KINDS, 'Checkpoint to load.', flag_values=FLAGS)
_TEXT = flags.DEFINE_string('text', None, 'Show the tiles for every character of this text.', flag_values=FLAGS)
_LAYER = flags.DEFINE_integer('layer', None, 'Show the card of a tile of this layer, from 0.', flag_values=FLAGS)
_TILE = flags.DEFINE_integer('tile', None, 'Number of the tile, from 0.', flag_values=FLAGS)
_ADDRESSES = flags.DEFINE_bool(
  'addresses', False, 'Show the characters of every tile of a model with model.address=token.', flag_values=FLAGS
)

_PLOT = flags.DEFINE_string('plot', '', 'With --addresses, a file for a picture, such as map.png.', flag_values=FLAGS)


def main() -> None:
  text, layer, tile = _TEXT.value, _LAYER.value, _TILE.value
  if (text is not None) + (layer is not None) + _ADDRESSES.value != 1 or (layer is None) != (tile is None):
    raise InputError('give one of --text, --addresses, or --layer with --tile')
  if FLAGS['plot'].present:
    if not _PLOT.value:
      raise InputError('--plot is empty; give the path of a picture, or leave it out')
    if not _ADDRESSES.value:
      raise InputError('--plot draws addresses; give --addresses too')
    plots.require_matplotlib()
    plots.check_picture(pathlib.Path(_PLOT.value))
  trained = checkpoints.load_trained(arguments.folder_of(_WORKDIR), _CHECKPOINT.value)
  if _ADDRESSES.value:
    tile_YVK = address_map.map_addresses(trained)
    tiles = trained.model.config.ffn.tiles
    print(address_map.format_map(tile_YVK, trained.vocabulary, tiles))
    if _PLOT.value:
      address_map.draw_map(tile_YVK, trained.vocabulary, tiles).savefig(_PLOT.value, dpi=130)
      print(f'wrote {_PLOT.value}')
  elif text is not None:
    print(tile_cards.format_answers(tile_cards.spell(trained, text), tile_cards.look_up(trained, text)))
    if others := origins.format_list(trained):
      print(others)
  elif layer is not None and tile is not None:
    print(tile_cards.format_card(tile_cards.make_card(trained, layer, tile, trained.corpus().validation)))
