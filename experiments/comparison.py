"""What experiments that compare variants share: one training run for each variant and seed, and a table of gaps.

Each run is an ordinary `train.py` workdir; stopped and started again, a comparison goes on where it was.
"""

import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from trix_jax import metrics, workdirs

_WORKDIRS = flags.DEFINE_string('workdirs', None, 'Folder for the runs, one VARIANT-SEED each.', required=True)
_OUT = flags.DEFINE_string('out', None, 'JSON file for the results; what it holds already is not run again.',
                            required=True)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Seeds 0 to this, exclusive.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', None, 'Steps of each run; by default those of the recipe.', lower_bound=1)
_VARIANTS = flags.DEFINE_list('variants', None, 'These variants; by default those the docstring compares.')
ROOT = pathlib.Path(__file__).parent.parent


def run(config: str, variants: Mapping[str, Sequence[str]], compared: Sequence[str]) -> None:
  """Train what is missing, keep every result in --out, print the table, and leave with 1 where a run failed.

  Args:
    config: a file in configs/, which all variants start from.
    variants: what the command line of each adds.
    compared: the variants of the comparison; gaps are those to the first.
  """
  names = _VARIANTS.value or list(compared)
  if unknown := set(names) - set(variants):
    sys.exit(f'error: unknown variants {", ".join(sorted(unknown))}; choose from {", ".join(variants)}')
  out = pathlib.Path(_OUT.value)
  rows = known_rows(out)
  wanted = [(name, seed, settings_of(variants[name], seed)) for seed in range(_SEEDS.value) for name in names]
  failed = False
  for name, seed, settings in wanted:
    if known := [row for row in rows if row['settings'] == settings]:
      print(f'== {name}, seed {seed}: its result stands in {out}, made at commit {known[0]["commit"]}', flush=True)
    elif row := result(config, name, seed, settings):
      rows.append(row)
      workdirs.write_text(out, json.dumps(rows, indent=1) + '\n')
    else:
      failed = True
  settings_wanted = [settings for _, _, settings in wanted]
  print(table([row for row in rows if row['settings'] in settings_wanted], names, compared[0]))
  sys.exit(1 if failed else 0)


def known_rows(out: pathlib.Path) -> list[dict]:
  """Results of earlier calls; whatever would keep us from writing new ones is an error now and not after an hour."""
  try:
    rows = json.loads(out.read_text()) if out.exists() else []
    workdirs.write_text(out, json.dumps(rows, indent=1) + '\n')
  except (OSError, ValueError) as error:
    sys.exit(f'error: --out={out} cannot be used: {error}')
  return rows


def settings_of(variant: Sequence[str], seed: int) -> list[str]:
  """What the command line of a run adds to the config."""
  steps = [] if _STEPS.value is None else [f'--config.training.steps={_STEPS.value}']
  return [f'--config.seed={seed}', *variant, *steps]


def result(config: str, name: str, seed: int, settings: list[str]) -> dict | None:
  """Train a variant to its end and give its row; None when it failed, which is said and does not stop the others."""
  folder = f'{name}-{seed}' if _STEPS.value is None else f'{name}-{seed}-{_STEPS.value}'
  workdir = pathlib.Path(_WORKDIRS.value).absolute() / folder
  print(f'== {name}, seed {seed}: {workdir}', flush=True)
  training = subprocess.Popen([sys.executable, 'train.py', f'--config={config}', f'--workdir={workdir}', *settings],
                              cwd=ROOT)
  try:
    code = training.wait()
  except KeyboardInterrupt:
    training.wait()  # It was interrupted as well, and saves.
    sys.exit('stopped; run the same command to go on')
  if code:
    print(f'== {name}, seed {seed}: failed with exit code {code}', flush=True)
    return None
  best = min(metrics.read_metrics(workdir, 'validation'), key=lambda row: row['loss'])
  run = workdirs.read_run(workdir)
  return {'variant': name, 'seed': seed, 'settings': settings,
          **{key: best[key] for key in ('step', 'loss', 'perplexity', 'dead_tiles')}, 'parameters': run['parameters'],
          'commit': ', '.join(dict.fromkeys(str(session['commit']) for session in run['sessions'])),
          'machine': run['machine'], 'versions': run['versions']}


def table(rows: list[dict], names: Sequence[str], baseline: str) -> str:
  """Mean and standard deviation of the loss, and of its difference to the baseline on the same seeds."""
  losses = {name: {row['seed']: row['loss'] for row in rows if row['variant'] == name} for name in names}
  lines = [f'{"variant":<20}{"seeds":>6}{"loss":>9}{"std":>8}{f"gap to {baseline}":>18}{"std":>8}']
  for name in names:
    values = list(losses[name].values())
    if not values:
      lines.append(f'{name:<20}{0:6d}')
      continue
    gaps = [loss - losses[baseline][seed] for seed, loss in losses[name].items()
            if seed in losses.get(baseline, {})]
    gap = f'{statistics.mean(gaps):+18.4f}{spread(gaps):>8}' if gaps and name != baseline else ''
    lines.append(f'{name:<20}{len(values):6d}{statistics.mean(values):9.4f}{spread(values):>8}{gap}')
  return '\n'.join(lines)


def spread(values: list[float]) -> str:
  return f'{statistics.stdev(values):.4f}' if len(values) > 1 else '-'
