"""Carve a dense model before the last tenth of its training, and go on sparse."""

from experiments.claims.verdicts import NOT_ASKED, Results, Verdict, judge_gap
from experiments.suites.suite import DENSE, Settings, Suite, carve_out_of, scaled_steps, tiles

SIZES = {'128': (128, 32), '4': (4, 1)}
# Parts of the peaks of the recipe with which a trained model is finished, chosen for carves of seed 0.
PARTS = {'128': 0.1, '4': 0.3}


def with_gates_of_1(size: str) -> Settings:
  """Return settings for tiles as a carve has them. From the start, some sizes are better with probabilities."""
  return {**tiles(*SIZES[size]), 'model.gate': 'one_hot'}


def go_on(size: str, start: str) -> Settings:
  """Return settings for the last tenth of training from a run or a carve, as if it were a whole one."""
  return {'training.start_from': start, **with_gates_of_1(size), **scaled_steps(0.1)}


def finish(size: str, start: str) -> Settings:
  """Return settings for the last tenth of training with lower learning rates and no dropout."""
  rates = {'optimizer.learning_rate': 2e-2 * PARTS[size], 'optimizer.adam_learning_rate': 2e-3 * PARTS[size]}
  return {**go_on(size, start), **rates, 'model.dropout': 0.0}


def variants_with(size: str) -> dict[str, Settings]:
  """Return the variants with tiles of one size."""
  carved = carve_out_of('nine_tenths', *SIZES[size])
  return {
    f'{size}_carved': go_on(size, carved),
    f'{size}_native': tiles(*SIZES[size]),
    f'{size}_native_one_hot': with_gates_of_1(size),
    f'{size}_carved_finished': finish(size, carved),
    f'{size}_native_nine_tenths': {**with_gates_of_1(size), **scaled_steps(0.9)},
    f'{size}_native_finished': finish(size, f'{{{size}_native_nine_tenths}}'),
  }


def judge_claims(results: Results) -> list[Verdict]:
  found: list[Verdict] = []
  for size, (count, top_k) in SIZES.items():
    for carved, native, words in (
      ('carved', 'native', 'trained on: within 1 % of native sparse training with probabilities'),
      ('carved', 'native_one_hot', 'trained on: within 1 % of native sparse training with gates of 1'),
      ('carved_finished', 'native', 'finished: within 1 % of native sparse training with probabilities'),
      ('carved_finished', 'native_one_hot', 'finished: within 1 % of native sparse training with gates of 1'),
      ('carved_finished', 'native_finished', 'finished: within 1 % of native sparse training that is finished alike'),
    ):
      claim = f'{top_k} of {count} tiles, carved after nine tenths and {words}, in perplexity'
      found += judge_gap(results, f'{size}_{carved}', f'{size}_{native}', claim, NOT_ASKED, 0.01)
  return found


SUITE = Suite(
  'Carve, then train on',
  'A model is trained dense for nine tenths of the steps, carved, and trained on with few tiles for the last tenth. '
  'Is it as good as one that had few tiles from the start, after as much text? To train on repeats the whole schedule '
  'in a tenth of the steps. To finish takes lower learning rates and no dropout.',
  {'nine_tenths': {**DENSE, **scaled_steps(0.9)}, **variants_with('128'), **variants_with('4')},
  against={
    'nine_tenths': None,
    **{f'{size}_{name}': None for size in SIZES for name in ('native', 'native_nine_tenths')},
    **{
      f'{size}_{other}': f'{size}_native'
      for size in SIZES
      for other in ('carved', 'native_one_hot', 'carved_finished', 'native_finished')
    },
  },
  verdicts=judge_claims,
)
