"""Measure what tiles contribute: set the output of one tile, or of all tiles, of trained models to zero.

  python experiments/single/without_tiles.py --workdirs=runs/sparse,runs/first --out=results/without_tiles.json

For every workdir the program measures the loss on the whole validation split in three cases: as trained, with one
silent tile in each layer, and with all tiles silent. For one silent tile it gives the mean over tiles, and the least
and the greatest effect. With all tiles silent only attention remains.
"""

import json
import pathlib
import time

import numpy as np

from trix_jax.system import host

if __name__ == '__main__':
  host.prepare_cpu()  # Call this before anything imports JAX.

from absl import flags

from trix_jax.cli import arguments, launcher
from trix_jax.evaluation.evaluator import Evaluator
from trix_jax.nn import ffn
from trix_jax.nn.model_config import FFNConfig
from trix_jax.runs import checkpoints
from trix_jax.system import files

_WORKDIRS = flags.DEFINE_list('workdirs', None, 'Folders of runs.', required=True)
_OUT = flags.DEFINE_string('out', None, 'JSON file for the results.', required=True)


def main() -> None:
  out = pathlib.Path(_OUT.value)
  files.check_writable(out)
  models = [(workdir, checkpoints.load_trained(workdir, 'best')) for workdir in arguments.folders_of(_WORKDIRS)]
  rows = []
  for workdir, trained in models:
    evaluator = Evaluator(trained.model.config, trained.vocabulary, trained.corpus().validation)
    config = trained.model.config.ffn
    tiles = config.tiles
    silenced = [[], *([tile] for tile in range(tiles)), list(range(tiles))]
    losses, start = [], time.perf_counter()
    for done, quiet in enumerate(silenced, start=1):
      losses.append(evaluator(silence(trained.params, quiet, config), trained.routing_state)['loss'])
      left = (time.perf_counter() - start) / done * (len(silenced) - done)
      print(f'{workdir}: without {len(quiet)} of {tiles} tiles {losses[-1]:.4f}, {left / 60:.1f} min left', flush=True)
    row = {
      'run': workdir.name,
      'tiles': tiles,
      'parameters': trained.run['parameters'],
      'loss': losses[0],
      'without_one': losses[1:-1],
      'without_all': losses[-1],
    }
    rows.append(row)
    cost = [one - row['loss'] for one in row['without_one']]
    print(
      f'{workdir}: loss {row["loss"]:.4f}; without one of {tiles} tiles {sum(cost) / tiles:+.4f} on average, '
      f'{min(cost):+.4f} to {max(cost):+.4f}; without any {row["without_all"]:.4f}',
      flush=True,
    )
    files.write_text(out, json.dumps(rows, indent=1) + '\n')


def silence(params, tiles, config: FFNConfig):
  """Set the down-projections of these tiles to zero in every layer; routing does not read them."""
  result = dict(params)
  for name, block in params.items():
    if name.startswith('layer_'):
      result[name] = {**block, 'ffn': {**block['ffn'], 'down': block['ffn']['down'].at[np.array(tiles, int)].set(0.0)}}
      quiet = np.flatnonzero(ffn.find_silent_tiles(ffn.quantise_tiles(result[name]['ffn'], config), config))
      assert set(tiles) <= set(quiet.tolist()), f'tiles {tiles} of {name} still compute'
  return result


if __name__ == '__main__':
  launcher.run_main(main)
