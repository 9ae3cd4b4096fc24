"""Run suites: train and measure missing runs, and write results, verdicts and the report.

  python -m experiments.run --suite=four_routings --budget=small

Every run is an ordinary train.py workdir under --workdirs, with its log beside it. Settings name the workdir, so suites
that share a run train it once. A suite that was stopped goes on where it was. Results go to OUT/SUITE.json as they
come. OUT/report.html shows the results of all suites there. If another suite there has measured the same run, with the
same versions of Python and packages, its result is reused, even without the workdir. The runner lists a run that fails,
and goes on with runs that do not start from it.

  smoke   seconds a run, the first three variants, to check that everything works; its figures mean nothing
  small   two layers, three or four minutes a run on two cores, three seeds
  recipe  the recipe unchanged, 10 to 40 minutes a run and core, five seeds; see --variants
  full    the original's budget and five seeds, for a GPU

A Python file can define a suite: --suite=my_suite.py (`own_suites.py` tells how). The report shows such a suite only in
calls that name it.

--jobs=2 makes two runs at a time, each on half the cores, which is the fastest use of two cores. A dozen runs may share
a GPU. Two calls may also share --out and --workdirs, if they name different suites.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import math
import pathlib
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from trix_jax.system import host

if __name__ == '__main__':
  host.explain_mistakes()  # Call this before anything imports the kernels.

from absl import flags

from experiments import suites, texts
from experiments.claims import other_programs
from experiments.measures import measure
from experiments.report import page
from experiments.runner import own_suites, planning, results_file
from experiments.runner.execution import RunFailed, call, describe_sessions, sort_runs, train
from experiments.runner.jobs import Jobs
from experiments.runner.planning import Run
from experiments.runner.progress import Progress, say
from experiments.suites import judgement
from trix_jax.cli import arguments, launcher
from trix_jax.errors import InputError
from trix_jax.runs import workdirs
from trix_jax.system import files

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
  """SIGINT or SIGTERM arrived."""


def _interrupt(*_):
  # `timeout` and impatient people send a second signal, which would keep running programs from saving.
  for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)
  raise Interrupted


@dataclasses.dataclass(frozen=True)
class Plan:
  """The parts of every named suite that a call runs.

  Attributes:
    budget: name of one of `suites.BUDGETS`.
    out: folder for results and report.
    folder: for the runs.
    seeds: 0 to this, exclusive.
    variants: only these variants; empty for all that the budget allows.
    jobs: runs at a time.
  """

  budget: str
  out: pathlib.Path
  folder: pathlib.Path
  seeds: int
  variants: tuple[str, ...] = ()
  jobs: int = 1

  def path(self, suite: str) -> pathlib.Path:
    """Return the file of a suite's results."""
    return self.out / f'{suite}.json'

  def variants_of(self, suite: str) -> list[str]:
    """List the variants of a suite to run."""
    if not self.variants:
      return suites.variants_of(suites.SUITES[suite], suites.BUDGETS[self.budget])
    return [variant for variant in suites.SUITES[suite].variants if variant in self.variants]

  def runs(self, suite: str) -> list[Run]:
    """List the runs of a suite, seed by seed."""
    return planning.runs_of(suite, self.variants_of(suite), self.budget, self.folder, self.seeds)


def main(names: Sequence[str], plan: Plan) -> None:
  """Run suites, each by its name or a file that defines it, and exit with code 1 if a run failed."""
  names = [own_suites.add(name, plan.budget) if own_suites.is_file(name) else name for name in names]
  if 'all' in names:  # Take the suites that have any of the variants. If none has, the check below reports it.
    names = [name for name in suites.SUITES if plan.variants_of(name)] or list(suites.SUITES)
  names = list(dict.fromkeys(names))
  for number in SIGNALS:
    signal.signal(number, _interrupt)
  failed = 0
  with contextlib.ExitStack() as stack, Jobs(plan.jobs) as jobs:  # Results stay locked until all jobs have ended.
    try:
      _check(names, plan)
      for text in planning.texts_of(run for name in names for run in missing(name, plan)):
        texts.write(text, plan.folder)
      for name in names:
        stack.enter_context(results_file.kept(plan.path(name)))
      progress = Progress([run for name in names for run in missing(name, plan)], plan.jobs)
      for name in names:
        failed += run_suite(name, plan, progress, jobs)
        page.write(plan.out)
    except Interrupted:
      print('stopping; what is being trained is saved first', file=sys.stderr, flush=True)
      sys.exit('stopped; run the same command to go on')
  print(f'\nreport: {plan.out / page.FILE}')
  if failed:
    print(f'{failed} run(s) failed; see above', file=sys.stderr)
    sys.exit(1)


def _check(names: Sequence[str], plan: Plan) -> None:
  """Raise InputError before the work for anything that would keep results from being written."""
  if not names:
    raise InputError(f'--suite is empty; choose from {", ".join(suites.SUITES)}, or all')
  if unknown := set(names) - set(suites.SUITES):
    raise InputError(
      f'unknown suite {_listed(unknown)}; choose from {", ".join(suites.SUITES)}, or all, or give a file that ends '
      f'in {own_suites.SUFFIX}'
    )
  known = {variant: None for name in names for variant in suites.SUITES[name].variants}
  if unknown := set(plan.variants) - set(known):
    raise InputError(f'no suite of these has a variant {_listed(unknown)}; choose from {", ".join(known)}')
  if without := [name for name in names if not plan.variants_of(name)]:
    raise InputError(f'none of the --variants is of suite {_listed(without)}; leave it out')
  for path in (plan.out, plan.folder):
    try:
      path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise InputError(f'cannot make folder {path}: {error.strerror}; choose another') from error
  files.check_writable(plan.out / page.FILE)
  for name in names:
    files.check_writable(plan.path(name))
  for name in suites.SUITES:  # The report also shows the results of other suites.
    results_file.read(plan.path(name), plan.budget)
  other_programs.rows(plan.out)
  for name in names:  # Most errors of verdicts show without a single row.
    judgement.judge_suite(name, standing(name, plan)[0])


def _listed(names: Iterable[str]) -> str:
  return ', '.join(sorted(repr(name) for name in names))


def standing(name: str, plan: Plan) -> tuple[results_file.Rows, results_file.Rows, int]:
  """Return a suite's results of the current settings, its failures, and the number of results of other settings."""
  suite = suites.SUITES[name]
  rows, failures = results_file.read(plan.path(name), plan.budget)
  most = max([row['seed'] + 1 for row in rows], default=0)
  current = {
    (run.variant, run.seed): run.digest
    for run in planning.runs_of(name, list(suite.variants), plan.budget, plan.folder, most)
  }
  good = [
    row
    for row in rows
    if current.get((row['variant'], row['seed'])) == row['digest'] and holds(row, suite, row['variant'])
  ]
  return good, [failure for failure in failures if failure['variant'] in suite.variants], len(rows) - len(good)


def holds(row: dict[str, Any], suite: suites.Suite, variant: str) -> bool:
  """Return whether a row has all measures of a suite's variant, whole, with the loss under the suite's routing."""
  if not set(suite.measures) <= set(row['measures']) or row.get('evaluated') != suite.evaluated.get(variant):
    return False
  return all(is_whole(row[name]) for name, is_whole in measure.WHOLE.items() if name in suite.measures)


def missing(name: str, plan: Plan) -> list[Run]:
  """List the runs of a suite that have no result yet in any suite there."""
  known, others = {row['digest'] for row in standing(name, plan)[0]}, rows_of_others(name, plan)
  return [run for run in plan.runs(name) if run.digest not in known and not measured_elsewhere(run, others)]


def rows_of_others(name: str, plan: Plan) -> list[tuple[pathlib.Path, dict[str, Any]]]:
  """List results of other suites there with the same budget, each with its file."""
  found = [
    (path, results_file.read_whole(path))
    for other in suites.SUITES
    if other != name and (path := plan.path(other)).exists()
  ]
  return [(path, row) for path, results in found if results['budget'] == plan.budget for row in results['rows']]


def measured_elsewhere(
  run: Run, others: Sequence[tuple[pathlib.Path, dict[str, Any]]]
) -> tuple[pathlib.Path, dict[str, Any]] | None:
  """Find the row of the same run in `rows_of_others`, if it has all measures of the run's suite; its file comes first.

  The versions of Python and packages must equal the current ones. The machine may differ, and the row names it.
  """
  ours = suites.SUITES[run.suite]
  spared = {measure for suite in suites.SUITES.values() for measure in suite.measures} - set(ours.measures)
  for path, row in others:
    if row['digest'] == run.digest and row['versions'] == workdirs.read_versions() and holds(row, ours, run.variant):
      return path, {key: value for key, value in row.items() if key not in spared}
  return None


def run_suite(name: str, plan: Plan, progress: Progress, jobs: Jobs) -> int:
  """Run the missing runs of a suite, write its results, and return the number of runs that failed."""
  path, measures = plan.path(name), list(suites.SUITES[name].measures)
  rows, failures, stale = standing(name, plan)
  if stale:
    print(f'{name}: {stale} result(s) in {path} are of other settings or measures, and are dropped', flush=True)
  failed, waiting = 0, {}
  for run in sort_runs(plan.runs(name), plan.jobs):
    failures = [failure for failure in failures if (failure['variant'], failure['seed']) != (run.variant, run.seed)]
    if known := [row for row in rows if row['digest'] == run.digest]:
      say(f'{run}: stands in {path}, made at commit {known[0]["commit"]}')
    else:
      waiting[jobs.submit(result_of, run, plan, progress, jobs)] = run
  results_file.write(path, plan.budget, rows, failures, plan.variants_of(name))
  for future in concurrent.futures.as_completed(waiting):
    run = waiting[future]
    try:
      rows.append(
        {
          **future.result(),
          'variant': run.variant,
          'seed': run.seed,
          'digest': run.digest,
          'measures': measures,
          'settings': run.portable,
        }
      )
    except (RunFailed, OSError, ValueError, LookupError) as error:
      reason = str(error) if isinstance(error, RunFailed) else repr(error)
      failures.append({'variant': run.variant, 'seed': run.seed, 'reason': reason})
      failed += 1
      progress.done(run, reason)
    else:
      progress.done(run)
    results_file.write(path, plan.budget, rows, failures, plan.variants_of(name))
  print(judgement.table(name, rows), flush=True)
  return failed


def result_of(run: Run, plan: Plan, progress: Progress, jobs: Jobs) -> dict[str, Any]:
  """Train a run to its end, or resume it, and measure it, unless another suite has its result."""
  if found := measured_elsewhere(run, rows_of_others(run.suite, plan)):
    say(f'{run}: taken from {found[0]}, made at commit {found[1]["commit"]}')
    return found[1]
  train(run, progress, jobs)
  suite, measured = suites.SUITES[run.suite], run.beside(f'.{run.suite}.json')
  call(
    [
      sys.executable,
      '-m',
      'experiments.measures.measure',
      f'--workdir={run.workdir}',
      f'--measures={",".join(suite.measures)}',
      f'--json={measured}',
      *([f'--partner={run.partner.workdir}'] if run.partner else []),
    ],
    run,
    progress,
    jobs,
  )
  described, row = workdirs.read_run(run.workdir), json.loads(measured.read_text())
  if routing := suite.evaluated.get(run.variant):
    loss = row['routings'][routing]
    row |= {'evaluated': routing, 'loss': loss, 'perplexity': math.exp(loss)}
  return {**row, **describe_sessions(described['sessions'])}


if __name__ == '__main__':
  _SUITE = flags.DEFINE_list(
    'suite',
    None,
    'Suites to run, separated by commas: files that define one, or "all", or of ' + ', '.join(suites.SUITES),
    required=True,
  )
  _BUDGET = flags.DEFINE_enum('budget', 'small', list(suites.BUDGETS), 'Amount of training.')
  _OUT = flags.DEFINE_string('out', 'results', 'Folder for SUITE.json and report.html of a single budget.')
  _WORKDIRS = flags.DEFINE_string('workdirs', 'runs/experiments', 'Folder for the runs.')
  _SEEDS = flags.DEFINE_integer('seeds', None, 'Number of seeds, from 0; by default that of the budget.', lower_bound=1)
  _VARIANTS = flags.DEFINE_list(
    'variants', [], 'Only these variants, separated by commas; by default all that the budget allows.'
  )
  _JOBS = flags.DEFINE_integer(
    'jobs',
    1,
    'Runs at a time. Each has its own share of the cores if there are enough. All share a GPU.',
    lower_bound=1,
  )
  launcher.run_main(
    lambda: main(
      _SUITE.value,
      Plan(
        _BUDGET.value,
        arguments.folder_of(_OUT),
        arguments.folder_of(_WORKDIRS).absolute(),
        _SEEDS.value or suites.BUDGETS[_BUDGET.value].seeds,
        tuple(_VARIANTS.value),
        _JOBS.value,
      ),
    )
  )
