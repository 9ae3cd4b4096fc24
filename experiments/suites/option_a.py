"""The original's Option A: train dense, and compute one tile of four afterwards."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.claims.verdicts import (
  NOT_ASKED,
  NOT_COMPARABLE,
  OTHER_BUDGET,
  Results,
  Verdict,
  estimate_over_seeds,
  judge,
  judge_specialisation,
  make_verdict,
  percent,
)
from experiments.suites.suite import DENSE, Suite

REPORTED = {'dense': 'PPL 5.04', 'emergent': 'PPL 81.35', 'random': 'PPL 85.59', 'first': 'PPL 70.84'}


def judge_claims(results: Results) -> list[Verdict]:
  return [
    *_compare_losses(results),
    *_judge_collapse(results),
    *_judge_signatures(results),
    *_judge_gate(results),
    *judge_specialisation(results, 'dense', 'trained dense, routed by signatures afterwards: '),
  ]


def _compare_losses(results: Results) -> list[Verdict]:
  found = []
  for routing, reported in REPORTED.items():
    if loss := estimate_over_seeds(results, 'dense', _loss_under(routing)):
      ours = f'PPL {np.exp(loss.mean):.2f} ({loss} nats)'
      claim = f'trained dense, evaluated {routing}'
      found.append(make_verdict(claim, reported, ours, loss.seeds, None, OTHER_BUDGET, NOT_COMPARABLE))
  return found


def _judge_collapse(results: Results) -> list[Verdict]:
  nats = estimate_over_seeds(results, 'dense', _more_than('dense', 'emergent'))
  relative = estimate_over_seeds(results, 'dense', lambda result: math.expm1(_more_than('dense', 'emergent')(result)))
  if not nats or not relative:
    return []
  return [
    judge(
      'a densely trained model is worse by more than 5 % in perplexity when one tile of four is computed',
      '+2.78 nats, a collapse',
      f'{nats.text(unit=" nats", sign=True)}, perplexity {percent(relative)}',
      relative,
      0.05,
      opposite=True,
    )
  ]


def _judge_signatures(results: Results) -> list[Verdict]:
  more = estimate_over_seeds(results, 'dense', _more_than('random', 'emergent'))
  if not more:
    return []
  ours = more.text(unit=' nats', sign=True)
  return [judge('its signatures route better than chance all the same', '4.40 against 4.45 nats', ours, more, 0.0)]


def _judge_gate(results: Results) -> list[Verdict]:
  more = estimate_over_seeds(results, 'dense', lambda result: result['fitted_gate'] - result['routings']['dense'])
  if not more:
    return []
  ours = more.text(unit=' nats from dense', sign=True)
  claim = 'a gate fitted to the frozen model brings it within 0.05 nats of dense'
  return [judge(claim, NOT_ASKED, ours, more, 0.05)]


def _loss_under(routing: str) -> Callable[[dict[str, Any]], float]:
  return lambda result: result['routings'][routing]


def _more_than(baseline: str, routing: str) -> Callable[[dict[str, Any]], float]:
  return lambda result: result['routings'][routing] - result['routings'][baseline]


SUITE = Suite(
  'Option A: trained dense',
  'What is left of a densely trained model when a token computes one tile of four?',
  {'dense': DENSE, 'sparse': {}},
  ('routings', 'fitted_gate', 'specialisation'),
  verdicts=judge_claims,
)
