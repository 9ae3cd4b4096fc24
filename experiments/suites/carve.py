"""Carve a dense model into tiles without training it, in many ways."""

import numpy as np

from experiments.claims import estimates
from experiments.claims.verdicts import NOT_ASKED, Results, Verdict, judge
from experiments.suites.suite import DENSE, Suite

# Tiles, and those of them that a token keeps.
PRIMARY = (128, 32)
# Tiles so coarse that the votes of all their units are worse than a gate that is fitted to data.
COARSE = ((4, 1), (16, 4), (32, 8), (64, 16))
# What is read for them, with as many keys as the primary one has tiles.
OF_GROUPS = {
  'grouped_votes': 'votes of 128 groups of units',
  'witnesses': '128 units, one of each group,',
  'low_rank_energy': 'votes and energy along few directions, 128 keys together,',
}


def judge_claims(results: Results) -> list[Verdict]:
  found: list[Verdict] = []
  votes = more_than_dense(results, *PRIMARY)
  if gap := estimates.gap(votes, dict.fromkeys(votes, 0.0)):
    claim = 'primary: 32 of 128 tiles, cut by rows and found by votes, lose at most 0.03 nats'
    found.append(judge(claim, NOT_ASKED, gap.text(unit=' nats', sign=True), gap, 0.03))
  for other, words in (
    ('fitted_gate', 'second: votes find them better than a linear gate that is fitted to data'),
    ('random_keys', 'votes find them better than keys at random'),
    ('energy', 'votes find them better than votes and exact energy'),
  ):
    if gap := estimates.gap(votes, more_than_dense(results, *PRIMARY, route=other)):
      found.append(judge(f'32 of 128 tiles, {words}', NOT_ASKED, gap.text(unit=' nats', sign=True), gap, 0.0))
  for other, words in (
    ('contiguous', 'of neighbours'),
    ('random', 'drawn at random'),
    ('together', 'that are active together'),
  ):
    if gap := estimates.gap(votes, more_than_dense(results, *PRIMARY, partition=other)):
      claim = f'32 of 128 tiles: clusters of rows lose less than tiles of units {words}'
      found.append(judge(claim, NOT_ASKED, gap.text(unit=' nats', sign=True), gap, 0.0))
  for tiles, kept in COARSE:
    gate = more_than_dense(results, tiles, kept, route='fitted_gate')
    for route, words in OF_GROUPS.items():
      if gap := estimates.gap(more_than_dense(results, tiles, kept, route=route), gate):
        claim = f'{kept} of {tiles} tiles: {words} find them better than a gate that is fitted to data'
        found.append(judge(claim, NOT_ASKED, gap.text(unit=' nats', sign=True), gap, 0.0))
  if gap := compare_adaptive(results):
    claim = "128 tiles: numbers of tiles that are each token's own lose less than one number, at as many products"
    found.append(judge(claim, NOT_ASKED, gap.text(unit=' nats', sign=True), gap, 0.0))
  return found


def compare_adaptive(results: Results) -> estimates.Estimate | None:
  """Return what adaptive numbers of tiles lose less what a fixed number would, with a mean near the primary one.

  The loss of a fixed number is interpolated between those that were measured, as its logarithm is nearly linear. A seed
  does not count where the mean lies outside of them, or where a fixed number loses nothing.
  """
  shares: dict[str, dict[int, tuple[float, float]]] = {}
  fixed: dict[int, list[tuple[float, float]]] = {}
  for result in results:
    dense, *rows = result.get('carved', [{}])
    for row in rows:
      lost = row['loss'] - dense['loss']
      if row['route'].startswith('share'):
        shares.setdefault(row['route'], {})[result['seed']] = row['kept'], lost
      elif (row['tiles'], row['route'], row['partition']) == (PRIMARY[0], 'votes', 'rows'):
        fixed.setdefault(result['seed'], []).append((row['kept'], lost))
  if not shares:
    return None
  by_seed = min(shares.values(), key=lambda of: abs(np.mean([kept for kept, _ in of.values()]) - PRIMARY[1]))
  at_fixed = {}
  for seed, (kept, _) in by_seed.items():
    numbers, losses = zip(*sorted(fixed[seed]), strict=True)
    if numbers[0] <= kept <= numbers[-1] and min(losses) > 0:
      at_fixed[seed] = float(np.exp(np.interp(kept, numbers, np.log(losses))))
  return estimates.gap({seed: lost for seed, (_, lost) in by_seed.items()}, at_fixed)


def more_than_dense(
  results: Results, tiles: int, kept: int, route: str = 'votes', partition: str = 'rows'
) -> dict[int, float]:
  """Return by seed the loss of a carved model less that of its dense one, in nats."""
  found = {}
  for result in results:
    rows = result.get('carved', [])
    losses = {(row['tiles'], row['kept'], row['route'], row['partition']): row['loss'] for row in rows}
    if (wanted := (tiles, kept, route, partition)) in losses:
      found[result['seed']] = losses[wanted] - rows[0]['loss']
  return found


SUITE = Suite(
  'Carve',
  'A densely trained model, cut into tiles by the rows of its weights and routed by the votes of each tile, with '
  'nothing trained. What does it lose when a token computes a part of its tiles, and does reading find them as well as '
  'a gate that is fitted to data?',
  {'dense': DENSE},
  ('carved',),
  verdicts=judge_claims,
)
