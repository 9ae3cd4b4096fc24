"""Ternary weights in attention and the head too, as BitNet b1.58 has them, in the model of the recipe."""

from experiments.claims.verdicts import NOT_ASKED, Results, Verdict, gap_in_nats, judge
from experiments.suites.better import FINE_BY_TOKEN
from experiments.suites.suite import Suite

MOST = 0.01  # Nats that `configs/compact.py` may lose.


def judge_claims(results: Results) -> list[Verdict]:
  gap = gap_in_nats(results, 'ternary', 'float')
  if gap is None:
    return []
  claim = f'primary: ternary projections cost less than {MOST} nats'
  return [judge(claim, NOT_ASKED, gap.text(unit=' nats', sign=True), gap, MOST)]


SUITE = Suite(
  'Ternary projections',
  'Attention and the head have most of the bytes of weights that a character reads. What does it cost to train them '
  'ternary too?',
  {'float': FINE_BY_TOKEN, 'ternary': {**FINE_BY_TOKEN, 'model.projections': 'ternary'}},
  verdicts=judge_claims,
)
