"""Carve a dense model before the last tenth of its training, and go on sparse."""

from experiments.findings.verdicts import NOT_ASKED, Results, Verdict, judge_gap
from experiments.suites.suite import DENSE, Settings, Suite, carve_out_of, scaled_steps, tiles

SIZES = {'4': (4, 1), '128': (128, 32)}


def go_on(count: int, top_k: int) -> Settings:
  """Return settings for the last tenth of training, of what was carved out of a dense model."""
  carved = carve_out_of('nine_tenths', count, top_k)
  return {'training.start_from': carved, **tiles(count, top_k), 'model.gate': 'one_hot', **scaled_steps(0.1)}


def judge_claims(results: Results) -> list[Verdict]:
  found: list[Verdict] = []
  for name, (count, top_k) in SIZES.items():
    claim = f'{top_k} of {count} tiles, carved after nine tenths and trained on: within 1 % of native sparse training'
    found += judge_gap(results, f'{name}_carved', f'{name}_native', f'{claim}, in perplexity', NOT_ASKED, 0.01)
  return found


SUITE = Suite(
  'Carve, then train on',
  'A model is trained dense for nine tenths of the steps, carved, and trained on with few tiles for the last tenth. '
  'Is it as good as one that had few tiles from the start, after as much text?',
  {
    **{f'{name}_native': tiles(*sizes) for name, sizes in SIZES.items()},
    'nine_tenths': {**DENSE, **scaled_steps(0.9)},
    **{f'{name}_carved': go_on(*sizes) for name, sizes in SIZES.items()},
  },
  against={'nine_tenths': None, '128_native': None, **{f'{name}_carved': f'{name}_native' for name in SIZES}},
  verdicts=judge_claims,
)
