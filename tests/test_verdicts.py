"""Verdicts follow from figures, of stored results too."""

import json
import math
import pathlib

import pytest
from made_up_rows import best_tiles_rows, carved_rows, edited_rows, grafted_rows, rows_of, stand_ins_rows

from experiments import suites
from experiments.suites import edits, judgement

ROOT = pathlib.Path(__file__).parent.parent


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


def grafted_results(**of_keys):
  """Two seeds of a donor whose keys have these (R, F)."""
  return [{**row, 'grafted': grafted_rows(row['loss'], **of_keys)} for row in rows_of('graft', {'donor': [2.0, 2.1]})]


def test_verdicts_of_four_routings():
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


def test_verdicts_of_option_a():
  rows = rows_of('option_a', {'dense': [1.5, 1.51], 'sparse': [1.5, 1.51]})
  assert verdict_of('option_a', rows, 'worse by more than 5 %')['verdict'] == 'reproduced'
  assert verdict_of('option_a', rows, 'better than chance')['verdict'] == 'reproduced'
  # Two of the classes were never seen; of punctuation half go to one tile.
  assert 'letter 90 %, digit 90 %, punctuation 50 %' in verdict_of('option_a', rows, 'specialise')['ours']


def test_verdicts_of_option_b():
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


def test_verdicts_of_hierarchy():
  rows = rows_of('hierarchy', {'16_top_1': [1.5, 1.51], '16_top_4': [1.5, 1.51], 'no_norm': [1.6, 1.611]})
  assert verdict_of('hierarchy', rows, '16 of 16')['verdict'] == 'reproduced'
  assert verdict_of('hierarchy', rows, 'with no_norm')['verdict'] == 'holds'
  rows[0]['dead_tiles'] = [1, 0]
  assert verdict_of('hierarchy', rows, '16 of 16')['verdict'] == 'undecided'  # On one of two seeds.
  rows[1]['dead_tiles'] = [1, 0]
  assert verdict_of('hierarchy', rows, '16 of 16')['verdict'] == 'refuted'


def test_verdicts_of_tile_count():
  rows = rows_of('tile_count', {'4_top_1': [1.5, 1.51], '64_top_16': [1.4, 1.412], '64_top_1': [1.6, 1.611]})
  assert [verdict_of('tile_count', rows, words)['verdict'] for words in ('16 of 64 tiles', 'one of 64')] == [
    'holds',
    'does not hold',
  ]


def test_verdicts_of_width():
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


def test_verdicts_of_dropout():
  rows = rows_of(
    'dropout',
    {'sparse_0.1': [1.6, 1.601], 'dense_0.1': [1.5, 1.502], 'sparse_0.0': [1.41, 1.413], 'dense_0.0': [1.4, 1.402]},
  )
  assert verdict_of('dropout', rows, 'costs less with less dropout')['ours'].startswith('-0.089')


def test_verdicts_of_data_efficiency():
  rows = rows_of('data_efficiency', {'sparse_0.125': [2.0, 2.1], 'dense_0.125': [2.0, 2.1], 'sparse_1': [1.6, 1.7]})
  assert verdict_of('data_efficiency', rows, 'with 0.125 of the text')['verdict'] == 'holds'
  assert not any('costs less' in verdict['claim'] for verdict in judgement.judge_suite('data_efficiency', rows))


def test_verdicts_of_six_patterns():
  rows = rows_of('six_patterns', {'8_tiles': [1.0, 1.1]})
  assert verdict_of('six_patterns', rows, 'six')['verdict'] == 'reproduced'
  rows[1]['patterns'] = {**rows[1]['patterns'], 'favourite': [[0, 1, 2, 3, 4, 4], [0] * 6]}
  assert verdict_of('six_patterns', rows, 'six')['verdict'] == 'undecided'  # Six on one seed, five on the other.
  rows[0]['patterns'] = rows[1]['patterns']
  assert verdict_of('six_patterns', rows, 'six')['verdict'] == 'refuted'


def test_verdicts_of_carve():
  rows = rows_of('carve', {'dense': [1.5, 1.51]})
  assert verdict_of('carve', rows, 'at most 0.03')['verdict'] == 'holds'
  assert verdict_of('carve', rows, 'fitted to data')['ours'].startswith('-0.015')
  assert verdict_of('carve', rows, 'fitted to data')['verdict'] == 'holds'
  rows = rows_of('carve', {'dense': [1.5, 1.51]}, carved=carved_rows(1.5, 0.04))
  assert verdict_of('carve', rows, 'at most 0.03')['verdict'] == 'does not hold'


def test_verdicts_of_oracle():
  rows = rows_of('oracle', {'16_emergent': [1.50, 1.51], '16_learned': [1.40, 1.41]})
  assert verdict_of('oracle', rows, 'primary')['ours'] == '+2.0 ± 0.0 % of tokens'
  assert verdict_of('oracle', rows, 'primary')['verdict'] == 'holds'
  fits, fitted = '16_emergent: an oracle', '16_emergent: a gate fitted'
  assert verdict_of('oracle', rows, fits)['ours'].startswith('-0.1000 ± 0.0000 nats; 0.4000')
  assert verdict_of('oracle', rows, fitted)['verdict'] == 'undecided'
  rows = rows_of('oracle', {'16_emergent': [1.5, 1.51]}, best_tiles=best_tiles_rows(1.5, -0.4, 0.01))
  assert [verdict_of('oracle', rows, words)['verdict'] for words in (fits, fitted)] == ['does not hold', 'holds']


def test_verdicts_of_transfer():
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


def test_verdicts_of_graft():
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


def test_verdicts_of_second_text():
  rows = rows_of('second_text', {'16_top_4_token': [1.0, 1.1], '4_stream': [1.05, 1.15], '16_top_4_hash': [0.95, 1.05]})
  assert [verdict_of('second_text', rows, words)['verdict'] for words in ('primary', 'drawn at random')] == [
    'holds',
    'does not hold',
  ]
  rows = rows_of('second_text', {'4_stream': [1.05, 1.15], 'recipe': [1.0, 1.1]})
  assert verdict_of('second_text', rows, 'twice the text')['verdict'] == 'holds'


def test_verdicts_of_stability():
  rows = rows_of('stability', {'emergent': [1.0, 1.1]})
  assert verdict_of('stability', rows, 'last two')['verdict'] == 'reproduced'
  assert verdict_of('stability', rows, 'last two')['why'] == '5 steps apart, at the end of the schedule'
  rows = rows_of(
    'stability',
    {'emergent': [1.0, 1.1]},
    stability=[{'from': 0, 'to': 5, 'changed': [0.3, 0.3]}, {'from': 5, 'to': 10, 'changed': [0.0, 0.0]}],
  )
  assert [verdict_of('stability', rows, words)['verdict'] for words in ('emergent: less', 'emergent: the same')] == [
    'reproduced',
    'refuted',
  ]


def test_verdicts_of_controls():
  rows = rows_of('controls', {'emergent': [1.50, 1.51], 'one_hot_gate': [1.5, 1.4], 'hash': [1.48, 1.49]})
  assert verdict_of('controls', rows, 'emergent better than hash')['verdict'] == 'does not hold'
  assert verdict_of('controls', rows, 'one_hot_gate better than hash')['verdict'] == 'undecided'


def test_verdicts_of_edits():
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


def test_verdicts_of_named_donors_stand_beside_those_of_plain_ones():
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
