"""The page shows results and their verdicts, in one file."""

import json
import pathlib
import re

import pytest
from made_up_rows import rows_of
from tiers import slow

from experiments import suites
from experiments.claims import estimates, other_programs, verdicts
from experiments.report import figures, page, readme_figures
from experiments.suites import judgement
from trix_jax.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
MODEL = ROOT / 'models' / 'shakespeare.safetensors'


def test_a_correction_that_takes_back_what_an_interval_decides_is_shown():
  start = {'emergent': [1.0, 1.1, 1.2], 'one_hot_gate': [1.01, 1.11, 1.21]}
  near = {name: [1.0, 1.12, 1.18] for name in ('random_keys', 'kmeans_keys', 'hash', 'no_router_gradient')}
  # Its difference, 0.05 ± 0.025, is decided alone, and no more so among those that have nothing behind them.
  rows = rows_of('controls', {**start, **near, 'no_signature_gradient': [1.04, 1.15, 1.26]})
  judged = {verdict['claim']: verdict for verdict in judgement.judge_suite('controls', rows)}
  tested = [verdict for verdict in judged.values() if verdict['p_value'] is not None]
  assert [verdict['adjusted_p'] for verdict in tested] == pytest.approx(
    estimates.adjusted([verdict['p_value'] for verdict in tested])
  )
  decided = [verdict for verdict in tested if verdict['p_value'] < 0.05]
  assert all((verdict['verdict'] != 'undecided') == (verdict in decided) for verdict in tested)
  against = [verdict for verdict in decided if verdict['adjusted_p'] >= 0.05]
  assert against == [verdict for verdict in judged.values() if verdicts.is_contradicted(verdict)]
  assert 0 < len(against) < len(decided)

  table = page.verdict_table(list(judged.values()))
  assert table.count('undecided after correction') == len(against) and table.count(page.ADJUSTED_P) == 1
  lines = dict(zip(judged, table.split('<tr>')[2:], strict=True))
  for claim, verdict in judged.items():
    assert ('undecided after correction' in lines[claim]) == (verdict in against)
    assert f'class="{verdict["verdict"].replace(" ", "-")}">' in lines[claim]  # The word of the interval stays.
  few = judgement.judge_suite('controls', [row for row in rows if row['seed'] < 2])
  table = page.verdict_table(few)
  assert table.count('<td data-name="adjusted p">-</td>') == len(few) and page.ADJUSTED_P not in table
  assert {verdict['verdict'] for verdict in few} > {'undecided'}  # Their intervals may decide all the same.


@pytest.mark.parametrize('name', ['controls', *slow(*(name for name in suites.SUITES if name != 'controls'))])
def test_the_report_is_one_file_with_everything_in_it(name, tmp_path):
  rows = rows_of(name, {variant: [1.5, 1.51] for variant in suites.SUITES[name].variants})
  results = {
    'suite': name,
    'budget': 'small',
    'command': 'python -m experiments.run',
    'rows': rows,
    'failures': [{'variant': 'x', 'seed': 0, 'reason': 'a < b'}],
    'verdicts': judgement.judge_suite(name, rows),
  }
  (tmp_path / f'{name}.json').write_text(json.dumps(results))
  page.write(tmp_path)
  html = (tmp_path / page.FILE).read_text()
  assert not re.search(r'(src|href)="(https?:|//|data:text)', html) and '<script' not in html
  assert figures.INK not in html and 'currentColor' in html
  assert all(variant in html for variant in suites.SUITES[name].variants) and 'a &lt; b' in html
  assert html.count('<svg') >= 1 and html.count('</svg>') == html.count('<svg')
  assert ('Differences of loss' in html) == bool(judgement.gaps(name, rows))
  if {'passage', 'grafted'} & set(suites.SUITES[name].measures):
    assert 'title="tile 0">a&lt;</b>' in html
  page.write(tmp_path)
  assert (tmp_path / page.FILE).read_text() == html  # The same figures give the same file.
  if name == 'four_routings':
    images = tmp_path / 'images'
    with pytest.raises(InputError, match='cannot write'):
      readme_figures.write(tmp_path, MODEL, images)
    images.mkdir()
    drawn = readme_figures.write(tmp_path, MODEL, images)
    assert sorted(drawn) == sorted(images.iterdir()) and len(drawn) == 3  # There are no results of carve.
    assert all(path.read_bytes().startswith(b'\x89PNG') for path in drawn)
  else:
    with pytest.raises(InputError, match='no emergent model of seed 0'):
      readme_figures.write(tmp_path, MODEL, tmp_path)


def test_verdicts_of_other_programs_follow_their_files(tmp_path):
  def write(name, results):
    (tmp_path / f'{name}.json').write_text(json.dumps(results))

  assert other_programs.rows(tmp_path) == []
  write(
    'residual_toy',
    [
      {'task': 'blobs', 'layer': layer, 'accuracy': accuracy}
      for layer, accuracy in (('residual', [1.0, 0.99]), ('no residual', [0.25, 0.26]))
    ],
  )
  timed = [
    {
      'size': 'reference',
      'variant': variant,
      'measured': measured,
      'microseconds': time,
      'min': 0.9 * time,
      'max': 1.1 * time,
    }
    for variant, time in (('packed T=4', 10.0), ('packed all tiles T=4', 20.0))
    for measured in ('ffn 1', 'ffn 64', 'decode 1')
  ]
  write('inference_speed', timed)
  toy, skipping = other_programs.rows(tmp_path)
  assert (toy['suite'], toy['verdict']) == ('residual_toy', 'reproduced') and '25.5' in toy['ours']
  assert skipping['verdict'] == 'refuted' and skipping['ours'].startswith('2.0x (layer, 1 token)')
  timed[-1]['max'] = 40.0  # A round in which it was four times as slow.
  write('inference_speed', timed)
  assert other_programs.rows(tmp_path)[1]['verdict'] == 'undecided'
  for name in other_programs.OF_FILES:  # What the repository publishes can be read.
    assert (ROOT / 'results' / f'{name}.json').exists()
  assert len(other_programs.rows(ROOT / 'results')) == len(other_programs.OF_FILES)
  write('inference_speed', [])
  with pytest.raises(InputError, match=r'inference_speed\.json is not what was expected'):
    other_programs.rows(tmp_path)


def test_what_is_no_result_is_refused_by_name(tmp_path):
  with pytest.raises(InputError, match='no results of suites'):
    page.write(tmp_path)
  for text in ('{}', '{"budget": "small", "command": "", "failures": [], "verdicts": [], "rows": [{"variant": "a"}]}'):
    (tmp_path / 'width.json').write_text(text)
    with pytest.raises(InputError, match=r'width\.json holds no results'):
      page.write(tmp_path)
