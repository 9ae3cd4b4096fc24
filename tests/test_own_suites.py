"""A suite in a file of the user's: it runs, resumes and reports like ours, and what is wrong with it is one line."""

import json

import pytest
from made_up_rows import rows_of

from experiments import run, suites
from experiments.report import page
from trix_jax.errors import InputError

SUITE = """
from experiments import suites
from experiments.claims import estimates, verdicts

def my_verdicts(rows):
  losses = estimates.losses(rows, 'four')
  if not losses:
    return []
  of = estimates.estimate(list(losses.values()))
  return [verdicts.make_verdict('four tiles < one nat', verdicts.NOT_ASKED, str(of), of.seeds, verdicts.below(of, 1.0))]

SUITE = suites.Suite(
  'Mine', 'Is it so?', {'four': {}, 'eight': {'model.tiles': 8}}, ('routings',), {'corpus': 'python_stdlib'},
  verdicts=my_verdicts)
"""


@pytest.fixture(autouse=True)
def _table(monkeypatch):
  """A table of suites that a test may add to."""
  monkeypatch.setattr(suites, 'SUITES', dict(suites.SUITES))


@pytest.fixture
def write(tmp_path):
  """Write a suite's file, some of its text replaced; its path."""

  def write(name='mine.py', **replaced):
    text = SUITE
    for old, new in replaced.items():
      assert old in text
      text = text.replace(old, new)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)

  return write


@pytest.fixture
def start(tmp_path, monkeypatch):
  """Run suites with trainings that are made up; the runs that were trained."""

  def start(*names, **options):
    trained = []

    def result_of(of, *_):
      trained.append((of.suite, of.variant, of.seed))
      [row] = rows_of(of.suite, {of.variant: [0.5 + of.seed / 100]})
      # The runner adds these.
      return {key: row[key] for key in row if key not in ('variant', 'seed', 'settings', 'digest', 'measures')}

    monkeypatch.setattr(run, 'result_of', result_of)
    monkeypatch.setattr(run.signal, 'signal', lambda *_: None)
    run.main(names, run.Plan('smoke', tmp_path / 'out', tmp_path / 'runs', **{'seeds': 1, **options}))
    return trained

  return start


def test_a_suite_in_a_file_runs_resumes_and_is_reported_like_ours(write, start, tmp_path, capsys):
  mine = write()
  assert start(mine) == [('mine', 'four', 0), ('mine', 'eight', 0)]
  assert start(mine, seeds=2) == [('mine', 'four', 1), ('mine', 'eight', 1)]
  results = json.loads((tmp_path / 'out' / 'mine.json').read_text())
  assert results['command'] == f'python -m experiments.run --suite={mine} --budget=smoke --seeds=2'
  [verdict, difference] = results['verdicts']
  assert (verdict['claim'], verdict['verdict']) == ('four tiles < one nat', 'holds')
  assert difference['claim'] == 'eight against four'
  html = (tmp_path / 'out' / page.FILE).read_text()
  assert '<h2 id="mine">Mine</h2><p>Is it so?</p>' in html and 'href="mine.json"' in html
  _, _, questions = html.partition('<h2 id="questions">')
  assert 'four tiles &lt; one nat' in questions.partition('</table>')[0]
  assert 'holds          four tiles < one nat: 0.5050 ' in capsys.readouterr().out
  # Other settings are other runs.
  assert start(write(**{"{'model.tiles': 8}": "{'model.tiles': 16}"}), seeds=2) == [
    ('mine', 'eight', 0),
    ('mine', 'eight', 1),
  ]


def test_suites_of_files_and_ours_run_in_one_call(write, start, tmp_path):
  trained = start(write(), 'stability', write('other.py'))
  assert list(dict.fromkeys(suite for suite, _, _ in trained)) == ['mine', 'stability', 'other']
  for name in ('mine', 'stability', 'other'):
    assert f'<h2 id="{name}">' in (tmp_path / 'out' / page.FILE).read_text()


def test_a_report_names_the_text_of_a_suite(write, start, tmp_path):
  text = tmp_path / 'text.txt'
  text.write_text('a')
  start(write(**{"'corpus': 'python_stdlib'": f"'corpus': 'file', 'file': {str(text)!r}"}), 'six_patterns')
  html = (tmp_path / 'out' / page.FILE).read_text()
  assert f'{text}; ' in html and html.count('a text of six kinds of lines; ') == 1


@pytest.mark.parametrize(
  'old, new, said',
  [
    ('from experiments', 'from nowhere', "line 2: ModuleNotFoundError: No module named 'nowhere'; mend the file"),
    ('SUITE = suites', 'raise SystemExit(3)\nSUITE = suites', 'line 12: SystemExit: 3; mend the file'),
    ('SUITE =', 'SUITE = =', 'line 12: SyntaxError: invalid syntax; mend the file'),
    ('suites.Suite(', 'suites.Suit(', "line 12: AttributeError: module 'experiments.suites' has no attribute 'Suit'"),
    ('SUITE =', 'SUITES =', 'defines no SUITE; set SUITE = experiments.suites.Suite'),
    ('SUITE = suites.Suite', 'SUITE = dict', 'line 12: TypeError: dict expected at most 1 argument'),
    ('SUITE =', 'SUITE = []; _ =', 'defines a SUITE that is a list; set SUITE = '),
    ("{'four': {}, ", '{4: {}, ', 'variants has the name 4; a name is a text'),
    ("'Mine'", 'None', 'title is a NoneType; give a str'),
    ("('routings',)", 'None', 'measures is a NoneType; give a collection'),
    ("{'four': {}, 'eight': {'model.tiles': 8}}", '{}', 'variants must be a dict of settings by name, with one'),
    ("{'model.tiles': 8}", "{'model.tile': 8}", "variant 'eight': there is no setting 'model.tile'; trix_jax/config"),
    ("{'model.tiles': 8}", "{'seed': 3}", "variant 'eight': seed is not for a variant: --seeds=N runs"),
    ("{'model.tiles': 8}", "{'model': 8}", "variant 'eight': there is no setting 'model'; "),
    ("{'model.tiles': 8}", "{'model.tiles': 'x'}", "variant 'eight': Could not override field 'tiles'"),
    ("{'model.tiles': 8}", "{'model.tiles': 7}", "variant 'eight': .*7"),
    (
      "{'model.tiles': 8}",
      "{'loss.teacher': '{for}'}",
      "'eight': loss.teacher = '{for}' names no variant; choose from",
    ),
    (
      "{'model.tiles': 8}",
      "{'training.start_from': '{four carved fine}'}",
      "names no variant; choose from four, eight, or write a carve of one as '{four carved 32 of 128}'",
    ),
    (
      "{'model.tiles': 8}",
      "{'training.start_from': '{four carved 32 of 128'}",
      'names no variant; choose from four, eight, or write a carve',
    ),
    (
      "{'four': {}, 'eight': {'model.tiles': 8}}",
      "{'four': {}, 'eight': {'training.start_from': '{four carved 1 of 4}'}}",
      "'eight': only a model that computes all its tiles alike can be carved",
    ),
    *(
      (
        "{'four': {}, 'eight': {'model.tiles': 8}}",
        "{'four': {'model.routing': 'dense', 'model.gate': 'one_hot'}, "
        f"'eight': {{'model.tiles': {tiles}, 'training.start_from': '{{four carved {carve}}}'}}}}",
        said,
      )
      for tiles, carve, said in (
        (8, '8 of 4', "variant 'eight': .*top_k"),
        (8, '1 of 7', "variant 'eight': .*7"),
        (8, '1 of 4', "variant 'eight': the model to start from is another one .*tiles 4 -> 8"),
      )
    ),
    (
      "{'model.tiles': 8}",
      "{'loss.teacher': '{eight}'}",
      "'eight' starts from, learns from, or is measured with, what needs it",
    ),
    ("('routings',)", "('routing',)", "measures has 'routing'; choose from routings, "),
    ("('routings',)", "('routings')", r"measures is the text 'routings'; give a tuple, such as \('routings',\)"),
    ('verdicts=', "against={'eight': 'five'}, verdicts=", "against has 'five'; choose from four, eight"),
    ('verdicts=', "evaluated={'eight': 'sparse'}, verdicts=", "evaluated has 'sparse'; choose from dense, emergent, "),
    ("('routings',), {", "(), evaluated={'eight': 'emergent'}, base={", "evaluated needs the measure 'routings'"),
    ('verdicts=my_verdicts', "verdicts='mine'", 'verdicts is a str; give a function of rows'),
  ],
)
def test_a_file_that_is_no_suite_is_refused_before_anything_runs(write, start, tmp_path, old, new, said):
  with pytest.raises(InputError, match=rf'--suite=.*mine\.py(: | ).*{said}') as error:
    start(write(**{old: new}))
  assert '\n' not in str(error.value) and 'mine' not in suites.SUITES
  assert not (tmp_path / 'out').exists()


def test_names_that_results_go_by_are_taken_once(write, start, tmp_path):
  for name in ('controls', 'residual_toy', 'all'):
    with pytest.raises(InputError, match=f"--suite=.*: this repository has the name '{name}' already; rename the file"):
      start(write(f'{name}.py'))
  mine, other = write(), write('other/mine.py')
  with pytest.raises(InputError, match=f"--suite={other}: {mine} has the name 'mine' already; rename the file"):
    start(mine, other)
  with pytest.raises(InputError, match="'my suite' becomes a name of files; use letters"):
    start(write('my suite.py'))
  with pytest.raises(InputError, match=r'--suite=.*none\.py: there is no such file; give a Python file'):
    start(str(tmp_path / 'none.py'))
  with pytest.raises(InputError, match=r"unknown suite 'mine2'; choose from .*, or give a file that ends in \.py"):
    start(mine, 'mine2')


@pytest.mark.parametrize(
  'old, new, said',
  [
    ('if not losses:', 'if "no such" in rows[0]:', r'failed at line 7: IndexError: list index out of range'),
    (
      '    return []',
      '    return [estimates.losses]',
      r'have <function losses at .*>, which verdicts.make_verdict does not make',
    ),
    ('    return []', '    return None', "failed at TypeError: 'NoneType' object is not iterable"),
  ],
)
def test_verdicts_that_fail_without_rows_fail_before_anything_runs(write, start, old, new, said):
  with pytest.raises(InputError, match=rf'the verdicts of .*mine\.py {said}; mend it and run the same command again'):
    assert not start(write(**{old: new}))


@pytest.mark.parametrize(
  'new, said',
  [
    ('losses["one"]', r"failed at line 10: KeyError: 'one'"),
    ('of', r"have \{'claim': 'four tiles < one nat', .*\}, which verdicts.make_verdict does not make"),
  ],
)
def test_verdicts_that_fail_later_lose_nothing(write, start, tmp_path, new, said):
  with pytest.raises(InputError, match=rf'the verdicts of .*mine\.py {said}; mend it and run the same command again'):
    start(write(**{'str(of)': new}))
  results = json.loads((tmp_path / 'out' / 'mine.json').read_text())
  assert results['rows'] and results['verdicts'] == []  # One row, or two where both runs ended at once.
  kept = {(row['variant'], row['seed']) for row in results['rows']}
  assert [of for of in start(write()) if of[1:] in kept] == []
