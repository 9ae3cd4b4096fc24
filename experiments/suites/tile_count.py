"""The same hidden units in more and smaller tiles."""

from experiments.claims.verdicts import NOT_ASKED, Results, Verdict, judge_gap
from experiments.suites.suite import Suite, tiles


def judge_claims(results: Results) -> list[Verdict]:
  found: list[Verdict] = []
  for variant, words in (
    ('64_top_16', '16 of 64 tiles, the same compute'),
    ('16_top_1', 'one of 16, a quarter of it'),
    ('64_top_1', 'one of 64, a sixteenth of it'),
  ):
    claim = f'{words}: within 2 % of one of 4 tiles, in perplexity'
    found += judge_gap(results, variant, '4_top_1', claim, NOT_ASKED, 0.02)
  return found


SUITE = Suite(
  'Number of tiles',
  'The same hidden units in more and smaller tiles, a quarter of them computed, or one tile only.',
  {
    '4_top_1': {},
    '8_top_2': tiles(8, 2),
    '16_top_4': tiles(16, 4),
    '32_top_8': tiles(32, 8),
    '64_top_16': tiles(64, 16),
    '8_top_1': tiles(8, 1),
    '16_top_1': tiles(16, 1),
    '32_top_1': tiles(32, 1),
    '64_top_1': tiles(64, 1),
  },
  ('specialisation',),
  verdicts=judge_claims,
)
