"""Sixteen tiles behind an index, and the parts of the indexed layer."""

import math

import numpy as np

from experiments.claims import estimates
from experiments.claims.verdicts import (
  NOT_ASKED,
  NOT_COMPARABLE,
  OTHER_BUDGET,
  Results,
  Verdict,
  gap_in_perplexity,
  in_all,
  judge,
  judge_parameters,
  make_verdict,
  percent,
)
from experiments.suites.suite import BIASED, Suite, control, index, tiles
from trix_jax.nn import controls


def judge_claims(results: Results) -> list[Verdict]:
  return [
    *_judge_gain(results),
    *_judge_use(results),
    *judge_parameters(results, '16_top_4', NOT_ASKED, 'behind an index: '),
    *_judge_parts(results),
  ]


def _judge_gain(results: Results) -> list[Verdict]:
  found = []
  for variant, fair in (('16_top_1', 'equal parameters'), ('16_top_4', 'equal compute as well')):
    if gap := gap_in_perplexity(results, variant, '4_tiles'):
      outside = '; a gain of 13.4 % is outside of the interval' * (gap.seeds > 1 and gap.low > -0.134)
      found.append(
        judge(
          f'16 tiles behind an index better than 4, {fair}, in perplexity',
          '16.67 against 19.26 (-13.4 %)',
          percent(gap),
          gap,
          0.0,
          f"the original's tiles were dead{outside}",
        )
      )
  return found


def _judge_use(results: Results) -> list[Verdict]:
  measured = [result for result in results if result['variant'] == '16_top_1']
  if not measured:
    return []
  dead = [sum(result['dead_tiles']) for result in measured]
  train = estimates.estimate(
    [float(np.mean([loss for _, loss in result['curves']['train_loss'][-4:]])) for result in measured]
  )
  loss = estimates.estimate([result['loss'] for result in measured])
  return [
    make_verdict(
      '16 of 16 tiles in use',
      '16 of 16, whose output was 0',
      f'dead tiles of all layers, by seed: {", ".join(map(str, dead))}',
      len(measured),
      in_all([not number for number in dead]),
      'here idle tiles become copies of busy ones now and then',
    ),
    make_verdict(
      'perplexity in training and validation',
      '6.68 and 14.91 (epoch 3)',
      f'{math.exp(train.mean):.2f} and {math.exp(loss.mean):.2f}',
      len(measured),
      None,
      OTHER_BUDGET,
      NOT_COMPARABLE,
    ),
  ]


def _judge_parts(results: Results) -> list[Verdict]:
  found = []
  for ablation in controls.ABLATIONS:
    if gap := gap_in_perplexity(results, ablation, '16_top_4'):
      claim = f'an indexed layer is worse by more than 1 % with {ablation}, in perplexity'
      found.append(judge(claim, NOT_ASKED, percent(gap), gap, 0.01, opposite=True))
  return found


SUITE = Suite(
  'Sixteen tiles behind an index',
  'Two layers: against four tiles, and without what the indexed layer has. `all_probed` is no index but has its '
  'norm, output scales and averages, which `flat` lacks.',
  {
    '4_tiles': BIASED,
    '16_top_1': {**tiles(16, 1), **index(4, 2)},
    '16_top_4': {**tiles(16, 4), **index(4, 2)},
    'flat': {**tiles(16, 4), **BIASED},
    'all_probed': {**tiles(16, 4), **index(4, 4)},
    'frozen': {**tiles(16, 4), **index(4, 2), 'hierarchy.freeze_after': 0.25},
    'no_average': {**tiles(16, 4), **index(4, 2), 'hierarchy.average_decay': 0.0},
    **{name: {**tiles(16, 4), **index(4, 2), **control(name)} for name in controls.ABLATIONS},
  },
  ('specialisation',),
  {'model.layers': 2},
  {'all_probed': 'flat', **dict.fromkeys(('frozen', 'no_average', *controls.ABLATIONS), '16_top_4')},
  verdicts=judge_claims,
)
