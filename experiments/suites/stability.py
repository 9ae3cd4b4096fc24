"""How many tokens change their tile while training goes on."""

import numpy as np

from experiments.claims.verdicts import NOT_ASKED, Results, Verdict, estimate_over_seeds, judge
from experiments.suites.suite import LEARNED, Suite


def judge_claims(results: Results) -> list[Verdict]:
  found = []
  for variant, reported in (('emergent', '< 10 % from epoch to epoch'), ('learned', NOT_ASKED)):
    apart = [
      f'{pair["to"] - pair["from"]:,} steps apart'
      for result in results
      if result['variant'] == variant
      for pair in result['stability'][-1:]
    ]
    if last := estimate_over_seeds(results, variant, lambda result: _changed(result['stability'][-1])):
      found.append(
        judge(
          f'{variant}: less than 10 % of tokens change tile between the last two checkpoints',
          reported,
          last.text(1, ' %', 100),
          last,
          0.1,
          f'{apart[0]}, at the end of the schedule' if apart else '',
        )
      )
    if worst := estimate_over_seeds(results, variant, lambda result: max(map(_changed, result['stability']))):
      claim = f'{variant}: the same between any two in a row'
      found.append(judge(claim, reported, worst.text(1, ' % at worst', 100), worst, 0.1, 'mean over layers'))
  return found


def _changed(pair: dict) -> float:
  """Return the share of tokens that change tile between two checkpoints, mean over layers."""
  return float(np.mean(pair['changed']))


SUITE = Suite(
  'Stability',
  'How many tokens change their tile from one checkpoint to the next?',
  {'emergent': {}, 'learned': LEARNED},
  ('stability',),
  verdicts=judge_claims,
)
