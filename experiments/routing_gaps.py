"""What is reading the route worth? The sparse recipe against a learned gate and against its dense twin, over seeds.

  python experiments/routing_gaps.py --workdirs=runs/gaps --out=results/routing_gaps.json

Each run is an ordinary `train.py` workdir; stopped and started again, the comparison goes on where it was. At the end
it prints the best full-validation loss of every variant, mean and standard deviation over seeds, and the gap to
emergent routing, paired by seed. On two cores a run takes about 12 minutes.

The dense twin is tuned by itself in the same way, one seed each:

  python experiments/routing_gaps.py --workdirs=runs/gaps --out=results/routing_gaps.json --seeds=1 \
    --variants=dense,dense_lr_0.01,dense_decay_0.4,dense_dropout_0.2
"""

import json
import pathlib
import statistics
import subprocess
import sys

from absl import app, flags

from trix_jax import metrics, workdirs

_WORKDIRS = flags.DEFINE_string('workdirs', None, 'Folder for the runs, one VARIANT-SEED each.', required=True)
_OUT = flags.DEFINE_string('out', None, 'JSON file for the results; what it holds already is not run again.',
                            required=True)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Seeds 0 to this, exclusive.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', None, 'Steps of each run; by default those of the recipe.', lower_bound=1)
_VARIANTS = flags.DEFINE_list('variants', None, 'These variants; by default emergent, learned and dense.')

# Every token computes all tiles, so there is no gate and nothing to balance.
DENSE = ('--config.model.routing=dense', '--config.model.gate=one_hot', '--config.loss.balance_weight=0.0')
VARIANTS: dict[str, tuple[str, ...]] = {
    'emergent': (),
    'learned': ('--config.model.routing=learned',),
    'dense': DENSE,
    'dense_lr_0.01': (*DENSE, '--config.optimizer.learning_rate=0.01'),
    'dense_decay_0.4': (*DENSE, '--config.optimizer.weight_decay=0.4'),
    'dense_dropout_0.2': (*DENSE, '--config.model.dropout=0.2'),
}
COMPARED = ('emergent', 'learned', 'dense')
ROOT = pathlib.Path(__file__).parent.parent


def main(_):
  names = _VARIANTS.value or list(COMPARED)
  if unknown := set(names) - set(VARIANTS):
    sys.exit(f'error: unknown variants {", ".join(sorted(unknown))}; choose from {", ".join(VARIANTS)}')
  out = pathlib.Path(_OUT.value)
  rows = known_rows(out)
  wanted = [(name, seed, settings_of(name, seed)) for seed in range(_SEEDS.value) for name in names]
  failed = False
  for name, seed, settings in wanted:
    if known := [row for row in rows if row['settings'] == settings]:
      print(f'== {name}, seed {seed}: its result stands in {out}, made at commit {known[0]["commit"]}', flush=True)
    elif row := result(name, seed, settings):
      rows.append(row)
      workdirs.write_text(out, json.dumps(rows, indent=1) + '\n')
    else:
      failed = True
  settings_wanted = [settings for _, _, settings in wanted]
  print(table([row for row in rows if row['settings'] in settings_wanted], names))
  sys.exit(1 if failed else 0)


def known_rows(out: pathlib.Path) -> list[dict]:
  """Results of earlier calls; whatever would keep us from writing new ones is an error now and not after an hour."""
  try:
    rows = json.loads(out.read_text()) if out.exists() else []
    workdirs.write_text(out, json.dumps(rows, indent=1) + '\n')
  except (OSError, ValueError) as error:
    sys.exit(f'error: --out={out} cannot be used: {error}')
  return rows


def settings_of(name: str, seed: int) -> list[str]:
  """What the command line of a run adds to configs/sparse.py."""
  steps = [] if _STEPS.value is None else [f'--config.training.steps={_STEPS.value}']
  return [f'--config.seed={seed}', *VARIANTS[name], *steps]


def result(name: str, seed: int, settings: list[str]) -> dict | None:
  """Train a variant to its end and give its row; None when it failed, which is said and does not stop the others."""
  folder = f'{name}-{seed}' if _STEPS.value is None else f'{name}-{seed}-{_STEPS.value}'
  workdir = pathlib.Path(_WORKDIRS.value).absolute() / folder
  print(f'== {name}, seed {seed}: {workdir}', flush=True)
  training = subprocess.Popen([sys.executable, 'train.py', '--config=configs/sparse.py', f'--workdir={workdir}',
                               *settings], cwd=ROOT)
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


def table(rows: list[dict], names: list[str]) -> str:
  """Mean and standard deviation of the loss, and of its difference to emergent routing on the same seeds."""
  losses = {name: {row['seed']: row['loss'] for row in rows if row['variant'] == name} for name in names}
  lines = [f'{"variant":<20}{"seeds":>6}{"loss":>9}{"std":>8}{"gap to emergent":>18}{"std":>8}']
  for name in names:
    values = list(losses[name].values())
    if not values:
      lines.append(f'{name:<20}{0:6d}')
      continue
    gaps = [loss - losses['emergent'][seed] for seed, loss in losses[name].items()
            if seed in losses.get('emergent', {})]
    gap = f'{statistics.mean(gaps):+18.4f}{spread(gaps):>8}' if gaps and name != 'emergent' else ''
    lines.append(f'{name:<20}{len(values):6d}{statistics.mean(values):9.4f}{spread(values):>8}{gap}')
  return '\n'.join(lines)


def spread(values: list[float]) -> str:
  return f'{statistics.stdev(values):.4f}' if len(values) > 1 else '-'


if __name__ == '__main__':
  app.run(main)
