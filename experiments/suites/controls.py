"""Controls: what reading signatures is worth."""

import numpy as np

from experiments.claims import estimates
from experiments.claims.verdicts import (
  NOT_ASKED,
  Results,
  Verdict,
  judge,
  judge_gap,
)
from experiments.suites.suite import LEARNED, Suite, control


def judge_claims(results: Results) -> list[Verdict]:
  return _judge_specialisation(results) + _judge_losses(results)


def _judge_specialisation(results: Results) -> list[Verdict]:
  information = {
    variant: {
      result['seed']: float(np.mean(result['specialisation']['information']))
      for result in results
      if result['variant'] == variant and 'specialisation' in result
    }
    for variant in ('emergent', 'random_keys', 'kmeans_keys')
  }
  found = []
  for name, words in (('random_keys', 'that were drawn at random'), ('kmeans_keys', 'that follow activations')):
    if more := estimates.gap(information['emergent'], information[name]):
      claim = f'tiles specialise more than behind keys {words}'
      ours = more.text(sign=True, unit=' normalised mutual information')
      found.append(judge(claim, NOT_ASKED, ours, more, 0.0, opposite=True))
  return found


def _judge_losses(results: Results) -> list[Verdict]:
  found: list[Verdict] = []
  for name in ('random_keys', 'kmeans_keys', 'hash', 'no_router_gradient', 'no_signature_gradient'):
    for variant in filter(None, dict.fromkeys(('emergent', SUITE.baseline(name)))):
      found += judge_gap(results, variant, name, f'{variant} better than {name}, in perplexity', NOT_ASKED, 0.0)
  return found


SUITE = Suite(
  'Controls',
  'What is it that reading signatures is worth? Each control takes one part of it away, or routes by something '
  'else, and is held against what differs from it in little more: `hash` has no balance loss either, and like '
  '`no_router_gradient` no gradient from routing, neither to signatures nor to activations.',
  {
    'emergent': {},
    'one_hot_gate': {'model.gate': 'one_hot'},
    'no_balance_loss': {'loss.balance_weight': 0.0},
    'no_router_gradient': control('no_router_gradient'),
    'no_signature_gradient': control('no_signature_gradient'),
    'gumbel': control('gumbel'),
    'hash': {**control('hash'), 'loss.balance_weight': 0.0},
    'random_keys': control('random_keys'),
    'kmeans_keys': control('kmeans_keys'),
    'learned': LEARNED,
  },
  ('specialisation',),
  against={'no_router_gradient': 'no_balance_loss', 'hash': 'one_hot_gate'},
  verdicts=judge_claims,
)
