"""Measure loss against the mean number of tiles a character computes, with more tiles where the best ones are close.

  python experiments/single/adaptive_tiles.py --workdir=runs/hierarchical_64 --out=results/adaptive_tiles.json

The program evaluates a trained model on the whole validation split in two ways. The first fixes the number of tiles,
`top_k` = 1, 2, ... up to the model's own. The second starts from the model's own `top_k`. Of these tiles a character
keeps those whose probability is at least some part of its best tile's (`keep_ratio`). The program trains nothing. It
draws both curves into docs/images/adaptive_tiles.png.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from trix_jax.system import host

if __name__ == '__main__':
  host.prepare_cpu()  # Call this before anything imports JAX.

from absl import flags

from trix_jax.cli import arguments, launcher
from trix_jax.errors import InputError
from trix_jax.evaluation.evaluator import Evaluator
from trix_jax.inspection import plots
from trix_jax.runs import checkpoints
from trix_jax.system import files

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a run whose model.top_k is above 1.', required=True)
_OUT = flags.DEFINE_string('out', None, 'JSON file for the results.', required=True)
_IMAGE = flags.DEFINE_string('image', 'docs/images/adaptive_tiles.png', 'PNG file for both curves.')

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def main() -> None:
  plots.require_matplotlib()
  path, image = pathlib.Path(_OUT.value), pathlib.Path(_IMAGE.value)
  for file in (path, image):
    files.check_writable(file)
  trained = checkpoints.load_trained(arguments.folder_of(_WORKDIR), 'best')
  config = trained.model.config
  if config.ffn.top_k == 1:
    raise InputError('this model was trained with model.top_k = 1, so that there is nothing to leave out')
  validation = trained.corpus().validation
  rows = []
  settings: list[tuple[str, Any]] = [('top_k', k) for k in range(1, config.ffn.top_k + 1)]
  settings += [('keep_ratio', ratio) for ratio in RATIOS]
  for kind, value in settings:
    model = dataclasses.replace(config, ffn=dataclasses.replace(config.ffn, **{'keep_ratio': 0.0, kind: value}))
    row = Evaluator(model, trained.vocabulary, validation)(trained.params, trained.routing_state)
    rows.append({'kind': kind, kind: value, 'tiles_used': float(np.mean(row['tiles_used'])), 'loss': row['loss']})
    print(f'{kind} {value:<5}{rows[-1]["tiles_used"]:8.3f} tiles a character{row["loss"]:9.4f} nats', flush=True)
  files.write_text(path, json.dumps(rows, indent=1) + '\n')
  plot(rows, image)


def plot(rows: list[dict], path: pathlib.Path) -> None:
  from matplotlib.figure import Figure

  figure = Figure(figsize=(5, 3.5), layout='constrained')
  ax = figure.subplots()
  for kind, label in (('top_k', 'the same number for all'), ('keep_ratio', 'by confidence')):
    points = sorted((row['tiles_used'], row['loss']) for row in rows if row['kind'] == kind)
    ax.plot(*zip(*points, strict=True), marker='o', label=label)
  ax.set(xlabel='tiles a character computes, mean', ylabel='validation loss, nats')
  ax.legend()
  figure.savefig(path, dpi=120)


if __name__ == '__main__':
  launcher.run_main(main)
