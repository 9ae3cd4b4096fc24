"""Read and write the results of a suite, one JSON file, whole and by one writer at a time."""

import contextlib
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import suites
from experiments.suites import judgement
from trix_jax.errors import InputError
from trix_jax.system import files

Rows = list[dict[str, Any]]

# Fields of every row and every failure, for any measures.
ROW = {
  'variant': str,
  'seed': int,
  'digest': str,
  'measures': list,
  'settings': dict,
  'loss': float,
  'tokens': int,
  'dead_tiles': list,
  'parameters': dict,
  'curves': dict,
  'commit': str,
  'machine': dict,
  'versions': dict,
}
FAILURE = {'variant': str, 'seed': int, 'reason': str}


def kept(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
  """Lock these results against other runners, which would overwrite ours. Raise InputError if one has the lock."""
  return files.hold_lock(
    path.with_name(f'.{path.stem}.lock'),
    InputError(f'another program is writing {path}; wait for it, or choose another --suite or --out'),
  )


def read(path: pathlib.Path, budget: str) -> tuple[Rows, Rows]:
  """Read rows and failures of earlier calls. Raise InputError for those of another budget, which would be lost."""
  if not path.exists():
    return [], []
  results = read_whole(path)
  if results['budget'] != budget:
    raise InputError(
      f'{path} holds results with --budget={results["budget"]}; choose another --out for --budget={budget}'
    )
  return results['rows'], results['failures']


def read_whole(path: pathlib.Path) -> dict[str, Any]:
  """Read a file that `write` wrote. Raise InputError for anything else."""
  try:
    results: dict[str, Any] = json.loads(path.read_text())
    _check(results, {'budget': str, 'command': str, 'verdicts': list, 'rows': list, 'failures': list}, 'results')
    for index, failure in enumerate(results['failures']):
      _check(failure, FAILURE, f'failures[{index}]')
    for index, row in enumerate(results['rows']):
      _check(row, ROW, f'rows[{index}]')
      _check(row, dict.fromkeys(row['measures'], object), f'rows[{index}]')
    seen = [(row['variant'], row['seed']) for row in results['rows']]
    if twice := [of for of in seen if seen.count(of) > 1]:
      raise ValueError(f'{twice[0][0]} with seed {twice[0][1]} is there twice')
  except (ValueError, TypeError) as error:  # Measures that are not names raise TypeError.
    raise InputError(f'{path} holds no results of a suite ({error}); move it away') from error
  return results


def _check(of: Any, shape: Mapping[str, type], name: str) -> None:
  """Raise ValueError unless this is a mapping with these fields of these types."""
  if not isinstance(of, dict):
    raise ValueError(f'{name} is a {type(of).__name__}')
  for key, kind in shape.items():
    if key not in of:
      raise ValueError(f'{name} has no {key!r}')
    if not isinstance(of[key], kind):
      raise ValueError(f'{key!r} of {name} is a {type(of[key]).__name__}')


def write(path: pathlib.Path, budget: str, rows: Rows, failures: Rows, variants: Sequence[str]) -> None:
  """Write all results of a suite so far, with verdicts and the command that makes these variants."""
  name = path.stem
  order = list(suites.SUITES[name].variants)
  rows = sorted(rows, key=lambda row: (row['seed'], order.index(row['variant'])))
  results: dict[str, Any] = {
    'suite': name,
    'budget': budget,
    'command': _command(name, budget, rows, variants),
    'failures': failures,
    'verdicts': [],
    'rows': rows,
  }
  try:
    results['verdicts'] = judgement.judge_suite(name, rows)
  finally:  # A user's verdicts may raise, so write the measurements in any case.
    files.write_text(path, json.dumps(results) + '\n')


def _command(name: str, budget: str, rows: Rows, variants: Sequence[str]) -> str:
  """Return the command that makes these rows, which come seed by seed, and the missing runs of these variants.

  It has one part for all variants, and after `&&` one for each larger number of seeds that only some variants have.
  """
  seeds_of = {row['variant']: row['seed'] + 1 for row in rows}  # The last seed counts.
  made = [variant for variant in suites.SUITES[name].variants if variant in variants or variant in seeds_of]
  commands: list[str] = []
  for seeds in sorted(set(seeds_of.values())) or [suites.BUDGETS[budget].seeds]:
    words = f'python -m experiments.run --suite={shlex.quote(suites.SUITES[name].file or name)} --budget={budget}'
    if seeds != suites.BUDGETS[budget].seeds:
      words += f' --seeds={seeds}'
    chosen = [variant for variant in made if seeds_of.get(variant, 0) >= seeds or not commands]
    if chosen != suites.variants_of(suites.SUITES[name], suites.BUDGETS[budget]):
      words += f' --variants={",".join(chosen)}'
    commands.append(words)
  return ' && '.join(commands)
