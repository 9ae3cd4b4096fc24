"""What do tiles contribute? Trained models with the output of every tile, and of a share of them, at zero.

  python experiments/without_tiles.py --workdirs=runs/sparse,runs/hierarchical_16 --out=results/without_tiles.json

For every workdir: the loss on the whole validation split as trained, with one tile of each layer silenced (the mean
over tiles, and the least and the most that one matters), and with all of them silenced, which leaves attention alone.
"""

import json
import pathlib
import sys

from trix_jax import host

if __name__ == '__main__':
  host.prepare_cpu()  # Before anything imports JAX.

from absl import flags

from trix_jax import checkpoints, cli, evaluation, workdirs

_WORKDIRS = flags.DEFINE_list('workdirs', None, 'Folders that train.py wrote.', required=True)
_OUT = flags.DEFINE_string('out', None, 'JSON file for the results.', required=True)


def main() -> None:
  rows = []
  for workdir in map(pathlib.Path, _WORKDIRS.value):
    trained = checkpoints.load_trained(workdir, 'best')
    evaluator = evaluation.Evaluator(trained.model.config, trained.vocabulary, trained.corpus().validation)
    tiles = trained.model.config.ffn.tiles
    def loss(silenced, trained=trained, evaluator=evaluator):
      return evaluator(silence(trained.params, silenced), trained.routing)['loss']
    row = {'run': workdir.name, 'tiles': tiles, 'parameters': trained.run['parameters'], 'loss': loss([]),
           'without_one': [loss([tile]) for tile in range(tiles)], 'without_all': loss(list(range(tiles)))}
    rows.append(row)
    cost = [one - row['loss'] for one in row['without_one']]
    print(f'{workdir}: loss {row["loss"]:.4f}; without one of {tiles} tiles {sum(cost) / tiles:+.4f} on average, '
          f'{min(cost):+.4f} to {max(cost):+.4f}; without any {row["without_all"]:.4f}', flush=True)
  try:
    workdirs.write_text(pathlib.Path(_OUT.value), json.dumps(rows, indent=1) + '\n')
  except OSError as error:
    sys.exit(f'error: cannot write {_OUT.value}: {error.strerror}')


def silence(params, tiles):
  """Parameters with the output scales of these tiles at zero in every layer; routing does not feel it."""
  result = dict(params)
  for name, block in params.items():
    if name.startswith('layer_'):
      scale_TD = block['ffn']['down_scale']
      result[name] = {**block, 'ffn': {**block['ffn'], 'down_scale': scale_TD.at[tuple(tiles),].set(0.0)}}
  return result


if __name__ == '__main__':
  cli.run(main)
