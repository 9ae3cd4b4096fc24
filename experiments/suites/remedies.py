"""Ways from a densely trained model to a sparse one."""

from experiments.claims.verdicts import NOT_ASKED, Results, Verdict, judge_gap
from experiments.suites.suite import DENSE, Suite, control, scaled_steps


def judge_claims(results: Results) -> list[Verdict]:
  found: list[Verdict] = []
  for variant in ('continued', 'distilled', 'continued_distilled', 'gradual', 'tile_dropout'):
    baseline = SUITE.baseline(variant)
    if baseline:
      claim = f'{variant}: within 5 % of native sparse training, in perplexity'
      new = '; its own weights start at random, and the text of its teacher is not counted' * (variant == 'distilled')
      found += judge_gap(results, variant, baseline, claim, NOT_ASKED, 0.05, f'held against {baseline}{new}')
  return found


SUITE = Suite(
  'Remedies for dense training',
  'Can a densely trained model be brought to what sparse training from the start gives? Those that start from a '
  'dense model have seen twice the text, as `sparse_twice` has, and keep the gate of 1 that it was trained with. '
  'The text of a teacher is not counted. `tile_dropout` is trained dense; its loss is that with one tile, of the '
  'checkpoint that is best with all.',
  {
    'sparse': {},
    'continued': {'training.start_from': '{dense}', 'model.gate': 'one_hot'},
    'distilled': {'loss.teacher': '{dense}'},
    'sparse_twice': scaled_steps(2),
    'dense': DENSE,
    'continued_distilled': {'training.start_from': '{dense}', 'loss.teacher': '{dense}', 'model.gate': 'one_hot'},
    'gradual': {'training.start_from': '{dense}', 'model.gate': 'one_hot', **control('gradual')},
    'tile_dropout': {**DENSE, **control('tile_dropout')},
  },
  ('routings',),
  against=dict.fromkeys(('continued', 'continued_distilled', 'gradual'), 'sparse_twice') | {'sparse_twice': None},
  evaluated={'tile_dropout': 'emergent'},
  verdicts=judge_claims,
)
