"""The original's Option B: train sparse from the start."""

import itertools
import math

import numpy as np

from experiments.claims import estimates
from experiments.claims.verdicts import (
  NOT_ASKED,
  Results,
  Verdict,
  below,
  estimate_over_seeds,
  gap_in_perplexity,
  in_all,
  judge,
  judge_specialisation,
  make_verdict,
  percent,
)
from experiments.suites.suite import DENSE, LOSS_FREE, Suite


def judge_claims(results: Results) -> list[Verdict]:
  found = []
  if gap := gap_in_perplexity(results, 'sparse', 'dense'):
    claim = 'sparse within 2 % of dense, in perplexity'
    found.append(judge(claim, '5.14 against 5.04', percent(gap), gap, 0.02))
  return [
    *found,
    *_judge_fall(results),
    *_judge_load(results),
    *_judge_diversity(results),
    *judge_specialisation(results, 'sparse'),
  ]


def _judge_fall(results: Results) -> list[Verdict]:
  if not any(result['variant'] == 'sparse' for result in results):
    return []
  course = _course(results, 'validation_loss')
  falls = [
    below(estimates.estimate([b - a for a, b in zip(before, after, strict=True)]), 0)
    for (_, before), (_, after) in itertools.pairwise(course)
  ]
  perplexities = [(part, [math.exp(loss) for loss in losses]) for part, losses in course]
  return [
    make_verdict(
      'validation perplexity falls to the end of training',
      '6.26, 5.48, 5.19, 5.14 by epoch',
      _words(perplexities, 2),
      len(course[0][1]),
      False if False in falls else None if None in falls else True,
      'after these parts of training',
    )
  ]


def _judge_load(results: Results) -> list[Verdict]:
  busiest = [
    max(float(np.max(load)) for _, load in result['curves']['tile_load'])
    for result in results
    if result['variant'] == 'sparse'
  ]
  if not busiest:
    return []
  return [
    make_verdict(
      'no tile has half of the load or more at any evaluation, on any seed: the busiest of all',
      NOT_ASKED,
      f'{", ".join(f"{100 * load:.1f} %" for load in busiest)} by seed',
      len(busiest),
      in_all([load < 0.5 for load in busiest]),
      'a fair share is 25 %; the original reported 33, 54, 38 and 47 % by epoch',
    )
  ]


def _judge_diversity(results: Results) -> list[Verdict]:
  at_the_end = estimate_over_seeds(
    results, 'sparse', lambda result: float(np.mean(result['curves']['diversity'][-1][1]))
  )
  if not at_the_end:
    return []
  return [
    judge(
      'signature diversity above 30 % at the end',
      '0.228, 0.039, 0.017, 0.009 by epoch',
      f'{_words(_course(results, "diversity"), 3)}; at the end {at_the_end}',
      at_the_end,
      0.3,
      'the claim holds here; the figures that were reported contradict it',
      opposite=True,
    )
  ]


def _course(results: Results, curve: str) -> list[tuple[float, list[float]]]:
  """Return four moments of training, as parts of the whole, with a curve's values there, one for each seed."""
  curves = [result['curves'][curve] for result in results if result['variant'] == 'sparse']
  last = curves[0][-1][0]
  places = dict.fromkeys(round(part * len(curves[0])) - 1 for part in (0.25, 0.5, 0.75, 1))
  return [
    (curves[0][place][0] / last, [float(np.mean(curve[place][1])) for curve in curves])
    for place in places
    if place >= 0
  ]


def _words(course: list[tuple[float, list[float]]], digits: int) -> str:
  return ', '.join(f'{np.mean(values):.{digits}f} ({100 * part:.0f} %)' for part, values in course)


SUITE = Suite(
  'Option B: trained sparse',
  'Do the tiles of a sparsely trained model stay in use, and their signatures different, as training goes?',
  {'sparse': {}, 'dense': DENSE, 'loss_free': LOSS_FREE},
  ('specialisation', 'passage', 'signatures'),
  verdicts=judge_claims,
)
