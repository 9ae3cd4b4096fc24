"""Run suites: train what is missing, measure it, write results, verdicts and the report.

  python -m experiments.run --suite=four_routings --budget=small

Every run is an ordinary train.py workdir under --workdirs, named by its settings, so that a run which several suites
share is trained once; its log lies beside it. Stopped and started again, a suite goes on where it was. Results go to
OUT/SUITE.json as they come, and OUT/report.html shows those of all suites there. A run that fails is listed, and does
not stop those that do not start from it.

  smoke   seconds a run, the first three variants, to see that everything works; its figures mean nothing
  small   two layers, about three minutes a run on two cores, three seeds
  full    the original's budget and five seeds, for a GPU
"""

import json
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from absl import flags

from experiments import patterns, planning, report, suites, verdicts
from experiments.planning import Run
from trix_jax import cli, files, workdirs
from trix_jax.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
# Seconds between two lines of progress.
EVERY = 30


class RunFailed(Exception):
  """A training or its measuring ended with an error; the message is the last line of its log."""


class Terminated(BaseException):
  """SIGTERM arrived."""


def _terminate(*_):
  raise Terminated


def main(names: list[str], budget_name: str, out: pathlib.Path, folder: pathlib.Path, seeds: int | None) -> None:
  """Run suites.

  Args:
    names: which.
    budget_name: of `suites.BUDGETS`.
    out: folder for results and report.
    folder: for the runs.
    seeds: 0 to this, exclusive; None for as many as the budget has.
  """
  names = list(suites.SUITES) if names == ['all'] else list(dict.fromkeys(names))
  if unknown := set(names) - set(suites.SUITES):
    raise InputError(f'unknown suite {", ".join(sorted(unknown))}; choose from {", ".join(suites.SUITES)}, or all')
  for path in (out, folder):
    try:
      path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise InputError(f'cannot make folder {path}: {error.strerror}; choose another') from error
  # Whatever would keep results from being written is found before the work.
  files.check_writable(out / report.FILE)
  for name in names:
    files.check_writable(out / f'{name}.json')
    known_results(out / f'{name}.json', name, budget_name)
  patterns.write(folder / planning.PATTERNS)
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
  path, measures = out / f'{name}.json', list(suites.SUITES[name].measures)
  rows, failures = known_results(path, name, budget)
  most = max([seeds, *(row['seed'] + 1 for row in rows)])
  current = {(run.variant, run.seed): run.digest for run in planning.runs_of(name, budget, folder, most)}
  stale = [row for row in rows if current.get((row['variant'], row['seed'])) != row['digest']
           or row['measures'] != measures]
  if stale:
    print(f'{name}: {len(stale)} result(s) in {path} are of other settings or measures, and are made again', flush=True)
  rows = [row for row in rows if row not in stale]
  failed = 0
  for run in planning.runs_of(name, budget, folder, seeds):
    failures = [failure for failure in failures if (failure['variant'], failure['seed']) != (run.variant, run.seed)]
    known = [row for row in rows if (row['variant'], row['seed']) == (run.variant, run.seed)]
    if known:
      print(f'{run}: stands in {path}, made at commit {known[0]["commit"]}', flush=True)
    else:
      try:
        rows.append({'variant': run.variant, 'seed': run.seed, 'digest': run.digest, 'measures': measures,
                     'settings': run.portable, **result_of(run, progress)})
      except RunFailed as error:
        print(f'{run}: FAILED, {error}', flush=True)
        failures.append({'variant': run.variant, 'seed': run.seed, 'reason': str(error)})
        failed += 1
    progress.done(run, known=bool(known))
    write_results(path, name, budget, rows, failures)
  print(verdicts.table(name, rows), flush=True)
  return failed


def known_results(path: pathlib.Path, name: str, wanted: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """Rows and failures of earlier calls; InputError for those of another budget, which would be lost."""
  if not path.exists():
    return [], []
  try:
    results = json.loads(path.read_text())
    budget, rows, failures = results['budget'], list(results['rows']), list(results['failures'])
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(f'{path} holds no results of a suite ({error!r}); choose another --out') from error
  if budget != wanted:
    raise InputError(f'{path} holds the results of {name} with --budget={budget}; choose another --out for '
                     f'--budget={wanted}')
  return rows, failures


def write_results(path: pathlib.Path, name: str, budget: str, rows: list[dict], failures: list[dict]) -> None:
  """Everything there is of a suite so far, verdicts included."""
  order = list(suites.SUITES[name].variants)
  rows = sorted(rows, key=lambda row: (row['seed'], order.index(row['variant'])))
  seeds = max((row['seed'] + 1 for row in rows), default=0)
  other = '' if seeds in (0, suites.BUDGETS[budget].seeds) else f' --seeds={seeds}'
  results = {'suite': name, 'budget': budget,
             'command': f'python -m experiments.run --suite={name} --budget={budget}{other}',
             'failures': failures, 'verdicts': verdicts.of_suite(name, rows), 'rows': rows}
  workdirs.write_text(path, json.dumps(results) + '\n')


def result_of(run: Run, progress: 'Progress') -> dict[str, Any]:
  """Train a run to its end, or go on with it, and measure it."""
  train(run, progress)
  suite, measured = suites.SUITES[run.suite], run.beside(f'.{run.suite}.json')
  call([sys.executable, '-m', 'experiments.measure', f'--workdir={run.workdir}',
        f'--measures={",".join(suite.measures)}', f'--json={measured}'], run, progress)
  described, row = workdirs.read_run(run.workdir), json.loads(measured.read_text())
  if run.variant in suite.evaluated:
    row['loss'] = row['routings'][suite.evaluated[run.variant]]
  return {**row, 'commit': ', '.join(dict.fromkeys(str(session['commit']) for session in described['sessions'])),
          'machine': described['machine'], 'versions': described['versions']}


def train(run: Run, progress: 'Progress') -> None:
  """Train a run to its end, after those that it starts from or learns from."""
  for needed in run.needs:
    try:
      train(needed, progress)
    except RunFailed as error:
      raise RunFailed(f'{needed} failed, which it needs: {error}') from error
  if not run.finished:
    run.workdir.parent.mkdir(parents=True, exist_ok=True)
    call([sys.executable, 'train.py', f'--config={suites.CONFIG}', f'--workdir={run.workdir}',
          *(f'--config.{name}={value}' for name, value in run.settings.items())], run, progress)


def call(command: list[str], run: Run, progress: 'Progress') -> None:
  """Run a program with its output in the run's log, telling now and then how far it is.

  Waits where another program trains the run, such as what was left by a runner that was killed.
  """
  log = run.beside('.log')
  while True:
    with log.open('a') as file:
      # In a session of its own, so that Ctrl-C reaches it once, through us.
      process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
      code = _wait(process, log, run, progress)
    if not code:
      return
    if 'another training is running' not in last_line(log):
      raise RunFailed(f'exit code {code}: {last_line(log)} (all of it: {log})')
    print(f'{progress}  {run}: being trained by another program, waiting for it', flush=True)
    time.sleep(EVERY)


def _wait(process: subprocess.Popen, log: pathlib.Path, run: Run, progress: 'Progress') -> int:
  """The exit code; stops the program, which saves, when we are stopped."""
  try:
    while True:
      try:
        return process.wait(timeout=EVERY)
      except subprocess.TimeoutExpired:
        print(f'{progress}  {run}: {last_line(log)}', flush=True)
  except (KeyboardInterrupt, Terminated):
    process.terminate()
    process.wait()
    sys.exit('stopped; run the same command to go on')


def last_line(log: pathlib.Path) -> str:
  """The last line that says something."""
  lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
  return lines[-1].strip() if lines else 'starting'


class Progress:
  """Which run of how many, and the time that the others will take if they are like those so far."""

  def __init__(self, runs: int):
    self._runs, self._done, self._trained = runs, 0, 0
    self._last = time.monotonic()
    self._seconds = 0.0

  def done(self, run: Run, known: bool) -> None:
    """A run is done; `known` are not timed, as they took none."""
    self._done += 1
    now = time.monotonic()
    if not known:
      self._trained += 1
      self._seconds += now - self._last
      print(f'{self}  {run}: done', flush=True)
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
  cli.run(lambda: main(_SUITE.value, _BUDGET.value, cli.folder_of(_OUT), cli.folder_of(_WORKDIRS).absolute(),
                       _SEEDS.value))
