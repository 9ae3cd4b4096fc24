"""Carve a dense model before the last tenth of its training, and go on sparse."""

from experiments.findings.verdicts import NOT_ASKED, Results, Verdict, judge_gap
from experiments.suites.suite import DENSE, Settings, Suite, carve_out_of, scaled_steps, tiles

SIZES = {'128': (128, 32), '4': (4, 1)}
# A carve has gates of 1. A model that is sparse from its start is better with probabilities in some sizes.
ONE_HOT = {'model.gate': 'one_hot'}


def go_on(count: int, top_k: int) -> Settings:
  """Return settings for the last tenth of training, of what was carved out of a dense model."""
  carved = carve_out_of('nine_tenths', count, top_k)
  return {'training.start_from': carved, **tiles(count, top_k), **ONE_HOT, **scaled_steps(0.1)}


def judge_claims(results: Results) -> list[Verdict]:
  found: list[Verdict] = []
  for name, (count, top_k) in SIZES.items():
    for native, gates in ((f'{name}_native', 'probabilities'), (f'{name}_native_one_hot', 'gates of 1')):
      claim = f'{top_k} of {count} tiles, carved after nine tenths and trained on: within 1 % of native sparse training'
      found += judge_gap(results, f'{name}_carved', native, f'{claim} with {gates}, in perplexity', NOT_ASKED, 0.01)
  return found


SUITE = Suite(
  'Carve, then train on',
  'A model is trained dense for nine tenths of the steps, carved, and trained on with few tiles for the last tenth. '
  'Is it as good as one that had few tiles from the start, after as much text?',
  {
    'nine_tenths': {**DENSE, **scaled_steps(0.9)},
    '128_carved': go_on(*SIZES['128']),
    '128_native': tiles(*SIZES['128']),
    '128_native_one_hot': {**tiles(*SIZES['128']), **ONE_HOT},
    '4_carved': go_on(*SIZES['4']),
    '4_native': tiles(*SIZES['4']),
    '4_native_one_hot': {**tiles(*SIZES['4']), **ONE_HOT},
  },
  against={
    'nine_tenths': None,
    **{f'{name}_native': None for name in SIZES},
    **{f'{name}_{other}': f'{name}_native' for name in SIZES for other in ('carved', 'native_one_hot')},
  },
  verdicts=judge_claims,
)
