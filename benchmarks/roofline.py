"""Count the least that a model must read and compute, and tell how long this machine would take for it.

  python benchmarks/roofline.py --config=configs/sparse.py

It counts a step of decoding, a prompt and a training step from a config alone: for every part of the model its bytes,
its operations and the calls that it takes. It measures the machine with the threads that XLA has here: operations a
second, bytes a second from memory of a size, and an empty call of a kernel. A part takes at least the longer of its
bytes and its operations. A step takes the sum of its parts and its calls.

A part reads some bytes again in every step: weights, keys and values, in training also activations and moments. They
come from memory as large as all that a step reads again. What a call takes from another comes from memory of its own
size. A multiplication and an addition are two operations. A batch reads as many tiles as tokens would that choose
independently of one another, all tiles alike. `inference_speed.py` and `train_speed.py` print which share of this
roofline they reach.
"""

import functools
import math
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import variants
from absl import app, flags
from ml_collections import config_flags

import xla_kernels
from trix_jax import configuration
from trix_jax.core import layers
from trix_jax.errors import InputError
from trix_jax.inference import weights
from trix_jax.inference.weights import InferenceConfig
from trix_jax.nn import transformer
from trix_jax.training import optimizers
from trix_jax.training.step import init_state
from xla_kernels import benchmark

FLOAT = 4  # Bytes.
NEWTON_SCHULZ_STEPS = 5  # Of Muon in optax.


class Part(NamedTuple):
  """A part of a model in one step.

  Attributes:
    name: of the part.
    bytes: that every step reads again.
    handed: bytes that it takes from the part before and hands on.
    operations: arithmetic.
    calls: of kernels.
    kind: of the operations, `int8` or `float32`.
  """

  name: str
  bytes: float
  handed: float = 0.0
  operations: float = 0.0
  calls: int = 0
  kind: str = 'int8'


def count_forward(config: InferenceConfig, rows: int, new: int, before: int = 0) -> list[Part]:
  """Count a packed model's pass over `new` tokens of each row that follow `before` tokens; the head reads the last."""
  model, ffn, V = config.model, config.model.ffn, config.vocabulary_size
  D, N, L = model.d_model, rows * new, model.layers
  sizes = {
    name: np.dtype(entry.dtype).itemsize * math.prod(entry.shape) for name, entry in weights.layout(config).items()
  }

  def size(*ends):
    return sum(bytes_ for name, bytes_ in sizes.items() if name.endswith(ends))

  attention_kind, head_kind = ('float32' if of == 'float32' else 'int8' for of in (config.attention, config.head))
  seen = sum(before + token + 1 for token in range(new))  # Keys that a row's new tokens see.
  width = 1 if config.key_values == jnp.int8 else FLOAT
  scales = 0 if width == FLOAT else FLOAT * model.heads
  state = 2 * (layers.CONVOLUTION_WIDTH - 1) * rows * D * FLOAT if model.form == 'modern' else 0
  cached = 2 * rows * (before + new) * (D * width + scales)
  tiles = ffn.tiles * (1 - (1 - _active(ffn) / ffn.tiles) ** N)
  return [
    Part('embedding', N * (D + FLOAT), N * D * FLOAT),
    Part(
      'norms and convolutions',
      size('_norm.scale', '_norm.bias', '_convolution') + 2 * L * state,
      (2 * L + 1) * 4 * N * D * FLOAT,
      calls=2 * L + 1,
    ),
    Part(
      'projections',
      size('.qkv.weights', '.out.weights'),
      L * N * (D + 3 * D + D + D) * FLOAT,
      L * 2 * N * 4 * D * D,
      2 * L,
      attention_kind,
    ),
    Part('attention', L * cached, L * N * 4 * D * FLOAT, L * 4 * rows * seen * D, L, attention_kind),
    Part(
      'tiles',
      size('.up', '.down', '.up_scale', '.down_scale') * tiles / ffn.tiles,
      L * 2 * N * D * FLOAT,
      L * 2 * N * _active(ffn) * 2 * D * ffn.hidden,
      L,
    ),
    _count_routing(config, N, size),
    Part('head', size('head.weights'), rows * (D + V) * FLOAT, 2 * rows * D * V, 1, head_kind),
  ]


def _active(ffn):
  return ffn.tiles if ffn.way.takes_all else ffn.top_k


def _count_routing(config, N, size):
  ffn, L = config.model.ffn, config.model.layers
  if ffn.has_fixed_addresses:
    return Part('routing', L * N * ffn.top_k * (2 + FLOAT))
  if not ffn.way.by_scores:
    return Part('routing', 0)
  keys = ffn.tiles if not ffn.clusters else ffn.clusters + ffn.probes * (ffn.tiles // ffn.clusters)
  operations = L * 2 * N * keys * ffn.d_model
  return Part('routing', size('.signatures', '.clusters') * min(1, keys * N / ffn.tiles), operations=operations)


def count_training(config: configuration.RunConfig, vocabulary_size: int) -> list[Part]:
  """Count a training step: the forward products once and the backward ones twice, and the optimiser."""
  model, ffn = config.model, config.model.ffn
  D, L, context = model.d_model, model.layers, model.context
  N = config.training.batch_size * context
  params = jax.eval_shape(lambda: init_state(config, transformer.TransformerLM(model, vocabulary_size)).params)
  scalars = transformer.count_parameters(params)

  def part(name, width, operations):
    """Of products: their inputs and outputs, `width` numbers a token, pass forward once and backward twice."""
    return Part(name, 3 * N * width * FLOAT, operations=3 * N * operations, kind='float32')

  muon = 0
  if config.optimizer.name == 'muon':
    marks = jax.tree.leaves(optimizers.mark_matrices(params), is_leaf=lambda mark: not isinstance(mark, dict))
    for leaf, mark in zip(jax.tree.leaves(params), marks, strict=True):
      if mark is not None:
        few, many = sorted(leaf.shape[-2:])
        matrices = math.prod(leaf.shape[:-2])
        muon += matrices * NEWTON_SCHULZ_STEPS * 2 * (2 * few * few * many + few**3)
  return [
    part('norms and convolutions', L * 2 * 3 * D, 0),
    part('projections', L * 8 * D, L * 2 * 4 * D * D),
    part('attention', L * 4 * D, L * 4 * D * (context + 1) / 2),
    part('tiles', L * (2 * D + 2 * _active(ffn) * ffn.hidden), L * 4 * _active(ffn) * D * ffn.hidden),
    part('routing', 0, L * 2 * ffn.tiles * D if ffn.way.by_scores else 0),
    part('head', D + vocabulary_size, 2 * D * vocabulary_size),
    # Reads parameters, gradients and moments, and writes all but the gradients.
    Part('optimiser', scalars * FLOAT * (5 if muon else 7), operations=muon, kind='float32'),
  ]


@functools.cache
def measure_operations(kind: str) -> float:
  """Measure operations a µs: `int8` ones from registers, `float32` ones of XLA's fastest product of several."""
  if kind == 'int8':
    xla_kernels.register()
    return 1e3 * benchmark.measured_peak()
  rates = []
  for rows, columns in ((256, 256), (1024, 128), (4096, 128), (1024, 1024)):
    x, weights = jnp.ones((rows, columns)), jnp.ones((columns, columns))
    rates.append(2 * rows * columns**2 / benchmark.timed_calls(jax.jit(jnp.matmul), x, [weights]))
  return max(rates)


def measure_bandwidth(size: float) -> float:
  """Measure bytes a µs from memory of a size, which it rounds to four steps a power of two."""
  return _bandwidth(round(2 ** (round(4 * math.log2(max(size, 1 << 12))) / 4)) // 64 * 64)


@functools.cache
def _bandwidth(size):
  xla_kernels.register()
  return 1e3 * benchmark.measured_bandwidth(size)


@functools.cache
def measure_call(steps: int = 10_000) -> float:
  """Measure µs of a kernel that has nothing to do, as a step of a compiled loop."""
  one = jnp.ones((1, 1))
  looped = jax.jit(
    lambda x: jax.lax.scan(lambda x, _: (xla_kernels.normalise(x, one[0], None)[1], None), x, length=steps)[0]
  )
  return benchmark.timed_calls(looped, one) / steps


def least_microseconds(parts: list[Part]) -> list[float]:
  """Return the time that each part of a step takes at least on this machine."""
  bandwidth = measure_bandwidth(sum(part.bytes for part in parts))
  return [
    max(
      part.bytes / bandwidth + part.handed / measure_bandwidth(part.handed / max(1, part.calls)),
      part.operations / measure_operations(part.kind),
    )
    + part.calls * measure_call()
    for part in parts
  ]


def describe(title: str, parts: list[Part]) -> list[dict[str, Any]]:
  """Print a table of a step's parts, and return its rows."""
  walked = sum(part.bytes for part in parts)
  print(f'\n{title}: {measure_bandwidth(walked) / 1e3:,.1f} GB/s from memory of {walked / 1e3:,.0f} KB')
  columns = {'bytes': (1e3, 1), 'handed': (1e3, 1), 'operations': (1e6, 3), 'calls': (1, 0), 'microseconds': (1, 2)}
  print(f'  {"":<24}{"KB":>12}{"KB handed":>12}{"M operations":>14}{"calls":>8}{"us":>12}')
  rows = [
    {'step': title, **part._asdict(), 'microseconds': least}
    for part, least in zip(parts, least_microseconds(parts), strict=True)
  ]
  for row in [*rows, {'name': 'all', **{name: sum(row[name] for row in rows) for name in columns}}]:
    numbers = [
      f'{row[name] / unit:>{width},.{digits}f}'
      for (name, (unit, digits)), width in zip(columns.items(), (12, 12, 14, 8, 12), strict=True)
    ]
    print(f'  {row["name"]:<24}' + ''.join(numbers))
  return rows


def main(_):
  variants.check_writable(_JSON.value)
  if not all(count.isdecimal() and int(count) for count in _ROWS.value):
    sys.exit(f'error: --rows={",".join(_ROWS.value)}: give numbers of at least 1, as in --rows=1,64')
  try:
    config = configuration.parse(_CONFIG.value)
    packed = InferenceConfig(config.model, _VOCABULARY.value)
  except InputError as error:
    sys.exit(f'error: {error}')
  before = config.model.context // 2
  print(
    f'{measure_operations("int8") / 1e3:,.0f} GOP/s of int8 by {xla_kernels.active_path()}, '
    f'{measure_operations("float32") / 1e3:,.0f} GFLOP/s, {measure_call():.2f} us a call'
  )
  rows = []
  for count in map(int, _ROWS.value):
    rows += describe(f'decoding, {count} row(s), after {before} tokens', count_forward(packed, count, 1, before))
    title = f'prompts of {config.model.context} tokens, {count} row(s)'
    rows += describe(title, count_forward(packed, count, config.model.context))
  rows += describe(
    f'training, batch {config.training.batch_size} x {config.model.context}', count_training(config, _VOCABULARY.value)
  )
  variants.write(_JSON.value, rows)


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', None, 'Config of the model.', lock_config=True)
  flags.mark_flag_as_required('config')
  _ROWS = flags.DEFINE_list('rows', ['1', '8', '64'], 'Numbers of rows, comma-separated.')
  _VOCABULARY = flags.DEFINE_integer('vocabulary', 65, 'Size of the vocabulary.', lower_bound=1)
  _JSON = flags.DEFINE_string('json', '', 'File for the parts of all steps.')
  app.run(main)
