"""The README's figures, from the results of suites: `python -m experiments.overview --results=results`.

differences.png   what the variants of the suites in COMPARED lose or win against what they are held against
tile_use.png      where the characters of each class go, in the emergent model of seed 0
"""

import pathlib

from absl import flags

from experiments import figures, stored, suites, verdicts
from trix_jax import cli
from trix_jax.errors import InputError

# Suites whose variants differ in kind, as far as they have been run; what changes by degrees is in tables.
COMPARED = ('four_routings', 'controls', 'remedies', 'hierarchy', 'recipe')


def write(folder: pathlib.Path) -> list[pathlib.Path]:
  """Write both figures beside the results; InputError where there are no results of `four_routings`."""
  rows = {}
  for name in COMPARED:
    if (path := folder / f'{name}.json').exists():
      rows[name] = stored.read_whole(path)['rows']
  shown = [row for row in rows.get('four_routings', []) if (row['variant'], row['seed']) == ('emergent', 0)]
  if not shown:
    raise InputError(
      f'no emergent model of seed 0 in {folder / "four_routings.json"}; run experiments.run --suite=four_routings first'
    )
  drawn = {
    'differences': figures.differences(
      {suites.SUITES[name].title: verdicts.gaps(name, of) for name, of in rows.items()}
    ),
    'tile_use': figures.class_tiles(shown[0]['specialisation']),
  }
  paths = []
  for name, figure in drawn.items():
    paths.append(folder / f'{name}.png')
    figure.savefig(paths[-1], dpi=130, facecolor='white')
  return paths


if __name__ == '__main__':
  _RESULTS = flags.DEFINE_string('results', 'results', 'Folder of SUITE.json, and for the figures.')
  cli.run(lambda: print(*write(cli.folder_of(_RESULTS)), sep='\n'))
