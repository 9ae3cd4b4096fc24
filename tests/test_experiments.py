"""The suites: tables that can be run, verdicts that follow from figures, and a runner that loses nothing."""

import dataclasses
import json
import math
import pathlib
import re
import sys

import numpy as np
import pytest

from experiments import (
  elsewhere,
  estimates,
  figures,
  measure,
  overview,
  patterns,
  planning,
  report,
  run,
  stored,
  suites,
  verdicts,
)
from trix_jax import checkpoints, configuration, trainer, workdirs
from trix_jax.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent


def test_intervals_are_those_of_student():
  # By hand for 1, 2, 3: the standard deviation is 1, and t of two degrees of freedom at 97.5 % is 4.3027.
  of = estimates.estimate([1.0, 2.0, 3.0])
  assert (of.mean, of.std, of.seeds) == (2, 1, 3)
  assert of.half_width == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
  assert str(of) == '2.0000 ± 2.4841' and of.low == of.mean - of.half_width
  one = estimates.estimate([0.5])
  assert str(one) == '0.5000 (one seed)' and math.isinf(one.half_width)
  assert one.text(1, ' %', 100, sign=True) == '+50.0 % (one seed)'
  with pytest.raises(ValueError, match='no values'):
    estimates.estimate([])


def test_differences_are_paired_by_seed():
  rows = [{'variant': name, 'seed': seed, 'loss': loss} for name, of in (
      ('a', {0: 1.0, 1: 2.0, 2: 9.0}), ('b', {0: 1.5, 1: 2.25})) for seed, loss in of.items()]
  gap = estimates.gap(estimates.losses(rows, 'b'), estimates.losses(rows, 'a'))
  assert gap.mean == pytest.approx(0.375) and gap.seeds == 2
  assert estimates.gap(estimates.losses(rows, 'b'), {}) is None


@pytest.mark.parametrize('losses, baseline, want', [
    ([1.00, 1.01, 1.02], [1.10, 1.11, 1.12], 'better'), ([1.10, 1.11, 1.12], [1.00, 1.01, 1.02], 'worse'),
    ([1.0, 1.2, 1.1], [1.1, 1.0, 1.15], 'undecided'), ([1.0], [2.0], 'undecided')])
def test_a_difference_counts_when_its_interval_leaves_out_zero(losses, baseline, want):
  rows = [{'variant': name, 'seed': seed, 'loss': loss} for name, of in (('learned', losses), ('emergent', baseline))
          for seed, loss in enumerate(of)]
  [verdict] = verdicts.differences('stability', rows)
  assert verdict['verdict'] == want and verdict['seeds'] == len(losses)


def rows_of(suite, losses, **extra):
  """Rows of variants with these losses, with what reports and verdicts look at."""
  counts = [[[9, 1], [1, 9], [0, 0], [5, 5], [0, 0]]] * 2
  layer = {'counts': counts, 'information': [0.4, 0.3], 'null': [{'mean': 0.01, 'most': 0.05}] * 2}
  return [{
      'variant': variant, 'seed': seed, 'loss': loss, 'dead_tiles': [0, 0], 'tile_load': [[0.6, 0.4]] * 2,
      'tokens': 4_000_000 * (1 + list(suites.SUITES[suite].variants).index(variant)), 'tokens_of_run': 4_000_000,
      'routing_state': 0, 'commit': 'c', 'digest': f'{variant}-{seed}', 'measures': list(suites.SUITES[suite].measures),
      'parameters': {'total': 100, 'routing': 0, 'active_per_token': 50},
      'settings': {'model.d_model': 128, 'training.steps': 10, 'training.batch_size': 16, 'seed': seed},
      'machine': {'processor': 'a', 'cores': 2, 'backend': 'cpu', 'devices': 2}, 'versions': workdirs.versions(),
      'curves': {'validation_loss': [[5, loss + 1], [10, loss]], 'train_loss': [[5, loss], [10, loss]],
                 'diversity': [[5, [0.5, 0.5]], [10, [0.4, 0.2]]],
                 'tile_load': [[5, [[0.5, 0.5]] * 2], [10, [[0.6, 0.4]] * 2]]},
      'specialisation': layer,
      'patterns': {**layer, 'counts': [[[1, 2]] * 6] * 2, 'favourite': [[0, 1, 2, 3, 4, 5], [0] * 6]},
      'routings': {'dense': loss, 'emergent': loss + 2, 'random': loss + 3, 'first': loss + 2.5}, 'fitted_gate': loss,
      'passage': {'text': 'a<b&\nc', 'tiles': [[0, 0, 1, 1, 0, 1], [1] * 6]}, 'signatures': [[[1, -1], [0, 2]]] * 2,
      'stability': [{'from': 5, 'to': 10, 'changed': [0.05, 0.03]}], **extra}
          for variant, of in losses.items() for seed, loss in enumerate(of)]


def verdict_of(suite, rows, words):
  [found] = [verdict for verdict in verdicts.of_suite(suite, rows) if words in verdict['claim']]
  return found


def test_verdicts_follow_the_figures():
  rows = rows_of('four_routings', {'emergent': [1.500, 1.502, 1.504], 'learned': [1.49, 1.491, 1.492],
                                   'random': [1.7, 1.702, 1.704], 'dense': [1.3, 1.302, 1.304]})
  assert verdict_of('four_routings', rows, '5 % of a learned')['verdict'] == 'reproduced'
  assert verdict_of('four_routings', rows, 'better than random')['verdict'] == 'reproduced'
  assert verdict_of('four_routings', rows, 'specialise')['verdict'] == 'reproduced'
  below = {**rows[0]['specialisation'], 'information': [0.4, 0.04]}  # Below chance in one layer.
  rows[0]['specialisation'] = below
  assert verdict_of('four_routings', rows, 'specialise')['verdict'] == 'undecided'
  for row in rows:
    row['specialisation'] = below
  assert verdict_of('four_routings', rows, 'specialise')['verdict'] == 'refuted'
  one = rows_of('four_routings', {'emergent': [1.5], 'learned': [1.49]})
  assert {verdict['verdict'] for verdict in verdicts.of_suite('four_routings', one)} == {'undecided'}

  rows = rows_of('option_a', {'dense': [1.5, 1.51], 'sparse': [1.5, 1.51]})
  assert verdict_of('option_a', rows, 'worse by more than 5 %')['verdict'] == 'reproduced'
  assert verdict_of('option_a', rows, 'better than chance')['verdict'] == 'reproduced'
  # Two of the classes were never seen; of punctuation half go to one tile.
  assert 'letter 90 %, digit 90 %, punctuation 50 %' in verdict_of('option_a', rows, 'specialise')['ours']
  rows = rows_of('option_b', {'sparse': [1.5, 1.51], 'dense': [1.3, 1.302]})
  assert verdict_of('option_b', rows, '2 % of dense')['verdict'] == 'refuted'  # 22 % worse.
  assert verdict_of('option_b', rows, 'falls')['verdict'] == 'reproduced'
  assert verdict_of('option_b', rows, 'falls')['ours'] == '12.24 (50 %), 4.50 (100 %)'
  assert verdict_of('option_b', rows, 'diversity')['ours'].startswith('0.500 (50 %), 0.300 (100 %); at the end 0.3')
  rows[0]['curves'] = {**rows[0]['curves'], 'validation_loss': [[5, 1.4], [10, 1.5]],
                       'tile_load': [[5, [[1.0, 0.0]] * 2], [10, [[0.6, 0.4]] * 2]]}
  assert verdict_of('option_b', rows, 'falls')['verdict'] == 'undecided'  # It rises on one of two seeds.
  # What was early counts as well, and one seed is enough.
  busiest = verdict_of('option_b', rows, 'half of the load')
  assert busiest['ours'] == '100.0 %, 60.0 % by seed' and busiest['verdict'] == 'does not hold'
  rows = rows_of('hierarchy', {'16_top_1': [1.5, 1.51], '16_top_4': [1.5, 1.51], 'no_norm': [1.6, 1.611]})
  assert verdict_of('hierarchy', rows, '16 of 16')['verdict'] == 'reproduced'
  assert verdict_of('hierarchy', rows, 'with no_norm')['verdict'] == 'holds'
  rows[0]['dead_tiles'] = [1, 0]
  assert verdict_of('hierarchy', rows, '16 of 16')['verdict'] == 'undecided'  # On one of two seeds.
  rows[1]['dead_tiles'] = [1, 0]
  assert verdict_of('hierarchy', rows, '16 of 16')['verdict'] == 'refuted'
  rows = rows_of('tile_count', {'4_top_1': [1.5, 1.51], '64_top_16': [1.4, 1.412], '64_top_1': [1.6, 1.611]})
  assert [verdict_of('tile_count', rows, words)['verdict'] for words in ('16 of 64 tiles', 'one of 64')] == [
      'holds', 'does not hold']
  rows = rows_of('width', {'sparse_64': [1.6, 1.601], 'dense_64': [1.5, 1.502], 'sparse_256': [1.41, 1.413],
                           'dense_256': [1.4, 1.402]})
  assert [verdict_of('width', rows, f'with {width} of d_model')['verdict'] for width in (64, 256)] == [
      'does not hold', 'holds']
  change = verdict_of('width', rows, 'costs less with more width')
  assert change['verdict'] == 'holds' and change['ours'].startswith('-0.089')  # 0.0105 less 0.0995.
  rows = rows_of('data_efficiency', {'sparse_0.125': [2.0, 2.1], 'dense_0.125': [2.0, 2.1], 'sparse_1': [1.6, 1.7]})
  assert verdict_of('data_efficiency', rows, 'with 0.125 of the text')['verdict'] == 'holds'
  assert not any('costs less' in verdict['claim'] for verdict in verdicts.of_suite('data_efficiency', rows))
  rows = rows_of('six_patterns', {'8_tiles': [1.0, 1.1]})
  assert verdict_of('six_patterns', rows, 'six')['verdict'] == 'reproduced'
  rows[1]['patterns'] = {**rows[1]['patterns'], 'favourite': [[0, 1, 2, 3, 4, 4], [0] * 6]}
  assert verdict_of('six_patterns', rows, 'six')['verdict'] == 'undecided'  # Six on one seed, five on the other.
  rows[0]['patterns'] = rows[1]['patterns']
  assert verdict_of('six_patterns', rows, 'six')['verdict'] == 'refuted'
  rows = rows_of('stability', {'emergent': [1.0, 1.1]})
  assert verdict_of('stability', rows, 'last two')['verdict'] == 'reproduced'
  assert verdict_of('stability', rows, 'last two')['why'] == '5 steps apart, at the end of the schedule'
  rows = rows_of('controls', {'emergent': [1.50, 1.51], 'one_hot_gate': [1.5, 1.4], 'hash': [1.48, 1.49]})
  assert verdict_of('controls', rows, 'emergent better than hash')['verdict'] == 'does not hold'
  assert verdict_of('controls', rows, 'one_hot_gate better than hash')['verdict'] == 'undecided'
  rows = rows_of('stability', {'emergent': [1.0, 1.1]}, stability=[{'from': 0, 'to': 5, 'changed': [0.3, 0.3]},
                                                                  {'from': 5, 'to': 10, 'changed': [0.0, 0.0]}])
  assert [verdict_of('stability', rows, words)['verdict'] for words in ('emergent: less', 'emergent: the same')] == [
      'reproduced', 'refuted']


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
      configuration.validate(planning.config_of(of.settings))


@pytest.mark.parametrize('budget', ['small', 'full'])
def test_variants_that_are_compared_have_seen_as_much_text(budget, tmp_path):
  def text(of):
    own = of.settings['training.steps'] * of.settings['training.batch_size']
    return own + sum(text(needed) for needed in of.needs if str(needed.workdir) == of.settings.get(
        'training.start_from'))
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
    assert all(needed.settings['seed'] != of.settings['seed'] for needed in of.needs) == bool(
        of.settings.get('training.start_from')) or not of.needs
  elsewhere = small_runs('remedies', tmp_path / 'there', 2)
  assert [of.portable for of in elsewhere] == [of.portable for of in runs]
  by_name = {(of.suite, of.variant): of.digest for name in ('remedies', 'option_a', 'four_routings')
             for of in small_runs(name, tmp_path)}
  assert by_name['option_a', 'dense'] == by_name['remedies', 'dense'] == by_name['four_routings', 'dense']
  assert by_name['option_a', 'sparse'] == by_name['four_routings', 'emergent'] != by_name['option_a', 'dense']


@pytest.fixture
def runner(tmp_path, monkeypatch):
  """Runs the suite `stability` with trainings that are made up: losses of variants, or exceptions."""
  out = tmp_path / 'out'
  out.mkdir()

  def start(budget, results, **options):
    plan = run.Plan(budget, out, tmp_path / 'runs', **{'seeds': 2, **options})
    calls = []
    def result_of(of, plan, progress):
      calls.append((of.variant, of.seed))
      if isinstance(results[of.variant], Exception):
        raise results[of.variant]
      [row] = rows_of('stability', {of.variant: [results[of.variant]]})
      return {name: value for name, value in row.items()
              if name not in ('variant', 'seed', 'settings', 'digest', 'measures')}
    monkeypatch.setattr(run, 'result_of', result_of)
    failed = run.run_suite('stability', plan, run.Progress(run.missing('stability', plan)))
    return failed, calls, json.loads((out / 'stability.json').read_text())

  start.folders = (out, tmp_path / 'runs')
  return start


def test_a_suite_goes_on_where_it_was_and_lists_what_failed(runner, capsys, monkeypatch):
  failed, calls, results = runner('small', {'emergent': 1.5, 'learned': run.RunFailed('exit code 1: no memory')})
  assert failed == 2 and len(calls) == 4
  assert [(row['variant'], row['seed']) for row in results['rows']] == [('emergent', 0), ('emergent', 1)]
  assert results['failures'] == [{'variant': 'learned', 'seed': seed, 'reason': 'exit code 1: no memory'}
                                 for seed in (0, 1)]
  assert 'FAILED, exit code 1: no memory' in capsys.readouterr().out
  failed, calls, results = runner('small', {'learned': 1.4})
  assert failed == 0 and calls == [('learned', 0), ('learned', 1)] and not results['failures']
  assert [row['loss'] for row in results['rows']] == [1.5, 1.4, 1.5, 1.4]
  assert results['verdicts'] == verdicts.of_suite('stability', results['rows'])
  assert runner('small', {})[1] == []
  # Figures of other settings are not mixed with these.
  monkeypatch.setitem(suites.BUDGETS['small'].settings, 'model.dropout', 0.2)
  assert len(runner('small', {'emergent': 1.6, 'learned': 1.7})[1]) == 4
  with pytest.raises(InputError, match=r'stability\.json holds results with --budget=small'):
    runner('full', {})


def test_what_another_suite_has_measured_is_not_made_again(tmp_path, monkeypatch, capsys):
  plan = run.Plan('small', tmp_path, tmp_path / 'runs', 2, ('sparse', 'emergent'))
  [row] = rows_of('option_a', {'sparse': [1.5]})
  [of, other] = plan.runs('four_routings')  # Its routings and specialisation are measured by option_a, with a gate.
  row |= {'digest': of.digest, 'settings': of.portable, 'commit': 'earlier'}
  stored.write(plan.path('option_a'), 'small', [row], [], ['sparse'])
  def train(of, progress):
    raise run.RunFailed(f'{of} is trained')
  monkeypatch.setattr(run, 'train', train)
  assert run.missing('four_routings', plan) == [other]
  assert run.run_suite('four_routings', plan, run.Progress([other])) == 1
  assert f'seed 0: taken from {tmp_path / "option_a.json"}, made at commit earlier' in capsys.readouterr().out
  written = json.loads(plan.path('four_routings').read_text())
  [failure], [taken] = written['failures'], written['rows']
  assert failure['reason'] == f'{other} is trained'
  assert (taken['variant'], taken['seed'], taken['loss'], taken['commit']) == ('emergent', 0, 1.5, 'earlier')
  assert {'routings', 'specialisation'} <= taken.keys() and not {'fitted_gate', 'stability'} & taken.keys()
  # One that has measured less does not do, nor one of other versions, nor one whose loss is that of another routing.
  row['measures'] = ['specialisation']
  stored.write(plan.path('option_a'), 'small', [row], [], ['sparse'])
  plan.path('four_routings').unlink()
  assert len(run.missing('four_routings', plan)) == 2
  row['measures'] = ['routings', 'specialisation']
  stored.write(plan.path('option_a'), 'small', [row], [], ['sparse'])
  assert run.missing('four_routings', plan) == [other]
  for wrong in ({'evaluated': 'dense'}, {'versions': {**row['versions'], 'jax': '0.1'}}):
    stored.write(plan.path('option_a'), 'small', [{**row, **wrong}], [], ['sparse'])
    assert len(run.missing('four_routings', plan)) == 2
  stored.write(plan.path('option_a'), 'full', [row], [], ['sparse'])
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
  with pytest.raises(InputError, match='unknown suite tiles; choose from four_routings, '):
    run.main(['tiles'], plan)
  with pytest.raises(InputError, match='no suite of these has a variant hash; choose from emergent, learned'):
    run.main(['stability'], dataclasses.replace(plan, variants=('learned', 'hash')))
  plan.out.mkdir()
  with stored.kept(plan.path('stability')), pytest.raises(InputError, match='another program is writing'):
    run.main(['stability'], plan)
  (plan.out / 'width.json').write_text('[]')
  with pytest.raises(InputError, match=r'width\.json holds no results'):  # The report shows it as well.
    run.main(['stability'], plan)


def test_the_time_left_is_that_of_trainings_that_are_left(tmp_path, monkeypatch):
  runs = small_runs('data_efficiency', tmp_path)[:4] + small_runs('width', tmp_path)[:1]
  progress = run.Progress(runs)
  assert str(progress) == '[1/5, -:-- left]'
  seconds = iter([100.0, 700.0])
  monkeypatch.setattr(run.time, 'monotonic', lambda: next(seconds))
  with progress.timed(runs[0]):
    pass
  progress.done(runs[0])
  # Ten minutes for an eighth of the steps: of 1/8 + 1/4 + 1/4 + 1 thirteen eighths are left.
  assert str(progress) == '[2/5, 2:10 left]'


@pytest.mark.parametrize('signal_of', [run.signal.SIGTERM, run.signal.SIGINT])
def test_a_stop_between_two_runs_is_said_in_a_line(tmp_path, monkeypatch, signal_of):
  monkeypatch.setattr(run, 'run_suite', lambda *_: run.signal.raise_signal(signal_of))
  before = run.signal.getsignal(run.signal.SIGTERM)
  try:
    with pytest.raises(SystemExit, match='stopped; run the same command to go on'):
      run.main(['stability'], run.Plan('small', tmp_path / 'out', tmp_path / 'runs', 1))
  finally:
    run.signal.signal(run.signal.SIGTERM, before)


def test_a_run_that_another_program_trains_is_waited_for(tmp_path, monkeypatch, capsys):
  of = small_runs('stability', tmp_path)[0]
  of.workdir.mkdir(parents=True)
  monkeypatch.setattr(run, 'EVERY', 0.01)
  # In use the first time that it is tried.
  program = ('import pathlib, sys; from trix_jax import errors; tried = pathlib.Path(sys.argv[1]); '
             'was = tried.exists(); tried.touch(); sys.exit(0 if was else errors.WorkdirInUse.exit_code)')
  run.call([sys.executable, '-c', program, str(tmp_path / 'tried')], of, run.Progress([]))
  assert 'stability/emergent, seed 0: being trained by another program, waiting for it' in capsys.readouterr().out


@pytest.mark.parametrize('name', suites.SUITES)
def test_the_report_is_one_file_with_everything_in_it(name, tmp_path):
  rows = rows_of(name, {variant: [1.5, 1.51] for variant in suites.SUITES[name].variants})
  results = {'suite': name, 'budget': 'small', 'command': 'python -m experiments.run', 'rows': rows,
             'failures': [{'variant': 'x', 'seed': 0, 'reason': 'a < b'}], 'verdicts': verdicts.of_suite(name, rows)}
  (tmp_path / f'{name}.json').write_text(json.dumps(results))
  report.write(tmp_path)
  page = (tmp_path / report.FILE).read_text()
  assert not re.search(r'(src|href)="(https?:|//|data:text)', page) and '<script' not in page
  assert figures.INK not in page and 'currentColor' in page
  assert all(variant in page for variant in suites.SUITES[name].variants) and 'a &lt; b' in page
  assert page.count('<svg') >= 1 and page.count('</svg>') == page.count('<svg')
  if 'passage' in suites.SUITES[name].measures:
    assert 'title="tile 0">a&lt;</b>' in page
  report.write(tmp_path)
  assert (tmp_path / report.FILE).read_text() == page  # The same figures give the same file.
  if name == 'four_routings':
    assert all(path.read_bytes().startswith(b'\x89PNG') for path in overview.write(tmp_path))
  else:
    with pytest.raises(InputError, match='no emergent model of seed 0'):
      overview.write(tmp_path)


def test_verdicts_of_other_programs_follow_their_files(tmp_path):
  def write(name, results):
    (tmp_path / f'{name}.json').write_text(json.dumps(results))
  assert elsewhere.rows(tmp_path) == []
  write('residual_toy', [{'task': 'blobs', 'layer': layer, 'accuracy': accuracy} for layer, accuracy in (
      ('residual', [1.0, 0.99]), ('no residual', [0.25, 0.26]))])
  timed = [{'size': 'reference', 'variant': variant, 'measured': measured, 'microseconds': time, 'min': 0.9 * time,
            'max': 1.1 * time} for variant, time in (('packed T=4', 10.0), ('packed all tiles T=4', 20.0))
           for measured in ('ffn 1', 'ffn 64', 'decode 1')]
  write('inference_speed', timed)
  toy, skipping = elsewhere.rows(tmp_path)
  assert (toy['suite'], toy['verdict']) == ('residual_toy', 'reproduced') and '25.5' in toy['ours']
  assert skipping['verdict'] == 'refuted' and skipping['ours'].startswith('2.0x (layer, 1 token)')
  timed[-1]['max'] = 40.0  # A round in which it was four times as slow.
  write('inference_speed', timed)
  assert elsewhere.rows(tmp_path)[1]['verdict'] == 'undecided'
  for name in elsewhere.OF_FILES:  # What the repository publishes can be read.
    assert (ROOT / 'results' / f'{name}.json').exists()
  assert len(elsewhere.rows(ROOT / 'results')) == len(elsewhere.OF_FILES)
  write('inference_speed', [])
  with pytest.raises(InputError, match=r'inference_speed\.json is not what was expected'):
    elsewhere.rows(tmp_path)


def test_what_is_no_result_is_refused_by_name(tmp_path):
  with pytest.raises(InputError, match='no results of suites'):
    report.write(tmp_path)
  for text in ('{}', '{"budget": "small", "command": "", "failures": [], "verdicts": [], "rows": [{"variant": "a"}]}'):
    (tmp_path / 'width.json').write_text(text)
    with pytest.raises(InputError, match=r'width\.json holds no results'):
      report.write(tmp_path)


def test_chance_is_what_unrelated_classes_and_tiles_give():
  rng = np.random.default_rng(0)
  classes, tiles = rng.choice(5, 20_000, p=[0.5, 0.2, 0.2, 0.1, 0]), rng.choice(4, 20_000)
  def table(classes):
    counts = np.zeros((5, 4), int)
    np.add.at(counts, (classes, tiles), 1)
    return counts
  null = measure.null_information(table(classes))
  shuffled = [measure.analysis.normalised_mutual_information(table(rng.permutation(classes))) for _ in range(200)]
  assert null['mean'] == pytest.approx(np.mean(shuffled), rel=0.15)
  assert null['mean'] < null['most'] < 0.01


def test_what_needs_a_failed_run_fails_too_and_what_is_finished_is_not_trained_again(tmp_path, monkeypatch):
  runs = {of.variant: of for of in small_runs('remedies', tmp_path)}
  calls = []
  def call(command, of, progress, done=None):
    calls.append(of.variant)
    if of.variant == 'dense' and len(calls) == 1:
      raise run.RunFailed('exit code 1: no memory')
    (of.workdir / 'checkpoints' / 'last' / str(of.settings['training.steps'])).mkdir(parents=True)
  monkeypatch.setattr(run, 'call', call)
  with pytest.raises(run.RunFailed, match='remedies/dense, seed 0 failed, which it needs: exit code 1: no memory'):
    run.train(runs['continued'], run.Progress([]))
  assert calls == ['dense']
  run.train(runs['continued'], run.Progress([]))
  run.train(runs['continued'], run.Progress([]))
  assert calls == ['dense', 'dense', 'continued']


def test_a_program_that_fails_is_named_by_its_last_line(tmp_path):
  of = small_runs('stability', tmp_path)[0]
  of.workdir.parent.mkdir(parents=True)
  run.call([sys.executable, '-c', 'print("fine")'], of, run.Progress([]))
  with pytest.raises(run.RunFailed, match='exit code 3: it broke'):
    run.call([sys.executable, '-c', 'print("it broke\\n"); raise SystemExit(3)'], of, run.Progress([]))
  assert of.beside('.log').read_text() == 'fine\nit broke\n\n'


def test_kinds_of_lines_are_those_that_were_written():
  text, kinds = patterns.text(), patterns.kinds()
  assert len(text) == len(kinds) and text.count('\n') == patterns.LINES and set(kinds) == set(range(6))
  lines = text.splitlines(keepends=True)
  ends = np.cumsum([len(line) for line in lines])
  for line, end in list(zip(lines, ends, strict=True))[:200]:
    [kind] = set(kinds[end - len(line):end])
    assert ('(' in line) == (patterns.KINDS[kind] == 'brackets')
    assert (line.split()[0] in patterns.WORDS) == (patterns.KINDS[kind] == 'words')


def test_every_measure_of_a_small_run(tmp_path):
  patterns.write(tmp_path / 'patterns.txt')
  config = configuration.default_config()
  config.model.update({'layers': 2, 'd_model': 16, 'heads': 2, 'd_ff': 32, 'context': 64})
  config.training.update({'steps': 4, 'batch_size': 2, 'log_every': 1, 'eval_every': 2, 'checkpoint_every': 2,
                          'keep_checkpoints': 9})
  config.update({'corpus': 'file', 'file': str(tmp_path / 'patterns.txt'), 'sample_length': 0})
  trainer.train(config, tmp_path / 'run')
  result = json.loads(json.dumps(measure.of_run(tmp_path / 'run', list(measure.MEASURES))))
  trained = checkpoints.load_trained(tmp_path / 'run', 'best')
  validation = trained.corpus().validation
  assert result['loss'] == pytest.approx(trained.validation_loss) and result['routings']['emergent'] == pytest.approx(
      result['loss'], rel=1e-6)
  assert result['tokens'] == result['tokens_of_run'] == 4 * 2 * 64
  # The passage is the validation text, and each layer's tiles are those that its characters go to.
  text = ''.join(trained.vocabulary[token] for token in validation)
  assert text.startswith(result['passage']['text']) and len(result['passage']['text']) == measure.PASSAGE
  tile_LNK = measure.tiles_of(trained, validation)
  np.testing.assert_array_equal(result['passage']['tiles'], tile_LNK[:, :measure.PASSAGE, 0])
  # Every character of the whole windows counts once, under the kind of its own line.
  kinds = patterns.kinds()[-len(validation):]
  assert patterns.text().endswith(text)
  for layer in (0, 1):
    counts = np.array(result['patterns']['counts'][layer])
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(kinds[:tile_LNK.shape[1]], minlength=6))
    np.testing.assert_array_equal(counts[2], np.bincount(
        tile_LNK[layer, kinds[:tile_LNK.shape[1]] == 2, 0], minlength=4))
  [pair] = result['stability']
  assert (pair['from'], pair['to']) == (2, 4) and all(0 <= changed < 1 for changed in pair['changed'])
  assert np.shape(result['signatures']) == (2, 4, 16) and result['fitted_gate'] > 0
