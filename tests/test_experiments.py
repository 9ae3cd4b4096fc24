"""The suites: tables that can be run, a runner that loses nothing, and what it measures."""

import dataclasses
import json
import pathlib
import re
import runpy
import sys
import time

import numpy as np
import pytest
from made_up_rows import rows_of

from experiments import run, suites, texts
from experiments.findings import measure
from experiments.runner import execution, planning, results_file
from experiments.runner.jobs import Jobs
from experiments.runner.progress import Progress
from experiments.suites import frozen_recipe, judgement
from experiments.texts import patterns
from trix_jax import configuration
from trix_jax.errors import InputError
from trix_jax.runs import checkpoints
from trix_jax.training import loop


@pytest.mark.parametrize('name', suites.SUITES)
def test_every_run_of_every_suite_has_a_config_that_can_be(name, tmp_path):
  suite = suites.SUITES[name]
  assert set(suite.against) | set(suite.evaluated) <= set(suite.variants)
  assert {suite.baseline(variant) for variant in suite.variants} - {None} <= set(suite.variants)
  for budget in suites.BUDGETS:
    for of in planning.runs_of(name, list(suite.variants), budget, tmp_path, 2):
      default = configuration.default_config()
      for path, value in of.settings.items():
        section, _, key = path.rpartition('.')
        assert type((default[section] if section else default)[key]) is type(value), path
      configuration.parse(planning.config_of(of.settings))


def test_the_budget_of_the_recipe_is_the_recipe(tmp_path):
  [of] = planning.runs_of('recipe', ['recipe'], 'recipe', tmp_path, 1)
  config = frozen_recipe.get_config()
  config.sample_length, config.training.keep_checkpoints = 0, of.settings['training.keep_checkpoints']
  assert planning.config_of(of.settings) == config


def test_what_is_given_in_parts_is_a_part_of_what_the_budget_has(tmp_path):
  runs = {of.variant: of.settings for of in small_runs('recipe', tmp_path)}
  assert [
    (runs[name]['training.batch_size'], runs[name]['training.steps'])
    for name in ('recipe', 'double_batch', 'twice_as_long')
  ] == [(16, 1200), (32, 600), (16, 2400)]


def test_a_run_is_measured_with_one_of_its_seed_that_differs_in_its_draws(tmp_path):
  runs = {of.variant: of for of in small_runs('transfer', tmp_path, 1)}
  for variant, partner in suites.SUITES['transfer'].partners.items():
    ours, theirs = runs[variant], runs[partner]
    assert ours.partner == theirs and theirs in ours.needs and theirs.partner is None
    assert ours.settings == {**theirs.settings, 'seed': ours.settings['seed']}
    assert theirs.settings['seed'] == ours.settings['seed'] + 100
  assert runs['branch'].needs[0] == runs['twin_branch'].needs[0] == runs['trunk']
  # The other run is the one of the suite `address`, which is trained once.
  [of] = planning.runs_of('address', ['16_stream'], 'small', tmp_path, 1)
  assert of.digest == runs['emergent'].digest


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


def test_a_budget_does_not_train_what_it_has_already_under_another_name():
  def dropouts(budget):
    return [name for name in suites.variants_of(suites.SUITES['recipe'], suites.BUDGETS[budget]) if 'dropout' in name]

  assert dropouts('small') == ['no_dropout', 'dropout_0.05', 'dropout_0.2']
  assert dropouts('recipe') == ['dropout_0.05', 'dropout_0.1', 'dropout_0.2']


@pytest.mark.parametrize('budget', ['small', 'full'])
def test_variants_that_are_compared_have_seen_as_much_text(budget, tmp_path):
  def text(of):
    own = of.settings['training.steps'] * of.settings['training.batch_size']
    return own + sum(
      text(needed) for needed in of.needs if str(needed.workdir) == of.settings.get('training.start_from')
    )

  for name, suite in suites.SUITES.items():
    runs = {of.variant: of for of in planning.runs_of(name, list(suite.variants), budget, tmp_path, 1)}
    for variant, of in runs.items():
      if baseline := suite.baseline(variant):
        assert text(of) == text(runs[baseline]), (name, variant, baseline)


def small_runs(name, folder, seeds=1):
  return planning.runs_of(name, list(suites.SUITES[name].variants), 'small', folder, seeds)


def test_equal_runs_are_one_run_wherever_they_are_made(tmp_path):
  runs = small_runs('remedies', tmp_path / 'here', 2)
  names = [(of.variant, of.seed) for of in runs]
  assert len(set(names)) == len({of.digest for of in runs}) == len(names) == 2 * len(suites.SUITES['remedies'].variants)
  for of in runs:
    settings = {of.settings.get(name) for name in ('training.start_from', 'loss.teacher')} - {None}
    assert settings == {str(needed.workdir) for needed in of.needs} and len(of.needs) <= 1
    assert all((needed.variant, needed.seed) == ('dense', of.seed) for needed in of.needs)
    # Otherwise what goes on would see the same windows again.
    assert (
      all(needed.settings['seed'] != of.settings['seed'] for needed in of.needs)
      == bool(of.settings.get('training.start_from'))
      or not of.needs
    )
  elsewhere = small_runs('remedies', tmp_path / 'there', 2)
  assert [(of.portable, of.digest) for of in elsewhere] == [(of.portable, of.digest) for of in runs]
  by_name = {
    (of.suite, of.variant): of.digest
    for name in ('remedies', 'option_a', 'four_routings')
    for of in small_runs(name, tmp_path)
  }
  assert by_name['option_a', 'dense'] == by_name['remedies', 'dense'] == by_name['four_routings', 'dense']
  assert by_name['option_a', 'sparse'] == by_name['four_routings', 'emergent'] != by_name['option_a', 'dense']


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


def test_chance_is_what_unrelated_classes_and_tiles_give():
  rng = np.random.default_rng(0)
  classes, tiles = rng.choice(5, 20_000, p=[0.5, 0.2, 0.2, 0.1, 0]), rng.choice(4, 20_000)

  def table(classes):
    counts = np.zeros((5, 4), int)
    np.add.at(counts, (classes, tiles), 1)
    return counts

  null = measure.null_information(table(classes))
  shuffled = [measure.classes.normalised_mutual_information(table(rng.permutation(classes))) for _ in range(200)]
  assert null['mean'] == pytest.approx(np.mean(shuffled), rel=0.15)
  assert null['mean'] < null['most'] < 0.01


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


def test_what_cannot_be_measured_is_said_before_anything_is(tmp_path):
  with pytest.raises(InputError, match="unknown measure 'speed'; choose from routings, "):
    measure.main(tmp_path, ['routings', 'speed'], tmp_path / 'measured.json')
  with pytest.raises(InputError, match=r'cannot write .*nowhere'):
    measure.main(tmp_path, ['routings'], tmp_path / 'nowhere' / 'measured.json')


@pytest.mark.slow
def test_every_measure_of_a_small_run(tmp_path):
  texts.write(texts.PATTERNS, tmp_path)
  config = configuration.default_config()
  config.model.update({'layers': 2, 'd_model': 16, 'heads': 2, 'd_ff': 32, 'context': 64})
  config.training.update(
    {'steps': 4, 'batch_size': 2, 'log_every': 1, 'eval_every': 2, 'checkpoint_every': 2, 'keep_checkpoints': 9}
  )
  config.update({'corpus': 'file', 'file': str(tmp_path / 'patterns.txt'), 'sample_length': 0})
  loop.train(config, tmp_path / 'run')
  # A model with tiles that were trained is not carved, and `test_edits_suite` edits one.
  names = [name for name in measure.MEASURES if name not in ('carved', 'edited')]
  result = json.loads(json.dumps(measure.of_run(tmp_path / 'run', names, tmp_path / 'run')))
  trained = checkpoints.load_trained(tmp_path / 'run', 'best')
  validation = trained.corpus().validation
  assert result['loss'] == pytest.approx(trained.validation_loss) and result['routings']['emergent'] == pytest.approx(
    result['loss'], rel=1e-6
  )
  assert result['tokens'] == result['tokens_of_run'] == 4 * 2 * 64
  # The passage is the validation text, and each layer's tiles are those that its characters go to.
  text = ''.join(trained.vocabulary[token] for token in validation)
  assert text.startswith(result['passage']['text']) and len(result['passage']['text']) == measure.PASSAGE
  tile_YNK = measure.chosen_tiles(trained, validation)
  np.testing.assert_array_equal(result['passage']['tiles'], tile_YNK[:, : measure.PASSAGE, 0])
  # Every character of the whole windows counts once, under the kind of its own line.
  kinds = patterns.kinds()[-len(validation) :]
  assert patterns.text().endswith(text)
  for layer in (0, 1):
    counts = np.array(result['patterns']['counts'][layer])
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(kinds[: tile_YNK.shape[1]], minlength=6))
    np.testing.assert_array_equal(
      counts[2], np.bincount(tile_YNK[layer, kinds[: tile_YNK.shape[1]] == 2, 0], minlength=4)
    )
  [pair] = result['stability']
  assert (pair['from'], pair['to']) == (2, 4) and all(0 <= changed < 1 for changed in pair['changed'])
  assert np.shape(result['signatures']) == (2, 4, 16) and result['fitted_gate'] > 0
  # A model stands in for itself at no loss, and its routing takes the best tile as often as its table says.
  assert [of['pairs']['plain_signatures']['matched'] for of in result['stand_ins']] == pytest.approx([0, 0], abs=1e-5)
  for of in result['best_tiles']:
    assert of['ways']['routed']['loss'] == pytest.approx(of['routed'], rel=1e-4)
    assert of['oracle'] <= min(way['loss'] for way in of['ways'].values())
  assert [len(of['removed']) for of in result['readings']['tiles']] == [4, 4]


STORED = [
  (results, row)
  for path in sorted((pathlib.Path(__file__).parents[1] / 'results').rglob('*.json'))
  if isinstance(results := json.loads(path.read_text()), dict) and 'rows' in results and 'suite' in results
  for row in results['rows']
]


def test_every_stored_result_has_the_digest_of_its_run(tmp_path):
  assert len(STORED) >= 466
  for results, row in STORED:
    of = planning.run_of(results['suite'], row['variant'], results['budget'], tmp_path, row['seed'])
    assert of.digest == row['digest'], of


def test_a_later_setting_counts_where_it_differs_from_what_runs_did_before(monkeypatch):
  config = frozen_recipe.get_config()
  digest = frozen_recipe.digest_of(config)
  with config.unlocked():
    config.loss.later = 2
  assert frozen_recipe.digest_of(config) != digest
  later = {**configuration.later_settings(), 'loss.later': 2}
  monkeypatch.setattr(configuration, 'later_settings', lambda: later)
  assert frozen_recipe.digest_of(config) == digest
  config.loss.later = 3
  assert frozen_recipe.digest_of(config) != digest


def test_a_later_setting_of_no_section_or_of_a_new_one_keeps_digests_too(monkeypatch):
  config = frozen_recipe.get_config()
  digest = frozen_recipe.digest_of(config)
  with config.unlocked():
    config.later, config.section = 2, {'setting': 3}
  later = {**configuration.later_settings(), 'later': 2, 'section.setting': 3}
  monkeypatch.setattr(configuration, 'later_settings', lambda: later)
  assert frozen_recipe.digest_of(config) == digest


def test_every_setting_says_what_runs_before_it_did_unless_the_frozen_recipe_has_it():
  names = set(configuration.name_settings(configuration.default_config().to_dict()))
  assert names - frozen_recipe.frozen_names() <= set(configuration.later_settings())


def test_suites_keep_their_recipe_when_defaults_change(monkeypatch):
  digest = frozen_recipe.digest_of(frozen_recipe.get_config())
  defaults = configuration.default_config()
  defaults.training.steps = 7
  defaults.loss.distillation_weight = 0.25
  monkeypatch.setattr(configuration, 'default_config', defaults.copy_and_resolve_references)
  changed = runpy.run_path(suites.CONFIG)['get_config']()  # As train.py loads it.
  assert changed.training.steps == 2400 and frozen_recipe.digest_of(changed) == digest
