"""Intervals, the verdicts that follow from figures, and the page that shows them."""

import json
import math
import pathlib
import re

import pytest
from made_up_rows import best_tiles_rows, carved_rows, edited_rows, grafted_rows, rows_of, stand_ins_rows
from tiers import slow

from experiments import suites
from experiments.findings import estimates, other_programs, verdicts
from experiments.report import figures, page, readme_figures
from experiments.suites import edits, judgement
from trix_jax.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
MODEL = ROOT / 'models' / 'shakespeare.safetensors'


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


def test_p_values_are_those_of_student():
  of = estimates.estimate([1.0, 2.0, 3.0])
  # In closed form for two degrees of freedom: 1 - t / sqrt(t^2 + 2), with t = 2 sqrt(3) to 0.
  assert of.p_value() == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-12)
  assert of.p_value(2.0) == 1
  assert of.p_value(of.high) == pytest.approx(1 - estimates.CONFIDENCE, rel=1e-9)
  assert of.p_value(of.high + 0.01) < 1 - estimates.CONFIDENCE < of.p_value(of.high - 0.01)
  assert estimates.estimate([1.0, 2.0]).p_value() is None and estimates.estimate([1.0]).p_value() is None
  same = estimates.estimate([0.5, 0.5, 0.5])  # No warning either.
  assert (same.half_width, same.p_value(0.5), same.p_value(0.25)) == (0, 1, 0)


def test_p_values_are_corrected_for_their_number():
  # By hand: sorted 0.005, 0.01, 0.03, 0.04, each times 4 by its place, and none above the next.
  got = estimates.adjusted([0.01, None, 0.04, 0.03, 0.005, None])
  assert [got[place] for place in (1, 5)] == [None, None]
  assert [got[place] for place in (0, 2, 3, 4)] == pytest.approx([0.02, 0.04, 0.04, 0.02])
  assert estimates.adjusted([None]) == [None] and estimates.adjusted([]) == []


def test_differences_are_paired_by_seed():
  rows = [
    {'variant': name, 'seed': seed, 'loss': loss}
    for name, of in (('a', {0: 1.0, 1: 2.0, 2: 9.0}), ('b', {0: 1.5, 1: 2.25}))
    for seed, loss in of.items()
  ]
  gap = estimates.gap(estimates.losses(rows, 'b'), estimates.losses(rows, 'a'))
  assert gap.mean == pytest.approx(0.375) and gap.seeds == 2
  assert estimates.gap(estimates.losses(rows, 'b'), {}) is None


@pytest.mark.parametrize(
  'losses, baseline, want',
  [
    ([1.00, 1.01, 1.02], [1.10, 1.11, 1.12], 'better'),
    ([1.10, 1.11, 1.12], [1.00, 1.01, 1.02], 'worse'),
    ([1.0, 1.2, 1.1], [1.1, 1.0, 1.15], 'undecided'),
    ([1.0], [2.0], 'undecided'),
  ],
)
def test_a_difference_counts_when_its_interval_leaves_out_zero(losses, baseline, want):
  rows = [
    {'variant': name, 'seed': seed, 'loss': loss}
    for name, of in (('learned', losses), ('emergent', baseline))
    for seed, loss in enumerate(of)
  ]
  [verdict] = judgement.judge_differences('stability', rows)
  assert verdict['verdict'] == want and verdict['seeds'] == len(losses)


def test_a_difference_between_machines_says_so():
  rows = [
    {'variant': name, 'seed': seed, 'loss': 1.0 + seed, 'machine': {'processor': 'A'}}
    for name in ('learned', 'emergent')
    for seed in range(3)
  ]
  assert judgement.judge_differences('stability', rows)[0]['why'] == ''
  rows[1]['machine'] = {'processor': 'B'}  # One seed is enough.
  assert judgement.judge_differences('stability', rows)[0]['why'] == judgement.OTHER_MACHINE
  assert (
    judgement.judge_differences('stability', rows[:1] + rows[3:])[0]['why'] == ''
  )  # Seeds that nothing is held against.
  for row in rows:
    row['machine'] |= {'backend': 'gpu', 'device': 'GPU', 'devices': 1}  # The hosts of both do not round.
  assert judgement.judge_differences('stability', rows)[0]['why'] == ''
  rows[1]['machine']['device'] = 'another GPU'
  assert judgement.judge_differences('stability', rows)[0]['why'] == judgement.OTHER_MACHINE


def verdict_of(suite, rows, words):
  [found] = [verdict for verdict in judgement.judge_suite(suite, rows) if words in verdict['claim']]
  return found


def test_verdicts_follow_the_figures():
  rows = rows_of(
    'four_routings',
    {
      'emergent': [1.500, 1.502, 1.504],
      'learned': [1.49, 1.491, 1.492],
      'random': [1.7, 1.702, 1.704],
      'dense': [1.3, 1.302, 1.304],
    },
  )
  assert verdict_of('four_routings', rows, '5 % of a learned')['verdict'] == 'reproduced'
  assert verdict_of('four_routings', rows, 'better than random')['verdict'] == 'reproduced'
  for percent, verdict in ((4, 'reproduced'), (6, 'refuted')):
    worse = [loss + math.log(1 + percent / 100) for loss in (1.5, 1.501, 1.502)]
    near = rows_of('four_routings', {'emergent': worse, 'learned': [1.5, 1.501, 1.502]})
    assert verdict_of('four_routings', near, '5 % of a learned')['verdict'] == verdict
  assert verdict_of('four_routings', rows, 'specialise')['verdict'] == 'reproduced'
  below = {**rows[0]['specialisation'], 'information': [0.4, 0.04]}  # Below chance in one layer.
  rows[0]['specialisation'] = below
  assert verdict_of('four_routings', rows, 'specialise')['verdict'] == 'undecided'
  for row in rows:
    row['specialisation'] = below
  assert verdict_of('four_routings', rows, 'specialise')['verdict'] == 'refuted'
  one = rows_of('four_routings', {'emergent': [1.5], 'learned': [1.49]})
  assert {verdict['verdict'] for verdict in judgement.judge_suite('four_routings', one)} == {'undecided'}

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
  rows[0]['curves'] = {
    **rows[0]['curves'],
    'validation_loss': [[5, 1.4], [10, 1.5]],
    'tile_load': [[5, [[1.0, 0.0]] * 2], [10, [[0.6, 0.4]] * 2]],
  }
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
    'holds',
    'does not hold',
  ]
  rows = rows_of(
    'width',
    {'sparse_64': [1.6, 1.601], 'dense_64': [1.5, 1.502], 'sparse_256': [1.41, 1.413], 'dense_256': [1.4, 1.402]},
  )
  assert [verdict_of('width', rows, f'with {width} of d_model')['verdict'] for width in (64, 256)] == [
    'does not hold',
    'holds',
  ]
  change = verdict_of('width', rows, 'costs less with more width')
  assert change['verdict'] == 'holds' and change['ours'].startswith('-0.089')  # 0.0105 less 0.0995.
  rows = rows_of(
    'dropout',
    {'sparse_0.1': [1.6, 1.601], 'dense_0.1': [1.5, 1.502], 'sparse_0.0': [1.41, 1.413], 'dense_0.0': [1.4, 1.402]},
  )
  assert verdict_of('dropout', rows, 'costs less with less dropout')['ours'].startswith('-0.089')
  rows = rows_of('data_efficiency', {'sparse_0.125': [2.0, 2.1], 'dense_0.125': [2.0, 2.1], 'sparse_1': [1.6, 1.7]})
  assert verdict_of('data_efficiency', rows, 'with 0.125 of the text')['verdict'] == 'holds'
  assert not any('costs less' in verdict['claim'] for verdict in judgement.judge_suite('data_efficiency', rows))
  rows = rows_of('six_patterns', {'8_tiles': [1.0, 1.1]})
  assert verdict_of('six_patterns', rows, 'six')['verdict'] == 'reproduced'
  rows[1]['patterns'] = {**rows[1]['patterns'], 'favourite': [[0, 1, 2, 3, 4, 4], [0] * 6]}
  assert verdict_of('six_patterns', rows, 'six')['verdict'] == 'undecided'  # Six on one seed, five on the other.
  rows[0]['patterns'] = rows[1]['patterns']
  assert verdict_of('six_patterns', rows, 'six')['verdict'] == 'refuted'
  rows = rows_of('carve', {'dense': [1.5, 1.51]})
  assert verdict_of('carve', rows, 'at most 0.03')['verdict'] == 'holds'
  assert verdict_of('carve', rows, 'fitted to data')['ours'].startswith('-0.015')
  assert verdict_of('carve', rows, 'fitted to data')['verdict'] == 'holds'
  rows = rows_of('carve', {'dense': [1.5, 1.51]}, carved=carved_rows(1.5, 0.04))
  assert verdict_of('carve', rows, 'at most 0.03')['verdict'] == 'does not hold'
  rows = rows_of('oracle', {'16_emergent': [1.50, 1.51], '16_learned': [1.40, 1.41]})
  assert verdict_of('oracle', rows, 'primary')['ours'] == '+2.0 ± 0.0 % of tokens'
  assert verdict_of('oracle', rows, 'primary')['verdict'] == 'holds'
  fits, fitted = '16_emergent: an oracle', '16_emergent: a gate fitted'
  assert verdict_of('oracle', rows, fits)['ours'].startswith('-0.1000 ± 0.0000 nats; 0.4000')
  assert verdict_of('oracle', rows, fitted)['verdict'] == 'undecided'
  rows = rows_of('oracle', {'16_emergent': [1.5, 1.51]}, best_tiles=best_tiles_rows(1.5, -0.4, 0.01))
  assert [verdict_of('oracle', rows, words)['verdict'] for words in (fits, fitted)] == ['does not hold', 'holds']
  rows = rows_of('transfer', {'emergent': [1.50, 1.52], 'deep': [1.4, 1.4]})
  assert verdict_of('transfer', rows, 'primary')['ours'].startswith('-0.0775')
  assert verdict_of('transfer', rows, 'primary')['verdict'] == 'holds'
  assert verdict_of('transfer', rows, 'independent model, as it is, loses less than no tile')['verdict'] == (
    'does not hold'
  )
  assert verdict_of('transfer', rows, 'independent model, behind rotations, loses less than no tile')['verdict'] == (
    'holds'
  )
  assert (
    verdict_of('transfer', rows, 'nearest tells better than load')['ours']
    == '1.00 ± 0.00 against -1.00 ± 0.00, +2.00 ± 0.00'
  )
  assert verdict_of('transfer', rows, 'nearest tells better than load')['verdict'] == 'holds'
  assert verdict_of('transfer', rows, 'nearest to another one costs less than the one with the least load')[
    'ours'
  ].startswith('-0.0400')
  assert verdict_of('transfer', rows, 'agreement of units tells better than earlier layers')['verdict'] == 'undecided'
  assert verdict_of('transfer', rows, 'better than mean loss')['verdict'] == 'does not hold'
  for how in ('as it is', 'behind rotations'):
    same = verdict_of('transfer', rows, f'independent model, {how}, loses less than one that serves the same tokens')
    assert same['ours'].startswith('-0.0500') and same['verdict'] == 'holds'
  rows = rows_of('transfer', {'emergent': [1.5, 1.5]}, stand_ins=stand_ins_rows(1.0))
  assert verdict_of('transfer', rows, 'primary')['verdict'] == 'does not hold'
  # Runs without a partner have no stand-ins.
  assert not any(
    'primary' in of['claim']
    for of in judgement.judge_suite('transfer', rows_of('transfer', {'emergent': [1.5]}, stand_ins=[]))
  )
  judge_edits()
  rows = rows_of('graft', {'donor': [2.0, 2.1]})
  assert verdict_of('graft', rows, 'recovers at least 0.7')['verdict'] == 'holds'
  assert verdict_of('graft', rows, 'at most 0.01 nats')['ours'] == '+0.0050 ± 0.0000 nats'
  rows = grafted_results(votes_token=(0.75, 0.0), energy=(0.9, 0.3), arrow=(1.0, 1.0), shipped_row=(0.84, 0.0))
  recovers = verdict_of('graft', rows, 'recovers at least 0.7')
  assert 'votes by running mean' in recovers['claim'] and recovers['verdict'] == 'holds'  # Less loss than by energy.
  assert verdict_of('graft', rows, 'directions as in Arrow')['verdict'] == 'holds'
  assert verdict_of('graft', rows, 'directions as in Arrow')['why'].endswith(
    'R = 1.000 ± 0.000 and F = +1.0000 ± 0.0000'
  )
  assert verdict_of('graft', rows, 'a row trained')['verdict'] == 'holds'
  rows = grafted_results(votes=(0.6, 0.011), energy=(0.5, 0.3), shipped_row=(0.71, 0.0))
  for words in ('at least 0.7', 'at most 0.01 nats', 'a key at random', 'a row trained'):
    assert verdict_of('graft', rows, words)['verdict'] == 'does not hold', words
  judge_named_donors()
  rows = rows_of('second_text', {'16_top_4_token': [1.0, 1.1], '4_stream': [1.05, 1.15], '16_top_4_hash': [0.95, 1.05]})
  assert [verdict_of('second_text', rows, words)['verdict'] for words in ('primary', 'drawn at random')] == [
    'holds',
    'does not hold',
  ]
  rows = rows_of('second_text', {'4_stream': [1.05, 1.15], 'recipe': [1.0, 1.1]})
  assert verdict_of('second_text', rows, 'twice the text')['verdict'] == 'holds'
  rows = rows_of('stability', {'emergent': [1.0, 1.1]})
  assert verdict_of('stability', rows, 'last two')['verdict'] == 'reproduced'
  assert verdict_of('stability', rows, 'last two')['why'] == '5 steps apart, at the end of the schedule'
  rows = rows_of('controls', {'emergent': [1.50, 1.51], 'one_hot_gate': [1.5, 1.4], 'hash': [1.48, 1.49]})
  assert verdict_of('controls', rows, 'emergent better than hash')['verdict'] == 'does not hold'
  assert verdict_of('controls', rows, 'one_hot_gate better than hash')['verdict'] == 'undecided'
  rows = rows_of(
    'stability',
    {'emergent': [1.0, 1.1]},
    stability=[{'from': 0, 'to': 5, 'changed': [0.3, 0.3]}, {'from': 5, 'to': 10, 'changed': [0.0, 0.0]}],
  )
  assert [verdict_of('stability', rows, words)['verdict'] for words in ('emergent: less', 'emergent: the same')] == [
    'reproduced',
    'refuted',
  ]


def judge_edits():
  def rows(near, stale=0.05, seeds=3):
    found = rows_of('edits', dict.fromkeys(('emergent', 'learned'), [1.5, 1.52, 1.51][:seeds]))
    for number, row in enumerate(found):
      row['edited'] = edited_rows(row['loss'], stale + 0.001 * row['seed'] * (1 + number // seeds), near)
    return found

  primary = verdict_of('edits', rows(('prune', 'merge')), 'primary')
  assert (
    primary['verdict'] == 'holds' and primary['p_value'] < 0.01 and primary['ours'].startswith('in 2 of them: prune ')
  )
  assert verdict_of('edits', rows(('prune', 'merge', 'split')), 'primary')['verdict'] == 'does not hold'
  assert verdict_of('edits', rows(('prune', 'merge', 'split')), 'primary')['p_value'] == 1
  # A difference beyond 0 is not enough.
  assert verdict_of('edits', rows((), 0.01), 'primary')['verdict'] == 'does not hold'
  # Seeds on both sides of the margin.
  undecided = rows(('prune', 'merge'))
  for row in undecided:
    row['edited'] = edited_rows(row['loss'], 0.021 + 0.02 * row['seed'], ('prune', 'merge'))
  assert verdict_of('edits', undecided, 'primary')['verdict'] == 'undecided'
  # An edit counts if re-reading beats both stale keys.
  one_beaten = rows(('prune', 'merge'))
  for row in one_beaten:
    for of in row['edited']:
      of['loss'] -= 0.05 if of['key'] == 'stale_row' else 0.0
  assert verdict_of('edits', one_beaten, 'primary')['verdict'] == 'does not hold'
  assert verdict_of('edits', one_beaten, 'primary')['ours'].startswith('in 0 of them')
  # The model that has a stale row is that of a learned gate, and its own refitted gate is its measure.
  one = rows(('prune', 'merge'))
  for row in one:
    if row['variant'] == 'learned':
      for of in row['edited']:
        of['loss'] += 0.03 if of['key'] == 'refitted' else 0.0
  assert verdict_of('edits', one, 'split: re-reading beats the stale learned row')['ours'].startswith('-0.022')
  assert verdict_of('edits', one, 'split: re-reading beats the stale read key')['ours'].startswith('-0.051')
  assert verdict_of('edits', one, 'prune: loses less than prune by magnitude')['ours'].startswith('-0.035')
  assert verdict_of('edits', one, 'prune: loses less than prune by activation')['verdict'] == 'does not hold'
  assert verdict_of('edits', one, 'merge: loses less than drop one of the pair')['verdict'] == 'holds'
  assert not any('primary' in verdict['claim'] for verdict in judgement.judge_suite('edits', one[:3]))


def test_a_partial_conjunction_takes_the_worst_of_an_edit_and_the_second_best_edit():
  p_values = [[0.001, 0.004], [0.5, 0.01], [0.01, 0.002], [1.0, 1.0]]
  assert edits.partial_conjunction(p_values) == pytest.approx(3 * 0.01)
  assert edits.partial_conjunction([[0.6, 0.001]] * 4) == 1
  assert edits.partial_conjunction([*p_values[:3], [0.1, None]]) is None


def judge_named_donors():
  """They stand beside plain ones, whose verdicts they leave as they are."""
  plain = grafted_results(votes=(0.6, 0.011), energy=(0.5, 0.3))
  assert not any('named' in of['claim'] for of in judgement.judge_suite('graft', plain))
  rows = rows_of('graft', {'named_donor': [2.02, 2.12]})
  keys = {'votes': (0.8, 0.005), 'energy': (0.5, 0.3), 'random': (0.5, 0.1), 'arrow': (1.0, 0.0)}
  named = [{**row, 'grafted': grafted_rows(row['loss'], **keys, shipped_row=(0.95, 0.0))} for row in rows]
  both = plain + named
  assert (
    verdict_of('graft', both, 'primary: the best reading, votes by token, recovers at least')['verdict']
    == 'does not hold'
  )
  assert verdict_of('graft', both, 'named donor, votes by token, recovers at least 0.7')['ours'].startswith('0.800')
  assert verdict_of('graft', both, 'named donor, votes by token, costs')['verdict'] == 'holds'
  assert verdict_of('graft', both, 'than that of a plain one')['verdict'] == 'holds'
  rivals = {'a key at random': 'holds', 'directions as in Arrow': 'does not hold'}
  for rival, verdict in rivals.items():
    claim = f'named donor, votes by token, has a lower mean loss of both texts than {rival}'
    assert verdict_of('graft', both, claim)['verdict'] == verdict
  row = verdict_of('graft', both, 'named donor, votes by token, recovers at most 0.1 less than a row')
  assert row['ours'].startswith('-0.150') and row['verdict'] == 'does not hold'
  more = verdict_of('graft', both, 'before grafting, a named donor')
  assert more['ours'].startswith('+0.0200') and more['verdict'] == 'does not hold'


def grafted_results(**of_keys):
  """Two seeds of a donor whose keys have these (R, F)."""
  return [{**row, 'grafted': grafted_rows(row['loss'], **of_keys)} for row in rows_of('graft', {'donor': [2.0, 2.1]})]


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


def published():
  """The results of suites that the repository has."""
  return [path for path in sorted((ROOT / 'results').rglob('*.json')) if path.stem in suites.SUITES]


@pytest.mark.parametrize('path', published(), ids=lambda path: str(path.relative_to(ROOT / 'results')))
def test_the_verdicts_of_stored_results_follow_from_their_rows(path):
  stored = json.loads(path.read_text())
  found = judgement.judge_suite(path.stem, stored['rows'])
  assert [{key: of[key] for key in was} for was, of in zip(stored['verdicts'], found, strict=True)] == stored[
    'verdicts'
  ]


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
