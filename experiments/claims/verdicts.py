"""Judge claims by what was measured: a verdict is one line of a table, the claim with what was reported and found.

A verdict judges the claim under the recipe of this repository. It does not judge the original's figure, which comes
from another recipe and more text. A verdict follows the 95 % interval over seeds. For a claim about a difference that
is the interval of the paired difference. An interval that allows both answers, or a single seed, gives "undecided".
Questions that the original did not ask hold or do not hold.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.claims import estimates
from trix_jax.evaluation import classes

# Results of runs, as a file of a suite holds them, and verdicts.
Results = Sequence[dict[str, Any]]
Verdict = dict[str, Any]

UNDECIDED, NOT_COMPARABLE = 'undecided', 'not comparable'
# Values of "reported" for our own questions, and for differences about which nobody made a claim.
NOT_ASKED, NO_CLAIM = 'not asked', '-'
# Names of a true and a false answer. OF_CLAIMS names those for all other values of "reported", the original's claims.
ANSWERS = {NOT_ASKED: ('holds', 'does not hold'), NO_CLAIM: ('better', 'worse')}
OF_CLAIMS = ('reproduced', 'refuted')
OTHER_BUDGET = 'another recipe and budget; see the differences'
# Fields of a verdict.
FIELDS = {
  'claim': (str,),
  'reported': (str,),
  'ours': (str,),
  'seeds': (int,),
  'verdict': (str,),
  'why': (str,),
  'p_value': (float, type(None)),
}


def make_verdict(
  claim: str,
  reported: str,
  ours: str,
  seeds: int,
  true: bool | None,
  why: str = '',
  verdict: str = UNDECIDED,
  p_value: float | None = None,
) -> Verdict:
  """Make a verdict. It tells whether the claim is `true`, or is `verdict` for None or one seed."""
  if seeds > 1 and true is not None:
    verdict = ANSWERS.get(reported, OF_CLAIMS)[0 if true else 1]
  return {
    'claim': claim,
    'reported': reported,
    'ours': ours,
    'seeds': seeds,
    'verdict': verdict,
    'why': why,
    'p_value': p_value,
  }


def judge(
  claim: str,
  reported: str,
  ours: str,
  estimate: estimates.Estimate,
  limit: float,
  why: str = '',
  opposite: bool = False,
) -> Verdict:
  """Judge the claim that the true value is `below` a limit, with the p-value of its test."""
  true = below(estimate, limit, opposite)
  return make_verdict(claim, reported, ours, estimate.seeds, true, why, p_value=estimate.p_value(limit))


def judge_gap(
  results: Results, variant: str, baseline: str, claim: str, reported: str, limit: float, why: str = ''
) -> list[Verdict]:
  """Judge the claim that a variant's perplexity is above the baseline's by less than a limit; nothing without both."""
  gap = gap_in_perplexity(results, variant, baseline)
  if gap is None:
    return []
  return [judge(claim, reported, percent_and_nats(gap, results, variant, baseline), gap, limit, why)]


def judge_better(results: Results, pairs: Sequence[tuple[str, str, str]]) -> list[Verdict]:
  """Judge claims of ours that a variant's perplexity is below the baseline's: variant, baseline and words of each."""
  return [
    verdict
    for variant, baseline, words in pairs
    for verdict in judge_gap(results, variant, baseline, f'{words}, in perplexity', NOT_ASKED, 0.0)
  ]


def correct(verdicts: list[Verdict]) -> list[Verdict]:
  """Return the verdicts of a table with `adjusted_p`, their p-values corrected for the number of tests there."""
  adjusted = estimates.adjusted([verdict['p_value'] for verdict in verdicts])
  return [{**verdict, 'adjusted_p': p} for verdict, p in zip(verdicts, adjusted, strict=True)]


def is_contradicted(verdict: Verdict) -> bool:
  """Return whether an interval decides a verdict although the corrected test does not."""
  decided = verdict['verdict'] not in (UNDECIDED, NOT_COMPARABLE)
  return decided and verdict['adjusted_p'] is not None and verdict['adjusted_p'] >= 1 - estimates.CONFIDENCE


def below(estimate: estimates.Estimate, limit: float, opposite: bool = False) -> bool | None:
  """Return whether the true value is below a limit, or above it for `opposite`; None if the interval has the limit."""
  if estimate.low <= limit <= estimate.high:
    return None
  return (estimate.mean < limit) != opposite


def in_all(answers: Sequence[bool]) -> bool | None:
  """Return True if all seeds answer yes, False if none does, and None if some do."""
  return True if all(answers) else None if any(answers) else False


def gap_in_nats(results: Results, variant: str, baseline: str) -> estimates.Estimate | None:
  """Estimate the loss of a variant minus that of the baseline, paired by seed."""
  return estimates.gap(estimates.losses(results, variant), estimates.losses(results, baseline))


def gap_in_perplexity(results: Results, variant: str, baseline: str) -> estimates.Estimate | None:
  """Estimate the perplexity of a variant divided by that of the baseline, minus 1, paired by seed."""
  return estimates.gap(estimates.losses(results, variant), estimates.losses(results, baseline), math.expm1)


def percent(estimate: estimates.Estimate) -> str:
  """Write a relative difference with its sign."""
  return estimate.text(1, ' %', 100, sign=True)


def percent_and_nats(relative: estimates.Estimate, results: Results, variant: str, baseline: str) -> str:
  """Write `gap_in_perplexity`, and the gap in nats."""
  nats = gap_in_nats(results, variant, baseline)
  return percent(relative) + (f' ({nats.text(unit=" nats", sign=True)})' if nats else '')


def estimate_over_seeds(
  results: Results, variant: str, value: Callable[[dict[str, Any]], float]
) -> estimates.Estimate | None:
  """Estimate the mean of a function of a variant's results; None without any."""
  values = [value(result) for result in results if result['variant'] == variant]
  return estimates.estimate(values) if values else None


def judge_specialisation(results: Results, variant: str, words: str = '') -> list[Verdict]:
  """Judge whether a variant's tiles know the class of a character, against random tables with the same totals."""
  measured = [result for result in results if result['variant'] == variant and 'specialisation' in result]
  if not measured:
    return []
  found = [float(np.mean(result['specialisation']['information'])) for result in measured]
  above = [
    all(
      information > null['most']
      for information, null in zip(
        result['specialisation']['information'], result['specialisation']['null'], strict=True
      )
    )
    for result in measured
  ]
  chance = float(np.mean([[null['mean'] for null in result['specialisation']['null']] for result in measured]))
  claim = f'{words}tiles specialise: mutual information of class and tile above chance'
  reported = 'letters to one tile 51 %, space 68 %, punctuation 60 %' if variant == 'dense' else 'tiles specialise'
  return [
    make_verdict(
      claim,
      reported,
      f'{estimates.estimate(found)}; chance {chance:.5f}; to the tile that takes most of them {_favourites(measured)}',
      len(measured),
      in_all(above),
      'above every one of the random tables with the same totals, in every layer of every seed; whether '
      'reading signatures has to do with it is asked under Controls',
    )
  ]


def _favourites(results: Results) -> str:
  """Tell what share of each class's characters goes to its most used tile, mean over layers and seeds."""
  counts_SCT = np.array([counts_CT for result in results for counts_CT in result['specialisation']['counts']], float)
  shares = {
    name: float(np.mean(counts_SCT[:, place].max(axis=1) / counts_SCT[:, place].sum(axis=1)))
    for place, name in enumerate(classes.CLASSES)
    if counts_SCT[:, place].sum(axis=1).all()
  }
  return ', '.join(f'{name} {100 * share:.0f} %' for name, share in shares.items())


def judge_parameters(results: Results, variant: str, reported: str = '0', words: str = '') -> list[Verdict]:
  """Judge whether routing of a variant has no parameters."""
  measured = [result for result in results if result['variant'] == variant]
  if not measured:
    return []
  parameters, state = measured[0]['parameters']['routing'], measured[0]['routing_state']
  return [
    make_verdict(
      f'{words}no routing parameters',
      reported,
      f'{parameters:,} parameters, {state:,} numbers of state',
      len(measured),
      not parameters,
    )
  ]


def judge_sparsity(results: Results, sizes: Sequence[str], words: str, more: str) -> list[Verdict]:
  """Judge what sparsity costs at each SIZE, and whether it costs less at the last.

  The variants are named sparse_SIZE and dense_SIZE.
  """
  found, costs = [], {}
  for size in sizes:
    sparse, dense = (estimates.losses(results, f'{name}_{size}') for name in ('sparse', 'dense'))
    if gap := gap_in_perplexity(results, f'sparse_{size}', f'dense_{size}'):
      costs[size] = {seed: sparse[seed] - dense[seed] for seed in sparse.keys() & dense.keys()}
      found.append(
        judge(
          f'sparse within 2 % of dense with {size} {words}, in perplexity',
          NOT_ASKED,
          percent_and_nats(gap, results, f'sparse_{size}', f'dense_{size}'),
          gap,
          0.02,
        )
      )
  if len(costs) > 1:
    least, *_, most = costs
    if change := estimates.gap(costs[most], costs[least]):
      found.append(
        judge(
          f'sparsity costs less with {more}',
          NOT_ASKED,
          change.text(unit=' nats', sign=True),
          change,
          0.0,
          f'what it costs at {most} less what it costs at {least}, on the same seed',
        )
      )
  return found
