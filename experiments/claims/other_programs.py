"""Judge claims of the original from the results of other programs of this repository.

These programs are `experiments/single/residual_toy.py`, `benchmarks/inference_speed.py` and
`experiments/single/packing_precision.py`.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from experiments.claims import estimates, verdicts
from trix_jax.errors import InputError


def rows(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Return verdicts like those of suites from the files in a folder, with `command`, and the file's name as `suite`."""
  result = []
  for name, (command, of_results) in OF_FILES.items():
    if (path := folder / f'{name}.json').exists():
      try:
        result += [
          {**verdict, 'suite': name, 'command': command}
          for verdict in verdicts.correct(of_results(json.loads(path.read_text())))
        ]
      except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
          f'{path} is not what was expected of {name} ({error!r}); make it again or move it away'
        ) from error
  return result


def _residual(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
  [accuracy] = [{of['layer']: of['accuracy'] for of in results if of['task'] == 'blobs'}]
  without, beside = (estimates.estimate(accuracy[layer]) for layer in ('no residual', 'residual'))
  return [
    verdicts.judge(
      'an indexed layer tells four clouds of points apart by its residual alone',
      '25 % right without, 100 % with',
      f'{without.text(1, " %", 100)} without, {beside.text(1, " %", 100)} with',
      without,
      0.5,
      'chance is 25 %',
    )
  ]


def _skipping(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Compare all tiles with one of four, for layer and model of the original's size; slowest and fastest round."""
  times = {(of['variant'], of['measured']): of for of in results if of['size'] == 'reference'}
  ratios, highest = [], 0.0
  for measured, what in (('ffn 1', 'layer, 1 token'), ('ffn 64', 'layer, 64 tokens'), ('decode 1', 'model, 1 row')):
    every, one = times['packed all tiles T=4', measured], times['packed T=4', measured]
    ratios.append(f'{every["microseconds"] / one["microseconds"]:.1f}x ({what})')
    highest = max(highest, every['max'] / one['min'])
  verdict = verdicts.OF_CLAIMS[1] if highest < 4 else verdicts.UNDECIDED
  return [
    verdicts.make_verdict(
      "four times as fast by skipping three tiles of four, at the original's size",
      '"4x"',
      ', '.join(ratios),
      0,
      None,
      'packed against packed; refuted where the slowest round of all tiles over the fastest of one is below 4 for each',
      verdict,
    )
  ]


def _size(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
  [of] = [of for of in results if (of['run'], of['attention'], of['head']) == ('sparse', 'int8', 'int8')]
  return [
    verdicts.make_verdict(
      'weights 16 times smaller',
      '16x',
      f'{of["times_smaller"]:.1f}x for the file of the whole model',
      0,
      None,
      '2 bits for 32 are 16x by arithmetic, in tiles; attention and head are '
      'int8; docs/results/inference.md has how the runs were trained',
      verdicts.NOT_COMPARABLE,
    )
  ]


# For each file name: the command that writes the file, and the function that judges it.
OF_FILES: dict[str, tuple[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]]] = {
  'residual_toy': ('python experiments/single/residual_toy.py --out=results/residual_toy.json', _residual),
  'inference_speed': ('python benchmarks/inference_speed.py --json=results/inference_speed.json', _skipping),
  'packing_precision': (
    'python experiments/single/packing_precision.py --workdirs=runs/sparse,runs/dense,'
    'runs/learned,runs/reference --out=results/packing_precision.json',
    _size,
  ),
}
