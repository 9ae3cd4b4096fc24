"""Time a training step with and without an index over the tiles, as their number grows.

  python benchmarks/indexed_training.py

The model has two layers of the recipe with 64 ... 4,096 tiles of eight hidden units each. A character computes four
tiles. `flat` scores all tiles. `indexed` goes through sqrt(T) clusters, rounded down to a power of two, and probes four
of them. The work inside tiles is always the same, so only the cost of finding tiles grows.

Each variant runs in its own process, and the variants take turns. A measurement is the mean of --steps steps, by
default 100, so that it includes the one step in a hundred that rebuilds the clusters. The table gives medians over
rounds, and the scores that a character computes in a layer.
"""

import json
import statistics
import time

import variants
from absl import app, flags, logging

from trix_jax.system import host

TILES = (64, 256, 1024, 4096)
VARIANTS = tuple(f'{kind} T={tiles}' for tiles in TILES for kind in ('flat', 'indexed'))
PROBES, CONTEXT, BATCH = 4, 256, 16

_ROUNDS = flags.DEFINE_integer('rounds', 3, 'How often to measure each variant.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 100, 'Timed steps of a measurement, after two that are not.', lower_bound=1)
_JSON = flags.DEFINE_string('json', '', 'File for the results.')
_VARIANT = flags.DEFINE_enum(
  'variant', None, VARIANTS, 'Measure one variant in this process; used by the benchmark itself.'
)


def main(_):
  logging.set_verbosity(logging.ERROR)
  if _VARIANT.value:
    print(json.dumps(measure(_VARIANT.value)))
    return
  variants.check_writable(_JSON.value)
  times = variants.take_turns(
    VARIANTS, _ROUNDS.value, [f'--steps={_STEPS.value}'], lambda seconds: f'{1000 * seconds:8,.0f} ms a step'
  )
  rows = []
  print(f'\n{"tiles":>6}{"scores: flat":>14}{"indexed":>9}{"ms: flat":>10}{"indexed":>9}{"flat / indexed":>16}')
  for tiles in TILES:
    of = {kind: times[f'{kind} T={tiles}'] for kind in ('flat', 'indexed')}
    median = {kind: 1000 * statistics.median(values) for kind, values in of.items()}
    count = scores_of(tiles)
    print(
      f'{tiles:>6}{count["flat"]:>14,}{count["indexed"]:>9,}{median["flat"]:10.0f}{median["indexed"]:9.0f}'
      f'{median["flat"] / median["indexed"]:15.2f}x'
    )
    rows += [
      {
        'tiles': tiles,
        'kind': kind,
        'scores': count[kind],
        'milliseconds': round(median[kind], 1),
        'min': round(1000 * min(values), 1),
        'max': round(1000 * max(values), 1),
        'batch': BATCH,
        'context': CONTEXT,
      }
      for kind, values in of.items()
    ]
  variants.write(_JSON.value, rows)


def scores_of(tiles: int) -> dict[str, int]:
  """Return the products of a character with keys in a layer of each kind."""
  clusters = variants.clusters_of(tiles)
  return {'flat': tiles, 'indexed': clusters + PROBES * tiles // clusters}


def measure(name: str) -> float:
  """Return the mean seconds of a step."""
  host.prepare_cpu()

  import jax
  import training_step

  from trix_jax import configuration

  kind, size = name.split(' T=')
  tiles = int(size)
  settings = configuration.hierarchical_config(tiles, variants.clusters_of(tiles), PROBES, top_k=4, d_ff=8 * tiles)
  settings.model.layers = 2
  if kind == 'flat':
    settings.model.update({'clusters': 0, 'probes': 1})
  settings.model.context, settings.training.batch_size = CONTEXT, BATCH
  train_step, state, windows = training_step.prepare(configuration.parse(settings), vocabulary_size=65)
  start, before = 0.0, None
  for index in range(_STEPS.value + 2):
    if index == 2:
      jax.block_until_ready(state)
      start = time.perf_counter()
    state, metrics = train_step(state, windows, index)
    jax.block_until_ready(before)  # Wait as in training. With more steps in flight XLA's devices may wait for ever.
    before = metrics
  jax.block_until_ready(state)
  return (time.perf_counter() - start) / _STEPS.value


if __name__ == '__main__':
  app.run(main)
