"""Four routings, each used in training."""

from experiments.findings.verdicts import (
  Results,
  Verdict,
  gap_in_perplexity,
  judge,
  judge_parameters,
  judge_specialisation,
  percent_and_nats,
)
from experiments.suites.suite import DENSE, LEARNED, RANDOM, Suite


def judge_claims(results: Results) -> list[Verdict]:
  found = []
  if gap := gap_in_perplexity(results, 'emergent', 'learned'):
    found.append(
      judge(
        'emergent within 5 % of a learned gate, in perplexity',
        '1.6753 against 1.6475 nats (+2.8 %)',
        percent_and_nats(gap, results, 'emergent', 'learned'),
        gap,
        0.05,
        'the original ignored its gate in training',
      )
    )
  if gap := gap_in_perplexity(results, 'emergent', 'random'):
    found.append(
      judge(
        'emergent better than random, in perplexity',
        '"better", with 1.6753 against 1.6749 nats',
        percent_and_nats(gap, results, 'emergent', 'random'),
        gap,
        0.0,
        'drawn for every character at every step, in training too; Controls has a hash and keys that were drawn once',
      )
    )
  return found + judge_specialisation(results, 'emergent') + judge_parameters(results, 'emergent')


SUITE = Suite(
  'Four routings',
  'Is routing by reading as good as a learned gate, and better than chance, where each is used in training?',
  {'emergent': {}, 'learned': LEARNED, 'random': RANDOM, 'dense': DENSE},
  ('routings', 'specialisation'),
  verdicts=judge_claims,
)
