"""Draw figures of the documentation from the results of suites: `python -m experiments.report.readme_figures`.

differences.png   the difference in loss of each variant of the suites in COMPARED to its baseline
tile_use.png      the tiles of each class of characters, in the emergent model of seed 0
addresses.png     the tiles of each character, in the packed model, which routes by token
carved.png        what carved models lose over what they compute, if the suite carve has results
grafts.png        what grafted tiles gain and cost by each key, if the suite graft has results
oracle.png        what other choices of tiles lose or gain, if the suite oracle has results
many_tiles.png    the loss of more and smaller tiles by what finds them, if the suite many_tiles has results
correlations.png  what was read against the loss that it should predict, if the suite transfer has results
stand_ins.png     what models lose with tiles of another model, if it has
"""

import pathlib

from absl import flags

from experiments import suites
from experiments.report import figures
from experiments.runner import results_file
from experiments.suites import graft, judgement, many_tiles, transfer
from trix_jax.cli import arguments, launcher
from trix_jax.errors import InputError
from trix_jax.inference import language_model
from trix_jax.inspection import address_map
from trix_jax.system import files

# Suites whose variants differ in kind, if they have results. Tables show the suites that vary a number.
COMPARED = ('four_routings', 'controls', 'remedies', 'hierarchy', 'recipe')


def write(results: pathlib.Path, model: pathlib.Path, images: pathlib.Path) -> list[pathlib.Path]:
  """Draw the figures from the results in one folder, and from a packed model, into another folder.

  Raises:
    InputError: when there are no results of `four_routings`, or the figures cannot be written.
  """
  rows = {}
  for name in COMPARED:
    if (path := results / f'{name}.json').exists():
      rows[name] = results_file.read_whole(path)['rows']
  shown = [row for row in rows.get('four_routings', []) if (row['variant'], row['seed']) == ('emergent', 0)]
  if not shown:
    raise InputError(
      f'no emergent model of seed 0 in {results / "four_routings.json"}; '
      'run experiments.run --suite=four_routings first'
    )
  packed = language_model.load(model)
  drawn = {
    'differences': figures.differences(
      {suites.SUITES[name].title: judgement.gaps(name, of) for name, of in rows.items()}
    ),
    'tile_use': figures.class_tiles(shown[0]['specialisation']),
    'addresses': address_map.draw_map(address_map.read_map(packed), packed.vocabulary, packed.config.model.ffn.tiles),
  }
  if (path := results / 'carve.json').exists():
    drawn['carved'] = figures.frontier(results_file.read_whole(path)['rows'])
  if (path := results / 'graft.json').exists():
    drawn['grafts'] = figures.grafts(graft.collect_shown(results_file.read_whole(path)['rows']))
  if (path := results / 'oracle.json').exists():
    drawn['oracle'] = figures.oracle(results_file.read_whole(path)['rows'], list(suites.SUITES['oracle'].variants))
  if (path := results / 'many_tiles.json').exists():
    drawn['many_tiles'] = figures.against(
      results_file.read_whole(path)['rows'], many_tiles.FAMILIES, 'tiles, one computed'
    )
  if (path := results / 'transfer.json').exists():
    of = results_file.read_whole(path)['rows']
    drawn['correlations'] = figures.correlations(transfer.correlations(of))
    if any(row['stand_ins'] for row in of):
      drawn['stand_ins'] = figures.stand_ins(of, transfer.PAIRS)
  paths = []
  for name, figure in drawn.items():
    paths.append(images / f'{name}.png')
    files.check_writable(paths[-1])
    figure.savefig(paths[-1], dpi=130, facecolor='white')
  return paths


if __name__ == '__main__':
  _RESULTS = flags.DEFINE_string('results', 'results', 'Folder of SUITE.json.')
  _MODEL = flags.DEFINE_string('model', 'models/shakespeare.safetensors', 'File of `trix export`.')
  _IMAGES = flags.DEFINE_string('images', 'docs/images', 'Folder for the figures.')
  launcher.run_main(
    lambda: print(
      *write(arguments.folder_of(_RESULTS), pathlib.Path(_MODEL.value), arguments.folder_of(_IMAGES)), sep='\n'
    )
  )
