"""What the original reported, what came out here, and whether the one bears the other out.

Where a claim is a difference, the verdict follows the 95 % interval of the paired difference over seeds; an interval
that allows both answers is "undecided", and so is a single seed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments import estimates, suites

Rows = Sequence[dict[str, Any]]

REPRODUCED, REFUTED, UNDECIDED, NOT_COMPARABLE = 'reproduced', 'refuted', 'undecided', 'not comparable'
# Absolute losses of the original come from a thousand times the text.
OTHER_BUDGET = 'another recipe and budget; see the differences'


def row(claim: str, reported: str, ours: str, seeds: int, verdict: str, why: str = '') -> dict[str, Any]:
  return {'claim': claim, 'reported': reported, 'ours': ours, 'seeds': seeds, 'verdict': verdict, 'why': why}


def judged(estimate: estimates.Estimate, true: bool | None) -> str:
  """`true` is whether the interval bears the claim out, None where it allows both."""
  if estimate.seeds < 2 or true is None:
    return UNDECIDED
  return REPRODUCED if true else REFUTED


def below(estimate: estimates.Estimate, limit: float) -> bool | None:
  """Whether the true value is below a limit; None where the interval holds the limit."""
  return True if estimate.high < limit else False if estimate.low > limit else None


def _relative(rows: Rows, variant: str, baseline: str) -> estimates.Estimate | None:
  """Perplexity of a variant over that of the baseline, less 1, paired by seed."""
  first, second = estimates.losses(rows, variant), estimates.losses(rows, baseline)
  shared = sorted(first.keys() & second.keys())
  return estimates.estimate([float(np.expm1(first[s] - second[s])) for s in shared]) if shared else None


def _percent(estimate: estimates.Estimate) -> str:
  return estimate.text(1, ' %', 100, sign=True)


def _of_rows(rows: Rows, variant: str, value: Callable[[dict[str, Any]], float]) -> estimates.Estimate | None:
  values = [value(row) for row in rows if row['variant'] == variant]
  return estimates.estimate(values) if values else None


def four_routings(rows: Rows) -> list[dict[str, Any]]:
  result = []
  if gap := _relative(rows, 'emergent', 'learned'):
    result.append(row('emergent within 5 % of a learned gate, in perplexity', '1.6753 against 1.6475 nats (+2.8 %)',
                      _percent(gap), gap.seeds, judged(gap, below(gap, 0.05)),
                      'the original ignored its gate in training'))
  if gap := _relative(rows, 'emergent', 'random'):
    result.append(row('emergent better than random, in perplexity', '1.6753 against 1.6749 nats (no better)',
                      _percent(gap), gap.seeds, judged(gap, below(gap, 0.0)), 'random in training too'))
  if gap := _relative(rows, 'emergent', 'dense'):
    result.append(row('emergent within 2 % of dense, in perplexity', '5.14 against 5.04', _percent(gap), gap.seeds,
                      judged(gap, below(gap, 0.02))))
  return result + _specialised(rows, 'emergent') + _counted(rows, 'emergent')


def _specialised(rows: Rows, variant: str) -> list[dict[str, Any]]:
  of = [row for row in rows if row['variant'] == variant and 'specialisation' in row]
  if not of:
    return []
  found = [float(np.mean(row['specialisation']['information'])) for row in of]
  above = all(information > null['most'] for row in of for information, null in
              zip(row['specialisation']['information'], row['specialisation']['null'], strict=True))
  null = float(np.mean([[n['mean'] for n in row['specialisation']['null']] for row in of]))
  return [row('tiles specialise: mutual information of class and tile above chance', 'letters to one tile 51 %, space '
              '68 %, punctuation 60 %', f'{estimates.estimate(found)}; chance {null:.5f}', len(of),
              REPRODUCED if above else REFUTED,
              'above each of 200 tables with the same totals, in every layer of every seed' if above else '')]


def _counted(rows: Rows, variant: str) -> list[dict[str, Any]]:
  of = [row for row in rows if row['variant'] == variant]
  if not of:
    return []
  parameters, state = of[0]['parameters']['routing'], of[0]['routing_state']
  return [row('no routing parameters', '0', f'{parameters} parameters, {state} numbers of state', len(of),
              REPRODUCED if not parameters else REFUTED)]


def option_a(rows: Rows) -> list[dict[str, Any]]:
  result = []
  reported = {'dense': 'PPL 5.04', 'emergent': 'PPL 81.35', 'random': 'PPL 85.59', 'first': 'PPL 70.84'}
  for routing, value in reported.items():
    if of := _of_rows(rows, 'dense', _loss_under(routing)):
      result.append(row(f'trained dense, evaluated {routing}', value, f'PPL {np.exp(of.mean):.2f} ({of} nats)',
                        of.seeds, NOT_COMPARABLE, OTHER_BUDGET))
  if of := _of_rows(rows, 'dense', lambda row: row['routings']['emergent'] - row['routings']['dense']):
    collapsed = None if of.low <= 1 <= of.high else of.low > 1
    result.append(row('a densely trained model collapses when one tile of four is computed', '+2.78 nats',
                      of.text(unit=' nats', sign=True), of.seeds, judged(of, collapsed), 'collapse: more than one nat'))
  if of := _of_rows(rows, 'dense', lambda row: row['routings']['emergent'] - row['routings']['random']):
    result.append(row('its signatures route better than chance all the same', '4.40 against 4.45 nats',
                      of.text(unit=' nats', sign=True), of.seeds, judged(of, below(of, 0.0))))
  if of := _of_rows(rows, 'dense', lambda row: row['fitted_gate'] - row['routings']['dense']):
    result.append(row('a gate fitted to the frozen model saves it', 'not tried',
                      of.text(unit=' nats from dense', sign=True), of.seeds, NOT_COMPARABLE))
  return result


def _loss_under(routing: str) -> Callable[[dict[str, Any]], float]:
  return lambda row: row['routings'][routing]


def option_b(rows: Rows) -> list[dict[str, Any]]:
  result = []
  if gap := _relative(rows, 'sparse', 'dense'):
    result.append(row('sparse within 2 % of dense, in perplexity', '5.14 against 5.04', _percent(gap), gap.seeds,
                      judged(gap, below(gap, 0.02))))
  if of := _of_rows(rows, 'sparse', lambda row: float(np.max(row['tile_load']))):
    result.append(row('no tile takes over: load of the busiest of all tiles', '54 % at worst', of.text(1, ' %', 100),
                      of.seeds, judged(of, below(of, 0.5)), 'a fair share is 25 %'))
  if of := _of_rows(rows, 'sparse', lambda row: float(np.mean(row['curves']['diversity'][-1][1]))):
    result.append(row('signature diversity above 30 % at the end', '0.009, and falling', str(of), of.seeds,
                      judged(of, None if of.low <= 0.3 <= of.high else of.low > 0.3)))
  return result + _specialised(rows, 'sparse')


def remedies(rows: Rows) -> list[dict[str, Any]]:
  result = []
  for variant, against in (('continued', 'sparse_twice'), ('distilled', 'sparse'),
                           ('continued_distilled', 'sparse_twice'), ('gradual', 'sparse_twice')):
    if gap := _relative(rows, variant, against):
      result.append(row(f'{variant}: within 5 % of native sparse training on as much text, in perplexity', 'not tried',
                        _percent(gap), gap.seeds, judged(gap, below(gap, 0.05)), f'held against {against}'))
  native = estimates.losses(rows, 'sparse')
  dropped = {row['seed']: row['routings']['emergent'] for row in rows if row['variant'] == 'tile_dropout'}
  if gap := estimates.gap(dropped, native):
    result.append(row('tile_dropout, evaluated with one tile: within 0.05 nats of native sparse training', 'not tried',
                      gap.text(unit=' nats', sign=True), gap.seeds, judged(gap, below(gap, 0.05))))
  return result


def hierarchy(rows: Rows) -> list[dict[str, Any]]:
  result = []
  for variant, fair in (('16_top_1', 'equal parameters'), ('16_top_4', 'equal compute as well')):
    if gap := _relative(rows, variant, '4_tiles'):
      result.append(row(f'16 tiles behind an index better than 4, {fair}, in perplexity', '16.67 against 19.26 '
                        '(-13.4 %)', _percent(gap), gap.seeds, judged(gap, below(gap, 0.0)),
                        "the original's tiles were dead"))
  return result


def controls(rows: Rows) -> list[dict[str, Any]]:
  information = {variant: {row['seed']: float(np.mean(row['specialisation']['information'])) for row in rows
                           if row['variant'] == variant and 'specialisation' in row}
                 for variant in ('emergent', 'random_keys')}
  more = estimates.gap(information['emergent'], information['random_keys'])
  result = [] if more is None else [
      row('tiles specialise more than behind keys that were drawn at random', 'not asked',
          more.text(sign=True, unit=' normalised mutual information'), more.seeds,
          judged(more, None if more.low <= 0 <= more.high else more.low > 0))]
  for variant in ('random_keys', 'hash', 'no_router_gradient'):
    if gap := _relative(rows, 'emergent', variant):
      result.append(row(f'emergent better than {variant}, in perplexity', 'not asked', _percent(gap), gap.seeds,
                        judged(gap, below(gap, 0.0))))
  return result


def six_patterns(rows: Rows) -> list[dict[str, Any]]:
  of = [row for row in rows if row['variant'] == '8_tiles' and 'patterns' in row]
  if not of:
    return []
  most = [max(len(set(favourite)) for favourite in row['patterns']['favourite']) for row in of]
  information = estimates.estimate([float(np.max(row['patterns']['information'])) for row in of])
  return [row('six patterns go to six different tiles', '6', f'{", ".join(map(str, most))} in the best layer, by seed; '
              f'mutual information there {information}', len(of), REPRODUCED if min(most) == 6 else REFUTED)]


def stability(rows: Rows) -> list[dict[str, Any]]:
  result = []
  for variant in ('emergent', 'learned'):
    if of := _of_rows(rows, variant, lambda row: float(np.mean(row['stability'][-1]['changed']))):
      result.append(row(f'{variant}: less than 10 % of tokens change tile between the last two checkpoints', '< 10 %',
                        of.text(1, ' %', 100), of.seeds, judged(of, below(of, 0.1))))
    if of := _of_rows(rows, variant, lambda row: max(float(np.mean(pair['changed'])) for pair in row['stability'])):
      result.append(row(f'{variant}: the same between any two', '< 10 %',
                        of.text(1, ' % at worst', 100), of.seeds,
                        judged(of, below(of, 0.1))))
  return result


def differences(rows: Rows, baseline: str, variants: Sequence[str]) -> list[dict[str, Any]]:
  """For suites that ask how much and not whether."""
  result = []
  for variant in variants:
    if variant != baseline and (gap := estimates.gap(estimates.losses(rows, variant),
                                                      estimates.losses(rows, baseline))):
      better = below(gap, 0.0)
      result.append(row(f'{variant} against {baseline}', '-', gap.text(unit=' nats', sign=True), gap.seeds,
                        'undecided' if better is None or gap.seeds < 2 else 'better' if better else 'worse'))
  return result


OF_SUITES: dict[str, Callable[[Rows], list[dict[str, Any]]]] = {
    'four_routings': four_routings, 'option_a': option_a, 'option_b': option_b, 'remedies': remedies,
    'hierarchy': hierarchy, 'controls': controls, 'six_patterns': six_patterns, 'stability': stability}


def of_suite(name: str, rows: Rows) -> list[dict[str, Any]]:
  """The verdicts of a suite, and the differences of all variants to the first."""
  variants = list(suites.SUITES[name].variants)
  return (OF_SUITES[name](rows) if name in OF_SUITES else []) + differences(rows, variants[0], variants)


def table(name: str, rows: Rows) -> str:
  """Losses of all variants, then the verdicts, as text."""
  lines = ['', f'{name}: {"variant":<22}{"seeds":>6}{"loss":>9}{"std":>9}']
  for variant in suites.SUITES[name].variants:
    if values := list(estimates.losses(rows, variant).values()):
      of = estimates.estimate(values)
      lines.append(f'{"":<{len(name) + 2}}{variant:<22}{of.seeds:6d}{of.mean:9.4f}'
                   + (f'{of.std:9.4f}' if of.seeds > 1 else f'{"-":>9}'))
  return '\n'.join(lines + [f'  {v["verdict"]:<15}{v["claim"]}: {v["ours"]}' for v in of_suite(name, rows)])
