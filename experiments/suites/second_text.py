"""The recipe and what it is compared with, on a text that no setting was chosen on."""

from experiments.claims.verdicts import Results, Verdict, judge_better
from experiments.suites.better import FINE_BY_TOKEN, RECIPE
from experiments.suites.suite import DENSE, LEARNED, UNSCORED, Suite, control, tiles
from experiments.texts import KING_JAMES


def judge_claims(results: Results) -> list[Verdict]:
  new, old = '16_top_4_token', '4_stream'
  pairs = (
    (new, old, 'primary: four of 16 tiles by token better than the recipe before, one of four by the stream'),
    (new, '16_top_4_learned_token', 'signatures better than a learned gate, both of the token'),
    (new, '16_top_4_hash', 'signatures better than four tiles of each token that are drawn at random and stay'),
    (new, 'dense', 'four of 16 tiles by token better than all of them'),
    ('recipe', old, 'the recipe, with twice the text, better than the recipe before'),
  )
  return judge_better(results, pairs)


SUITE = Suite(
  'A second text',
  'Do the differences of TinyShakespeare hold on the King James Bible, on which no setting was chosen? All variants '
  'but the recipe have the training of version 0.2, so that they read as much text.',
  {
    '16_top_4_token': FINE_BY_TOKEN,
    '4_stream': {},
    '16_top_4_learned_token': {**FINE_BY_TOKEN, **LEARNED},
    '16_top_4_hash': {**tiles(16, 4), **control('hash_drawn'), **UNSCORED},
    'dense': DENSE,
    'recipe': RECIPE,
  },
  ('specialisation',),
  {'corpus': 'file', 'file': KING_JAMES},
  against={'recipe': None},
  verdicts=judge_claims,
)
