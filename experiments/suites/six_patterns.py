"""Six kinds of text, of which nobody tells the model."""

import numpy as np

from experiments.claims import estimates
from experiments.claims.verdicts import Results, Verdict, in_all, make_verdict
from experiments.suites.suite import LEARNED, Suite, scaled_steps
from experiments.texts import PATTERNS


def judge_claims(results: Results) -> list[Verdict]:
  patterns = [result['patterns'] for result in results if result['variant'] == '8_tiles' and 'patterns' in result]
  if not patterns:
    return []
  # Take the layer that separates the kinds best.
  layers = [int(np.argmax(found['information'])) for found in patterns]
  at_layers = list(zip(patterns, layers, strict=True))
  different = [len(set(found['favourite'][layer])) for found, layer in at_layers]
  information = estimates.estimate([found['information'][layer] for found, layer in at_layers])
  counts = [np.asarray(found['counts'][layer], float) for found, layer in at_layers]
  least = min(float((counts_CT.max(axis=1) / counts_CT.sum(axis=1)).min()) for counts_CT in counts)
  ours = (
    f'{", ".join(map(str, different))} by seed, in the layer that tells patterns apart best; mutual information '
    f'there {information}'
  )
  return [
    make_verdict(
      'the most used tiles of six patterns are six different ones',
      '6',
      ours,
      len(patterns),
      in_all([number == 6 for number in different]),
      f'which is not to say that a pattern goes to one tile: {100 * least:.0f} % or more of each do',
    )
  ]


SUITE = Suite(
  'Six patterns',
  'Do six kinds of text go to six tiles, when nobody tells the model that there are six?',
  {'8_tiles': {}, 'learned': LEARNED},
  ('patterns', 'specialisation'),
  {'corpus': 'file', 'file': PATTERNS, 'model.layers': 2, 'model.tiles': 8, **scaled_steps(0.25)},
  verdicts=judge_claims,
)
