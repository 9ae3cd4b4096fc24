"""Candidates for a better recipe of at most 842,817 parameters: other addresses, finer tiles, longer training.

The first variant is the recipe. One seed of each candidate tells which are worth five.
"""

from experiments.claims.verdicts import Results, Verdict, judge_better
from experiments.suites.suite import TOKEN, UNSCORED, Suite, control, scaled_steps, tiles

TWICE = scaled_steps(2)
FINE_BY_TOKEN = {**tiles(16, 4), **TOKEN}

RECIPE = {**FINE_BY_TOKEN, **TWICE, 'model.dropout': 0.05}  # Of configs/sparse.py since.

LONGER = {
  'twice': TWICE,
  'twice_dropout_0.05': {**TWICE, 'model.dropout': 0.05},
  '16_top_4_token_twice': {**FINE_BY_TOKEN, **TWICE},
  '16_top_4_token_twice_dropout_0.05': RECIPE,
  '16_top_4_token_twice_dropout_0.1': {**FINE_BY_TOKEN, **TWICE, 'model.dropout': 0.1},
}


def judge_claims(results: Results) -> list[Verdict]:
  new = '16_top_4_token_twice_dropout_0.05'
  pairs = (
    (new, 'recipe', 'four of 16 tiles by token, with twice the text and dropout 0.05, better than the recipe before'),
    (new, '16_top_4_token', 'the same better than with half of that text and no dropout'),
  )
  return judge_better(results, pairs)


SUITE = Suite(
  'A better recipe',
  'Which settings lower the loss of the recipe, without more parameters?',
  {
    'recipe': {},
    '4_token': TOKEN,
    '16_top_4': tiles(16, 4),
    '16_top_1_token': {**tiles(16, 1), **TOKEN},
    '16_top_4_token': FINE_BY_TOKEN,
    '4_hash': {**control('hash'), **UNSCORED},
    **LONGER,
  },
  ('specialisation',),
  against=dict.fromkeys(LONGER, 'twice') | {'twice': None},
  verdicts=judge_claims,
)
