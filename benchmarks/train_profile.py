"""Tell which parts of the model take the time of a training step, from a trace of XLA's operations.

  python benchmarks/train_profile.py --config=configs/sparse.py

It trains for a few steps on made-up characters. It sums the time of every operation by its part of the model, forward
and backward. An operation that XLA fused from several parts counts for the part of its result.
Times of several threads add up, so the sum is that of processor time.
"""

import collections
import glob
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import variants
from absl import app, flags, logging
from ml_collections import config_flags

from trix_jax.errors import InputError
from trix_jax.system import host

# Each part with signs of it in the scope of an operation; the first part that has one counts.
PARTS = {
  'dropout': ('Dropout',),
  'projections of attention': ('/query', '/key', '/value', '/out'),
  'tiles and routing': ('/ffn/',),
  'short convolutions': ('_convolution', '_pad'),
  'norms': ('_norm', 'RMSNorm', 'LayerNorm'),
  'attention': ('causal_attention',),
  'rest of the layers': ('layer_',),  # Rotary positions, residual sums.
  'embedding, head and loss': ('embedding', 'head', 'log_softmax', 'take_along_axis'),
  'optimiser': ('vmap()',),  # Muon orthogonalises stacks of matrices.
}
REST = 'sums, copies and the rest'
CONTAINERS = ('while', 'call', 'conditional')


def main(_):
  logging.set_verbosity(logging.ERROR)
  variants.check_writable(_JSON.value)
  host.prepare_cpu()
  import jax
  import numpy as np
  import training_step

  from trix_jax import configuration

  try:
    config = configuration.parse(_CONFIG.value)
  except InputError as error:
    sys.exit(f'error: {error}')
  step, state, windows = training_step.prepare(config, _VOCABULARY.value)
  index = np.int32(0)
  step = jax.jit(step, donate_argnums=0).lower(state, windows, index).compile()
  with tempfile.TemporaryDirectory() as folder:
    for steps, trace in ((2, False), (_STEPS.value, True)):
      if trace:
        jax.profiler.start_trace(folder)
      for _ in range(steps):
        state, metrics = step(state, windows, index)
        index = np.int32(index + 1)
        jax.block_until_ready((state, metrics))
    jax.profiler.stop_trace()
    [path] = glob.glob(os.path.join(folder, '**', '*.xplane.pb'), recursive=True)
    rows = report(sum_by_part(sum_by_operation(path), read_names(step.as_text() or '')))
  variants.write(_JSON.value, rows)


def sum_by_operation(path: str) -> collections.Counter:
  """Sum nanoseconds by the name of XLA's operation."""
  import jax

  total: collections.Counter = collections.Counter()
  for plane in jax.profiler.ProfileData.from_file(path).planes:
    for line in plane.lines:
      for event in line.events:
        stats = dict(event.stats)
        if 'hlo_op' in stats:
          total[stats['hlo_op']] += event.duration_ns
  return total


def read_names(hlo: str) -> dict[str, str]:
  """Return the scope in the model of every operation of a compiled program."""
  return dict(re.findall(r'%([\w.-]+) = .*metadata=\{op_name="([^"]*)"', hlo))


def sum_by_part(nanoseconds: Mapping[str, float], names: Mapping[str, str]) -> dict[tuple[str, str], float]:
  """Sum by part of the model and direction; leave out operations that contain others."""
  total: dict[tuple[str, str], float] = collections.defaultdict(float)
  for operation, value in nanoseconds.items():
    scope = names.get(operation, '')
    part = next((part for part, signs in PARTS.items() if any(sign in scope for sign in signs)), REST)
    if operation.split('.')[0] not in CONTAINERS:
      total[part, 'backward' if 'transpose(' in scope else 'forward'] += value
  return total


def report(total: Mapping[tuple[str, str], float]) -> list[dict[str, Any]]:
  """Print milliseconds of processor time a step, and return the rows."""
  rows: list[dict[str, Any]] = []
  for part in [*PARTS, REST]:
    forward, backward = (total.get((part, direction), 0) / 1e6 / _STEPS.value for direction in ('forward', 'backward'))
    rows.append({'part': part, 'forward_ms': round(forward, 2), 'backward_ms': round(backward, 2)})
  all_forward, all_backward = (sum(row[name] for row in rows) for name in ('forward_ms', 'backward_ms'))
  print(f'{"processor time a step":<32}{"forward":>12}{"backward":>12}{"share":>8}')
  for row in [*rows, {'part': 'all', 'forward_ms': all_forward, 'backward_ms': all_backward}]:
    share = (row['forward_ms'] + row['backward_ms']) / (all_forward + all_backward)
    print(f'{row["part"]:<32}{row["forward_ms"]:>9.1f} ms{row["backward_ms"]:>9.1f} ms{100 * share:>6.0f} %')
  return rows


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', None, 'Config of the run.', lock_config=True)
  flags.mark_flag_as_required('config')
  _STEPS = flags.DEFINE_integer('steps', 4, 'Traced steps.', lower_bound=1)
  _VOCABULARY = flags.DEFINE_integer('vocabulary', 65, 'Size of the vocabulary.', lower_bound=1)
  _JSON = flags.DEFINE_string('json', '', 'File for the sums.')
  app.run(main)
