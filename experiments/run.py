"""Run a suite: train what is missing, measure it, write its results, verdicts and the report.

  python -m experiments.run --suite=four_routings --budget=small

Every run is an ordinary train.py workdir under --workdirs, with a log beside it, and a run that several suites share is
trained once. Stopped and started again, a suite goes on where it was. Results go to OUT/SUITE.json as they come, and
OUT/report.html shows those of all suites there. A run that fails is listed, and does not stop the others.

  smoke   seconds a run, the first three variants, to see that everything works; its figures mean nothing
  small   two layers, two to three minutes a run on two cores, three seeds
  full    the original's budget and five seeds, for a GPU
"""

import dataclasses
import hashlib
import json
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from absl import flags

from experiments import patterns, report, suites, verdicts
from trix_jax import cli, files, workdirs
from trix_jax.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
# Seconds between two lines of progress.
EVERY = 30


@dataclasses.dataclass(frozen=True)
class Run:
  """One training of a suite.

  Attributes:
    suite, variant, seed: which one.
    settings: of its config, resolved.
    workdir: a function of the settings, so that equal runs are the same run.
  """

  suite: str
  variant: str
  seed: int
  settings: dict[str, Any]
  workdir: pathlib.Path

  @property
  def name(self) -> str:
    return f'{self.suite}/{self.variant}, seed {self.seed}'


def runs_of(name: str, budget_name: str, folder: pathlib.Path, seeds: int) -> list[Run]:
  """The runs of a suite, those that others start from first."""
  suite, budget = suites.SUITES[name], suites.BUDGETS[budget_name]
  runs: list[Run] = []
  def run_of(variant: str, seed: int) -> Run:
    settings = suites.settings_of(suite, variant, budget, seed)
    for key, value in settings.items():
      if value == '{patterns}':
        settings[key] = str(folder / 'patterns.txt')
      elif isinstance(value, str) and value.startswith('{'):
        needed = run_of(value[1:-1], seed)
        settings[key] = str(needed.workdir)
    digest = hashlib.sha256(json.dumps([suites.CONFIG, settings], sort_keys=True).encode()).hexdigest()[:10]
    run = Run(name, variant, seed, settings, folder / budget_name / f'{name}-{variant}-{seed}-{digest}')
    known = next((other for other in _trained(folder / budget_name, digest)), None)
    run = dataclasses.replace(run, workdir=known) if known else run
    if run not in runs:
      runs.append(run)
    return run
  for seed in range(seeds):
    for variant in suites.variants_of(suite, budget):
      run_of(variant, seed)
  return runs


def _trained(folder: pathlib.Path, digest: str) -> list[pathlib.Path]:
  """The workdir with these settings that there is, whichever suite it was made for."""
  return sorted(path for path in folder.glob(f'*-{digest}') if path.is_dir())


def main(names: list[str], budget_name: str, out: pathlib.Path, folder: pathlib.Path, seeds: int | None) -> None:
  """Run suites.

  Args:
    names: which.
    budget_name: of `suites.BUDGETS`.
    out: folder for results and report.
    folder: for the runs.
    seeds: 0 to this, exclusive; None for as many as the budget has.
  """
  names = list(suites.SUITES) if names == ['all'] else names
  if unknown := set(names) - set(suites.SUITES):
    raise InputError(f'unknown suite {", ".join(sorted(unknown))}; choose from {", ".join(suites.SUITES)}, or all')
  for path in (out, folder):
    try:
      path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise InputError(f'cannot make folder {path}: {error.strerror}; choose another') from error
  files.check_writable(out / report.FILE)
  patterns.write(folder / 'patterns.txt')
  signal.signal(signal.SIGTERM, _terminate)
  budget = suites.BUDGETS[budget_name]
  seeds = seeds or budget.seeds
  progress = Progress(seeds * sum(len(suites.variants_of(suites.SUITES[name], budget)) for name in names))
  failed = 0
  for name in names:
    failed += run_suite(name, budget_name, out, folder, seeds, progress)
  report.write(out)
  print(f'\nreport: {out / report.FILE}')
  if failed:
    print(f'{failed} run(s) failed; see above', file=sys.stderr)
    sys.exit(1)


def run_suite(name: str, budget: str, out: pathlib.Path, folder: pathlib.Path, seeds: int,
              progress: 'Progress') -> int:
  """Run what is missing of a suite and write its results; the number of runs that failed."""
  path = out / f'{name}.json'
  files.check_writable(path)
  rows = known_rows(path, name, budget)
  failures: list[dict[str, Any]] = []
  for run in runs_of(name, budget, folder, seeds):
    shown = {key: _portable(value, folder) for key, value in run.settings.items()}
    known = [row for row in rows if (row['variant'], row['seed'], row['settings']) == (run.variant, run.seed, shown)]
    if known:
      print(f'{run.name}: stands in {path}, made at commit {known[0]["commit"]}', flush=True)
    else:
      try:
        row = {'variant': run.variant, 'seed': run.seed, 'settings': shown, **result_of(run, progress)}
        rows = [other for other in rows if (other['variant'], other['seed']) != (run.variant, run.seed)] + [row]
      except RunFailed as error:
        print(f'{run.name}: FAILED, {error}', flush=True)
        failures.append({'variant': run.variant, 'seed': run.seed, 'reason': str(error)})
    progress.done(run, known=bool(known))
    write_results(path, name, budget, rows, failures)
  print(verdicts.table(name, rows), flush=True)
  return len(failures)


def _portable(value: Any, folder: pathlib.Path) -> Any:
  """A setting without the place of the runs on this machine."""
  return value.replace(f'{folder}/', '') if isinstance(value, str) else value


def known_rows(path: pathlib.Path, name: str, wanted: str) -> list[dict[str, Any]]:
  """Results of earlier calls with this budget; InputError for those of another, which would be lost."""
  if not path.exists():
    return []
  try:
    results = json.loads(path.read_text())
    budget, rows = results['budget'], results['rows']
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(f'{path} holds no results of a suite ({error!r}); choose another --out') from error
  if budget != wanted:
    raise InputError(f'{path} holds the results of {name} with --budget={budget}; choose another --out for '
                     f'--budget={wanted}')
  return list(rows)


def write_results(path: pathlib.Path, name: str, budget: str, rows: list[dict], failures: list[dict]) -> None:
  """Everything there is of a suite so far, verdicts included."""
  suite = suites.SUITES[name]
  order = list(suite.variants)
  rows = sorted(rows, key=lambda row: (row['seed'], order.index(row['variant'])))
  results = {'suite': name, 'budget': budget,
             'command': f'python -m experiments.run --suite={name} --budget={budget}',
             'failures': failures, 'verdicts': verdicts.of_suite(name, rows), 'rows': rows}
  workdirs.write_text(path, json.dumps(results) + '\n')


class Terminated(BaseException):
  """SIGTERM arrived."""


def _terminate(*_):
  raise Terminated


class RunFailed(Exception):
  """A training or its measuring ended with an error; the message is the last line of its log."""


def result_of(run: Run, progress: 'Progress') -> dict[str, Any]:
  """Train a run to its end, or go on with it, and measure it."""
  run.workdir.parent.mkdir(parents=True, exist_ok=True)
  log, measured = run.workdir.with_suffix('.log'), run.workdir.with_suffix('.json')
  settings = [f'--config.{name}={value}' for name, value in run.settings.items()]
  call([sys.executable, 'train.py', f'--config={suites.CONFIG}', f'--workdir={run.workdir}', *settings], log, run,
       progress)
  measures = ','.join(suites.SUITES[run.suite].measures)
  call([sys.executable, '-m', 'experiments.measure', f'--workdir={run.workdir}', f'--measures={measures}',
        f'--json={measured}'], log, run, progress)
  described = workdirs.read_run(run.workdir)
  return {**json.loads(measured.read_text()),
          'commit': ', '.join(dict.fromkeys(str(session['commit']) for session in described['sessions'])),
          'machine': described['machine'], 'versions': described['versions']}


def call(command: list[str], log: pathlib.Path, run: Run, progress: 'Progress') -> None:
  """Run a program with its output in the log, telling now and then how far it is."""
  with log.open('a') as file:
    process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    try:
      while True:
        try:
          code = process.wait(timeout=EVERY)
          break
        except subprocess.TimeoutExpired:
          print(f'{progress}  {run.name}: {last_line(log)}', flush=True)
    except (KeyboardInterrupt, Terminated):
      process.terminate()  # It saves.
      process.wait()
      sys.exit('stopped; run the same command to go on')
  if code:
    raise RunFailed(f'exit code {code}: {last_line(log)} (all of it: {log})')


def last_line(log: pathlib.Path) -> str:
  """The last line that says something."""
  lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
  return lines[-1].strip() if lines else 'starting'


class Progress:
  """Which run of how many, and the time that the others will take if they are like those so far."""

  def __init__(self, runs: int):
    self._runs, self._done, self._trained = runs, 0, 0
    self._start = self._last = time.monotonic()
    self._seconds = 0.0

  def done(self, run: Run, known: bool) -> None:
    """A run is done; `known` are not timed, as they took none."""
    self._done += 1
    now = time.monotonic()
    if not known:
      self._trained += 1
      self._seconds += now - self._last
      print(f'{self}  {run.name}: done', flush=True)
    self._last = now

  def __str__(self) -> str:
    left = '-:--' if not self._trained else _hours(self._seconds / self._trained * (self._runs - self._done))
    return f'[{min(self._done + 1, self._runs)}/{self._runs}, {left} left]'


def _hours(seconds: float) -> str:
  return f'{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}'


if __name__ == '__main__':
  _SUITE = flags.DEFINE_list('suite', None, 'Suites to run, separated by commas, or "all": ' + ', '.join(suites.SUITES),
                             required=True)
  _BUDGET = flags.DEFINE_enum('budget', 'small', list(suites.BUDGETS), 'How much is trained.')
  _OUT = flags.DEFINE_string('out', 'results', 'Folder for SUITE.json and report.html.')
  _WORKDIRS = flags.DEFINE_string('workdirs', 'runs/experiments', 'Folder for the runs.')
  _SEEDS = flags.DEFINE_integer('seeds', None, 'Seeds 0 to this, exclusive; by default as many as the budget has.',
                                lower_bound=1)
  cli.run(lambda: main(_SUITE.value, _BUDGET.value, pathlib.Path(_OUT.value), pathlib.Path(_WORKDIRS.value).absolute(),
                       _SEEDS.value))
