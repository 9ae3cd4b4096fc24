"""The recipe and what it is compared with, on a text that no setting was chosen on."""

from experiments.findings.verdicts import NOT_ASKED, Results, Verdict, judge_gap
from experiments.suites.better import FINE_BY_TOKEN, RECIPE
from experiments.suites.suite import DENSE, LEARNED, UNSCORED, Suite, control
from experiments.texts import KING_JAMES


def judge_claims(results: Results) -> list[Verdict]:
  found: list[Verdict] = []
  for other, words in (
    ('4_stream', 'primary: four of 16 tiles by token better than the recipe before, one of four by the stream'),
    ('16_top_4_learned_token', 'signatures better than a learned gate, both of the token'),
    ('4_hash', 'four of 16 tiles by token better than one of four by a hash of the token'),
    ('dense', 'four of 16 tiles by token better than all of them'),
  ):
    found += judge_gap(results, '16_top_4_token', other, f'{words}, in perplexity', NOT_ASKED, 0.0)
  return found


SUITE = Suite(
  'A second text',
  'Do the differences of TinyShakespeare hold on the King James Bible, on which no setting was chosen? All variants '
  'but the recipe have the training of version 0.2, so that they read as much text.',
  {
    '16_top_4_token': FINE_BY_TOKEN,
    '4_stream': {},
    '16_top_4_learned_token': {**FINE_BY_TOKEN, **LEARNED},
    '4_hash': {**control('hash'), **UNSCORED},
    'dense': DENSE,
    'recipe': RECIPE,
  },
  ('specialisation',),
  {'corpus': 'file', 'file': KING_JAMES},
  against={'recipe': None},
  verdicts=judge_claims,
)
