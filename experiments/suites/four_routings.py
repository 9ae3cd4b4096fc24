"""Four routings, each used in training."""

from experiments.claims.verdicts import (
  Results,
  Verdict,
  judge_gap,
  judge_parameters,
  judge_specialisation,
)
from experiments.suites.suite import DENSE, LEARNED, RANDOM, Suite


def judge_claims(results: Results) -> list[Verdict]:
  return [
    *judge_gap(
      results,
      'emergent',
      'learned',
      'emergent within 5 % of a learned gate, in perplexity',
      '1.6753 against 1.6475 nats (+2.8 %)',
      0.05,
      'the original ignored its gate in training',
    ),
    *judge_gap(
      results,
      'emergent',
      'random',
      'emergent better than random, in perplexity',
      '"better", with 1.6753 against 1.6749 nats',
      0.0,
      'drawn for every character at every step, in training too; Controls has a hash and keys that were drawn once',
    ),
    *judge_specialisation(results, 'emergent'),
    *judge_parameters(results, 'emergent'),
  ]


SUITE = Suite(
  'Four routings',
  'Is routing by reading as good as a learned gate, and better than chance, where each is used in training?',
  {'emergent': {}, 'learned': LEARNED, 'random': RANDOM, 'dense': DENSE},
  ('routings', 'specialisation'),
  verdicts=judge_claims,
)
