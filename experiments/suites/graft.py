"""Graft tiles that were trained elsewhere into a host, and send tokens to them by many keys, with nothing trained."""

from collections.abc import Iterable, Mapping
from typing import Any

from experiments.claims import estimates
from experiments.claims.verdicts import NOT_ASKED, Results, Verdict, judge
from experiments.suites.suite import DENSE, Suite, tiles

# Keys of tiles: readings, others from the weights alone or from nothing, and those that need data or a router.
READINGS = ('votes', 'energy')
RIVALS = {
  'arrow': 'directions as in Arrow',
  'spectr': 'spectra as in SpectR',
  'random': 'a key at random',
  'mean_row': 'the mean key of the host',
}
KEYS = (*READINGS, *RIVALS, 'shipped_row', 'centroid', 'ridge')
# Scores of single tokens, or their running mean over the text so far.
SCORES = ('token', 'mean')
# The primary question: the best reading recovers this part of the gain, and costs the host this many nats.
LEAST_R, MOST_F = 0.7, 0.01
# What the best reading may recover less than a trained row.
LESS_THAN_ROW = 0.1
# Donors: trained for their text alone, or also to win it by their signatures.
PLAIN, NAMED = 'donor', 'named_donor'

# The rows of a key and its scores by seed; see `grafted.graft_by_many_keys`.
Rows = dict[int, dict[str, Any]]


def judge_claims(results: Results) -> list[Verdict]:
  rows_of = collect_ways(results)
  if not rows_of:
    return []
  best = find_best(rows_of, READINGS)
  words = f'primary: the best reading, {name(best)}'
  return judge_goals(rows_of, best, words) + judge_named(results, rows_of[best])


def judge_goals(rows_of: Mapping[tuple[str, str], Rows], best: tuple[str, str], words: str) -> list[Verdict]:
  """Judge the best reading of one kind of donor by R and F, against each rival, and against a trained row."""
  recovered, lost, both = (
    estimates.estimate(list(values(rows_of[best], of).values())) for of in ('R', 'F', 'mean_loss')
  )
  found = [
    judge(
      f'{words}, recovers at least {LEAST_R} of the gain (R)',
      NOT_ASKED,
      recovered.text(3),
      recovered,
      LEAST_R,
      f'of the ways to read, that with the least mean loss of both texts, {both}',
      opposite=True,
    ),
    judge(
      f'{words}, costs the host at most {MOST_F} nats (F)', NOT_ASKED, lost.text(unit=' nats', sign=True), lost, MOST_F
    ),
  ]
  for key, rival in RIVALS.items():
    way = find_best(rows_of, (key,))
    if gap := estimates.gap(values(rows_of[best], 'mean_loss'), values(rows_of[way], 'mean_loss')):
      R, F = (estimates.estimate(list(values(rows_of[way], of).values())) for of in ('R', 'F'))
      claim = f'{words}, has a lower mean loss of both texts than {rival}'
      why = f'{name(way)} has R = {R.text(3)} and F = {F.text(sign=True)}'
      found.append(judge(claim, NOT_ASKED, gap.text(unit=' nats', sign=True), gap, 0.0, why))
  row = find_best(rows_of, ('shipped_row',))
  if gap := estimates.gap(values(rows_of[best], 'R'), values(rows_of[row], 'R')):
    claim = f'{words}, recovers at most {LESS_THAN_ROW} less than a row trained with the tile (R)'
    found.append(judge(claim, NOT_ASKED, gap.text(3, sign=True), gap, -LESS_THAN_ROW, name(row), opposite=True))
  return found


def judge_named(results: Results, plain: Rows) -> list[Verdict]:
  """Judge donors whose tiles learned to name themselves, also beside the best reading of plain ones."""
  rows_of = collect_ways(results, NAMED)
  if not rows_of:
    return []
  best = find_best(rows_of, READINGS)
  words = f'the best reading of a named donor, {name(best)}'
  found = judge_goals(rows_of, best, words)
  itself, of_plain = (
    {of['seed']: of['grafted']['itself']['donor'] for of in results if of['variant'] == variant and of.get('grafted')}
    for variant in (NAMED, PLAIN)
  )
  lower = f'{words}, has a lower mean loss of both texts than that of a plain one'
  as_good = f'before grafting, a named donor has at most {MOST_F} nats more loss on its text than a plain one'
  for claim, limit, ours, others in (
    (lower, 0.0, values(rows_of[best], 'mean_loss'), values(plain, 'mean_loss')),
    (as_good, MOST_F, itself, of_plain),
  ):
    if gap := estimates.gap(ours, others):
      found.append(judge(claim, NOT_ASKED, gap.text(unit=' nats', sign=True), gap, limit))
  return found


def collect_ways(results: Results, variant: str = PLAIN) -> dict[tuple[str, str], Rows]:
  """Return the rows of every key and its scores, of one kind of donor."""
  found: dict[tuple[str, str], Rows] = {}
  for result in results:
    if result['variant'] != variant:
      continue
    for row in result.get('grafted', {}).get('rows', []):
      mean_loss = (row['donor'] + row['host']) / 2
      found.setdefault((row['key'], row['scores']), {})[result['seed']] = {**row, 'mean_loss': mean_loss}
  return found


def collect_shown(results: Results) -> dict[tuple[str, str], Rows]:
  """Return the rows of every key of a plain donor, and of the votes of a named one, for a figure."""
  named = collect_ways(results, NAMED)
  return collect_ways(results) | {('named_votes', scores): of for (key, scores), of in named.items() if key == 'votes'}


def find_best(rows_of: Mapping[tuple[str, str], Rows], keys: Iterable[str]) -> tuple[str, str]:
  """Return the way of these keys with the least loss, in the mean over both texts and all seeds.

  R alone would choose a key that sends all tokens of both texts to the grafted tiles.
  """
  ways = [way for way in rows_of if way[0] in keys]
  return min(ways, key=lambda way: estimates.estimate(list(values(rows_of[way], 'mean_loss').values())).mean)


def values(rows: Rows, of: str) -> dict[int, float]:
  return {seed: row[of] for seed, row in rows.items()}


def name(way: tuple[str, str]) -> str:
  """Name a key and its scores."""
  key, scores = way
  return f'{key.replace("_", " ")} by {"token" if scores == "token" else "running mean"}'


OTHER_TEXT = {'corpus': 'python_stdlib', 'training.start_from': '{host}'}
DONOR = {**OTHER_TEXT, **DENSE, **tiles(1, 1), 'model.d_ff': 128, 'training.train_only': 'tiles'}

SUITE = Suite(
  'Graft',
  "One tile a layer is trained in a frozen host, on the source of Python's standard library, with no router: every "
  'token goes through it. Then it joins the tiles of the host, and nothing is trained. Do tokens find it by reading? '
  'R is the part of its gain on the new text that is kept, where the oracle is told the text. F is what the host loses '
  'on its own text. A named donor also learns a signature that wins its text, against text that the host writes. The '
  'table has the loss of each run on the text that it was trained on.',
  {
    'host': {},
    'donor': DONOR,
    'named_donor': {**DONOR, 'loss.naming_weight': 0.1},
    'finetuned': OTHER_TEXT,
  },
  ('grafted',),
  {'tokenizer': 'byte', 'model.gate': 'one_hot'},
  against={'donor': None, 'named_donor': 'donor', 'finetuned': 'donor'},
  verdicts=judge_claims,
)
