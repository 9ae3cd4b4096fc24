"""The runner of suites: it loses nothing, makes nothing twice, and says what fails."""

import contextlib
import dataclasses
import json
import pathlib
import re
import sys
import time

import pytest
from made_up_rows import rows_of
from test_suites import small_runs

from experiments import run, suites
from experiments.runner import execution, results_file
from experiments.runner.jobs import Jobs
from experiments.runner.progress import Progress
from experiments.suites import judgement
from trix_jax.errors import InputError
from trix_jax.system import files


def test_the_program_that_measures_gets_the_partner(tmp_path, monkeypatch, jobs):
  plan = run.Plan('small', tmp_path, tmp_path / 'runs', 1)
  commands = []

  def call(command, of, *_):
    commands.append(command)
    raise execution.RunFailed('enough')

  monkeypatch.setattr(run, 'train', lambda *_: None)
  monkeypatch.setattr(run, 'call', call)
  for of in small_runs('transfer', tmp_path, 1)[:2]:
    with pytest.raises(execution.RunFailed):
      run.result_of(of, plan, Progress([]), jobs)
  twin = small_runs('transfer', tmp_path, 1)[1].workdir
  assert [[word for word in words if 'partner' in word] for words in commands] == [[f'--partner={twin}'], []]


@pytest.fixture
def jobs():
  with Jobs(1) as one:
    yield one


@pytest.fixture
def runner(tmp_path, monkeypatch):
  """Runs the suite `stability` with trainings that are made up: losses of variants, or exceptions."""
  out = tmp_path / 'out'
  out.mkdir()

  def start(budget, results, **options):
    plan = run.Plan(budget, out, tmp_path / 'runs', **{'seeds': 2, **options})
    calls = []

    def result_of(of, plan, progress, jobs):
      calls.append((of.variant, of.seed))
      if isinstance(results[of.variant], Exception):
        raise results[of.variant]
      [row] = rows_of('stability', {of.variant: [results[of.variant]]})
      return {
        name: value for name, value in row.items() if name not in ('variant', 'seed', 'settings', 'digest', 'measures')
      }

    monkeypatch.setattr(run, 'result_of', result_of)
    with Jobs(plan.jobs) as jobs:
      failed = run.run_suite('stability', plan, Progress(run.missing('stability', plan)), jobs)
    return failed, calls, json.loads((out / 'stability.json').read_text())

  start.folders = (out, tmp_path / 'runs')
  return start


def test_a_suite_goes_on_where_it_was_and_lists_what_failed(runner, capsys, monkeypatch):
  failed, calls, results = runner('small', {'emergent': 1.5, 'learned': execution.RunFailed('exit code 1: no memory')})
  assert failed == 2 and len(calls) == 4
  assert [(row['variant'], row['seed']) for row in results['rows']] == [('emergent', 0), ('emergent', 1)]
  assert results['failures'] == [
    {'variant': 'learned', 'seed': seed, 'reason': 'exit code 1: no memory'} for seed in (0, 1)
  ]
  assert 'FAILED, exit code 1: no memory' in capsys.readouterr().out
  failed, calls, results = runner('small', {'learned': 1.4})
  assert failed == 0 and calls == [('learned', 0), ('learned', 1)] and not results['failures']
  assert [row['loss'] for row in results['rows']] == [1.5, 1.4, 1.5, 1.4]
  assert results['verdicts'] == judgement.judge_suite('stability', results['rows'])
  assert runner('small', {})[1] == []
  # Not only what a program of ours says of itself is a failure of that run.
  failed, calls, results = runner('small', {'emergent': 1.5, 'learned': OSError(28, 'no space')}, seeds=3, jobs=2)
  assert failed == 1 and sorted(calls) == [('emergent', 2), ('learned', 2)]
  assert [failure['reason'] for failure in results['failures']] == ["OSError(28, 'no space')"]
  assert [(row['variant'], row['seed']) for row in results['rows']] == [
    ('emergent', 0),
    ('learned', 0),
    ('emergent', 1),
    ('learned', 1),
    ('emergent', 2),
  ]
  # Figures of other settings are not mixed with these.
  monkeypatch.setitem(suites.BUDGETS['small'].settings, 'model.dropout', 0.2)
  assert len(runner('small', {'emergent': 1.6, 'learned': 1.7})[1]) == 4
  with pytest.raises(InputError, match=r'stability\.json holds results with --budget=small'):
    runner('full', {})


def test_what_another_suite_has_measured_is_not_made_again(tmp_path, monkeypatch, capsys, jobs):
  plan = run.Plan('small', tmp_path, tmp_path / 'runs', 2, ('sparse', 'emergent'))
  [row] = rows_of('option_a', {'sparse': [1.5]})
  [of, other] = plan.runs('four_routings')  # Its routings and specialisation are measured by option_a, with a gate.
  row |= {'digest': of.digest, 'settings': of.portable, 'commit': 'earlier'}
  results_file.write(plan.path('option_a'), 'small', [row], [], ['sparse'])

  def train(of, progress, jobs):
    raise execution.RunFailed(f'{of} is trained')

  monkeypatch.setattr(run, 'train', train)
  assert run.missing('four_routings', plan) == [other]
  assert run.run_suite('four_routings', plan, Progress([other]), jobs) == 1
  assert f'seed 0: taken from {tmp_path / "option_a.json"}, made at commit earlier' in capsys.readouterr().out
  written = json.loads(plan.path('four_routings').read_text())
  [failure], [taken] = written['failures'], written['rows']
  assert failure['reason'] == f'{other} is trained'
  assert (taken['variant'], taken['seed'], taken['loss'], taken['commit']) == ('emergent', 0, 1.5, 'earlier')
  assert {'routings', 'specialisation'} <= taken.keys() and not {'fitted_gate', 'stability'} & taken.keys()
  # One that has measured less does not do, nor one of other versions, nor one whose loss is that of another routing.
  row['measures'] = ['specialisation']
  results_file.write(plan.path('option_a'), 'small', [row], [], ['sparse'])
  plan.path('four_routings').unlink()
  assert len(run.missing('four_routings', plan)) == 2
  row['measures'] = ['routings', 'specialisation']
  results_file.write(plan.path('option_a'), 'small', [row], [], ['sparse'])
  assert run.missing('four_routings', plan) == [other]
  for wrong in ({'evaluated': 'dense'}, {'versions': {**row['versions'], 'jax': '0.1'}}):
    results_file.write(plan.path('option_a'), 'small', [{**row, **wrong}], [], ['sparse'])
    assert len(run.missing('four_routings', plan)) == 2
  results_file.write(plan.path('option_a'), 'full', [row], [], ['sparse'])
  assert len(run.missing('four_routings', plan)) == 2


def test_a_call_may_keep_to_some_variants_and_the_command_says_so(runner, capsys):
  _, calls, results = runner('recipe', {'emergent': 1.5, 'learned': 1.4}, variants=('learned',))
  assert calls == [('learned', 0), ('learned', 1)]
  assert results['command'].endswith('--suite=stability --budget=recipe --seeds=2 --variants=learned')
  assert re.findall(r'^\[(./.),.*done', capsys.readouterr().out, re.MULTILINE) == ['1/2', '2/2']
  _, calls, results = runner('recipe', {'emergent': 1.5}, seeds=1)
  assert calls == [('emergent', 0)] and len(results['rows']) == 3
  suite = 'python -m experiments.run --suite=stability --budget=recipe --seeds='
  assert results['command'] == f'{suite}1 && {suite}2 --variants=learned'
  # Results that stand are not among those to come.
  assert [of.variant for of in run.missing('stability', run.Plan('recipe', *runner.folders, seeds=2))] == ['emergent']


def test_what_cannot_be_run_is_said_before_anything_is(tmp_path):
  plan = run.Plan('small', tmp_path / 'out', tmp_path / 'runs', 1)
  with pytest.raises(InputError, match="unknown suite 'tiles'; choose from four_routings, "):
    run.main(['tiles'], plan)
  with pytest.raises(InputError, match='--suite is empty; choose from four_routings, '):
    run.main([], plan)
  with pytest.raises(InputError, match="no suite of these has a variant 'hash'; choose from emergent, learned"):
    run.main(['stability'], dataclasses.replace(plan, variants=('learned', 'hash')))
  with pytest.raises(InputError, match="none of the --variants is of suite 'shape'; leave it out"):
    run.main(['stability', 'shape'], dataclasses.replace(plan, variants=('learned',)))
  plan.out.mkdir()
  with results_file.kept(plan.path('stability')), pytest.raises(InputError, match='another program is writing'):
    run.main(['stability'], plan)
  (plan.out / 'width.json').write_text('[]')
  with pytest.raises(InputError, match=r'width\.json holds no results'):  # The report shows it as well.
    run.main(['stability'], plan)
  results_file.write(plan.path('width'), 'smoke', [], [], [])
  with pytest.raises(InputError, match=r'width\.json holds results with --budget=smoke'):
    run.main(['stability'], plan)


def test_all_suites_are_those_that_have_any_of_the_variants(tmp_path, monkeypatch):
  ran = []
  monkeypatch.setattr(run, 'run_suite', lambda name, *_: ran.append(name) or 0)
  monkeypatch.setattr(run.page, 'write', lambda _: None)
  monkeypatch.setattr(run.signal, 'signal', lambda *_: None)
  plan = run.Plan('small', tmp_path / 'out', tmp_path / 'runs', 1, ('hash', '8_top_2'))
  run.main(['all', 'controls'], plan)
  assert ran == ['tile_count', 'controls', 'recipe']
  with pytest.raises(InputError, match="no suite of these has a variant 'hsah'"):
    run.main(['all'], dataclasses.replace(plan, variants=('hsah',)))


@pytest.mark.parametrize(
  'where, key, value, said',
  [
    ('rows', 'machine', None, r"'machine' of rows\[1\] is a NoneType"),
    ('rows', 'curves', ..., r"rows\[1\] has no 'curves'"),
    ('rows', 'loss', 'low', r"'loss' of rows\[1\] is a str"),
    ('rows', 'stability', ..., r"rows\[1\] has no 'stability'"),
    ('rows', 'seed', 0, 'emergent with seed 0 is there twice'),
    ('failures', 'reason', ..., r"failures\[0\] has no 'reason'"),
  ],
)
def test_damaged_results_are_refused_by_what_they_lack(tmp_path, where, key, value, said):
  path = tmp_path / 'stability.json'
  failure = {'variant': 'learned', 'seed': 0, 'reason': 'exit code 1'}
  results_file.write(path, 'small', rows_of('stability', {'emergent': [1.5, 1.6]}), [failure], ['emergent'])
  results = results_file.read_whole(path)
  row = results[where][-1]
  row[key] = value
  if value is ...:
    del row[key]
  path.write_text(json.dumps(results))
  with pytest.raises(InputError, match=rf'stability\.json holds no results of a suite \({said}\); move it away'):
    results_file.read_whole(path)


def test_a_run_that_went_on_elsewhere_has_both_machines():
  first = {'commit': 'a', 'machine': {'processor': 'A', 'cores': 2}, 'versions': {'jax': '0.10'}}
  assert execution.describe_sessions([first, first]) == first
  second = {'commit': 'b', 'machine': {'processor': 'B', 'cores': 2, 'device': 'GPU'}, 'versions': {'jax': '0.11'}}
  assert execution.describe_sessions([first, second]) == {
    'commit': 'a, b',
    'machine': {'processor': 'A, then B', 'cores': 2, 'device': 'GPU'},
    'versions': {'jax': '0.10, then 0.11'},
  }


def test_the_time_left_is_that_of_trainings_that_are_left(tmp_path, monkeypatch):
  runs = small_runs('data_efficiency', tmp_path)[:4] + small_runs('width', tmp_path)[:1]
  progress = Progress(runs)
  assert str(progress) == '[1/5, -:-- left]'
  seconds = iter([100.0, 700.0])
  monkeypatch.setattr(time, 'monotonic', lambda: next(seconds))
  with progress.timed(runs[0]):
    pass
  progress.done(runs[0])
  # Ten minutes for an eighth of the steps: of 1/8 + 1/4 + 1/4 + 1 thirteen eighths are left.
  assert str(progress) == '[2/5, 2:10 left]'
  seconds = iter([0.0, 600.0, 0.0, 600.0, 0.0, 1200.0, 0.0, 1200.0])
  progress = Progress(runs, 2)
  for of in runs[:4]:
    with progress.timed(of):
      pass
    progress.done(of)
    if of == runs[1]:
      assert str(progress) == '[3/5, 1:00 left]'
  # Of the last one there is no second job to take a half.
  assert str(progress) == '[5/5, 1:20 left]'


@pytest.mark.parametrize('signal_of', run.SIGNALS)
def test_a_stop_is_said_in_a_line_however_often_it_is_asked_for(tmp_path, monkeypatch, signal_of):
  monkeypatch.setattr(run, 'run_suite', lambda *_: run.signal.raise_signal(signal_of))

  def stop(of):
    run.signal.raise_signal(signal_of)  # While what runs is being saved.
    stopped.append(of)
    stop_all(of)

  stopped, stop_all = [], Jobs.stop
  monkeypatch.setattr(Jobs, 'stop', stop)
  before = {number: run.signal.getsignal(number) for number in run.SIGNALS}
  try:
    with pytest.raises(SystemExit, match='stopped; run the same command to go on'):
      run.main(['stability'], run.Plan('small', tmp_path / 'out', tmp_path / 'runs', 1, jobs=2))
  finally:
    for number, handler in before.items():
      run.signal.signal(number, handler)
  assert stopped


def test_no_job_waits_for_what_another_one_trains(tmp_path):
  runs = small_runs('remedies', tmp_path, 2)
  assert execution.sort_runs(runs, 1) == runs
  ordered = [(of.variant, of.seed) for of in execution.sort_runs(runs, 3)]
  assert ordered[:4] == [('dense', 0), ('dense', 1), ('sparse', 0), ('sparse_twice', 0)]
  assert [of for of, _ in ordered[-4:]] == ['continued', 'distilled', 'continued_distilled', 'gradual']


def test_a_run_that_another_program_trains_is_waited_for(tmp_path, monkeypatch, capsys, jobs):
  of = small_runs('stability', tmp_path)[0]
  of.workdir.mkdir(parents=True)
  monkeypatch.setattr(execution, 'EVERY', 0.01)
  # In use the first time that it is tried.
  program = (
    'import pathlib, sys; from trix_jax import errors; tried = pathlib.Path(sys.argv[1]); '
    'was = tried.exists(); tried.touch(); sys.exit(0 if was else errors.WorkdirInUse.exit_code)'
  )
  execution.call([sys.executable, '-c', program, str(tmp_path / 'tried')], of, Progress([]), jobs)
  assert 'stability/emergent, seed 0: being trained by another program, waiting for it' in capsys.readouterr().out


def test_what_needs_a_failed_run_fails_too_and_what_is_finished_is_not_trained_again(tmp_path, monkeypatch, jobs):
  runs = {of.variant: of for of in small_runs('remedies', tmp_path)}
  calls = []

  def call(command, of, progress, jobs, done=None):
    calls.append(of.variant)
    if of.variant == 'dense' and len(calls) == 1:
      raise execution.RunFailed('exit code 1: no memory')
    (of.workdir / 'checkpoints' / 'last' / str(of.settings['training.steps'])).mkdir(parents=True)

  monkeypatch.setattr(execution, 'call', call)
  with pytest.raises(
    execution.RunFailed, match='remedies/dense, seed 0 failed, which it needs: exit code 1: no memory'
  ):
    execution.train(runs['continued'], Progress([]), jobs)
  assert calls == ['dense']
  execution.train(runs['continued'], Progress([]), jobs)
  execution.train(runs['continued'], Progress([]), jobs)
  assert calls == ['dense', 'dense', 'continued']


def test_what_goes_on_from_a_carve_is_carved_first_and_once(tmp_path, monkeypatch, jobs):
  of = next(of for of in small_runs('carve_on', tmp_path) if of.variant == '128_carved')
  calls = []

  def call(command, of, progress, jobs, done=None):
    calls.append(command[1:3] if command[1] == '-m' else of.variant)
    if command[1] == '-m':
      flags = dict(flag[2:].split('=') for flag in command[3:])
      assert flags == {'workdir': str(of.needs[0].workdir), 'tiles': '128', 'top_k': '32', 'out': start}
      pathlib.Path(start).mkdir()
      raise execution.RunFailed('no power')
    (of.workdir / 'checkpoints' / 'last' / str(of.settings['training.steps'])).mkdir(parents=True)

  start = of.settings['training.start_from']
  assert of.portable['training.start_from'] == f'{of.needs[0].digest}_carved_128_32'
  monkeypatch.setattr(execution, 'call', call)
  with pytest.raises(execution.RunFailed, match='no power'):
    execution.train(of, Progress([]), jobs)
  execution.train(of, Progress([]), jobs)
  assert calls == ['nine_tenths', ['-m', 'trix_jax.carve'], '128_carved']


def test_a_carve_that_another_job_makes_is_waited_for(tmp_path, monkeypatch, jobs):
  of = next(of for of in small_runs('carve_on', tmp_path) if of.variant == '128_carved')
  carve = of.carves[0]
  carve.out.parent.mkdir(parents=True)
  called, slept = [], []
  other = contextlib.ExitStack()
  other.enter_context(files.hold_lock(carve.out.with_name(f'.{carve.out.name}.lock'), InputError('')))

  def sleep(seconds):
    slept.append(seconds)
    assert not called
    if len(slept) == 2:
      carve.out.mkdir()
      other.close()

  monkeypatch.setattr(jobs, 'sleep', sleep)
  monkeypatch.setattr(execution, 'call', lambda *of: called.append(of))
  execution._carve(carve, of, Progress([]), jobs)
  assert slept == [execution.EVERY] * 2 and not called
  carve.out.rmdir()
  monkeypatch.setattr(execution, 'call', lambda *of: carve.out.mkdir())
  execution._carve(carve, of, Progress([]), jobs)
  assert carve.out.is_dir() and len(slept) == 2


def test_a_program_that_fails_is_named_by_its_last_line(tmp_path, jobs):
  of = small_runs('stability', tmp_path)[0]
  of.workdir.parent.mkdir(parents=True)
  execution.call([sys.executable, '-c', 'print("fine")'], of, Progress([]), jobs)
  with pytest.raises(execution.RunFailed, match='exit code 3: it broke'):
    execution.call([sys.executable, '-c', 'print("it broke\\n"); raise SystemExit(3)'], of, Progress([]), jobs)
  assert of.beside('.log').read_text() == 'fine\nit broke\n\n'
  program = 'import os, signal; print("fine", flush=True); os.kill(os.getpid(), signal.SIGKILL)'
  with pytest.raises(execution.RunFailed, match='killed by signal 9, which the system sends where memory runs out'):
    execution.call([sys.executable, '-c', program], of, Progress([]), jobs)
