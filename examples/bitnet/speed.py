"""Time BitNet b1.58 at its full size, 2B-4T, with random weights.

  python examples/bitnet/speed.py
  python examples/bitnet/speed.py --rows=1,8 --json=results/bitnet.json

It measures a prompt and steps of decoding after it, and what the machine could do at best: each token reads all packed
weights and all keys and values once, and prompts also compute. --layers=2 is quick, and shows a part of it.
"""

import argparse
import json
import os
import statistics
import time

import bitnet
import jax
import jax.numpy as jnp
import numpy as np

import xla_kernels
from trix_jax.system import host
from xla_kernels import benchmark


def positive(text: str) -> int:
  """Read a number of at least 1, for argparse."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f'{text!r} is no number of at least 1')
  return int(text)


def positives(text: str) -> list[int]:
  """Read numbers of at least 1, comma-separated."""
  return [positive(part) for part in text.split(',')]


def random_weights(config: bitnet.BitNetConfig) -> bitnet.Weights:
  """Draw weights of the size of a config; they compute as fast as trained ones."""
  rng = np.random.default_rng(0)

  def read(_, *shape):
    values = jnp.ones(shape) if len(shape) == 1 else jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
    return values.astype(jnp.bfloat16)

  def read_matrix(name, rows, columns):
    print(f'\rdrawing {name:<60}', end='', flush=True)
    return rng.integers(-1, 2, (rows, columns), np.int8), 1.0

  weights = bitnet.assemble(config, read, read_matrix, 'int8')
  print('\r' + ' ' * 70, end='\r')
  return weights


def count_bytes(weights: bitnet.Weights) -> int:
  """Return the bytes that a token reads: all but the other rows of the embedding."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves((weights.layers, weights.norm_D, weights.head)))


def timed(call, repeats: int) -> float:
  """Return the median seconds of a call, after one that compiles."""
  call()
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def measure(config, weights, rows: int, prompt: int, steps: int, repeats: int) -> dict:
  """Time a prompt and steps of decoding, and count the least time that the bytes and the operations allow."""
  token_BL = np.zeros((rows, prompt), np.int32)
  settings = jax.random.key(0), np.float32(0), np.int32(1)

  def read():
    cache = bitnet.empty_cache(config, rows, prompt + steps)
    return jax.block_until_ready(bitnet.prefill(config, weights, token_BL, cache))

  def read_and_write():
    jax.block_until_ready(bitnet.write(config, weights, read(), steps, *settings))

  reading, both = timed(read, repeats), timed(read_and_write, repeats)
  matrices = sum(matrix.packed.shape[0] * matrix.packed.columns for matrix in _matrices(weights))
  head = config.vocabulary * config.d_model
  bandwidth, peak = benchmark.measured_bandwidth(256 << 20), benchmark.measured_peak()
  cached = 2 * config.layers * rows * (prompt + steps / 2) * config.kv_heads * (config.width + 4)
  token = max((count_bytes(weights) + cached) / bandwidth, 2 * rows * (matrices + head) / peak) / 1e9
  whole = max(count_bytes(weights) / bandwidth, 2 * rows * (prompt * matrices + head) / peak) / 1e9
  decoding = (both - reading) / steps
  return {
    'layers': config.layers,
    'rows': rows,
    'prompt': prompt,
    'steps': steps,
    'prompt_tokens_per_second': round(rows * prompt / reading, 2),
    'prompt_roofline_fraction': round(whole / reading, 3),
    'decoded_tokens_per_second': round(rows / decoding, 2),
    'decoding_roofline_fraction': round(token / decoding, 3),
    'weight_bytes': count_bytes(weights),
    'bandwidth_gb_per_second': round(bandwidth, 1),
    'peak_gops': round(peak, 1),
    'path': xla_kernels.active_path(),
    'processor': host.processor(),
    'cores': os.cpu_count(),
  }


def _matrices(weights):
  return [part for layer in weights.layers for part in layer if isinstance(part, bitnet.Matrix)]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--layers', type=positive, default=bitnet.BitNetConfig.layers, help='blocks of the model')
  parser.add_argument('--rows', type=positives, default=[1], help='numbers of rows, comma-separated')
  parser.add_argument('--prompt', type=positive, default=64, help='tokens of a prompt')
  parser.add_argument('--steps', type=positive, default=16, help='tokens to decode')
  parser.add_argument('--repeats', type=positive, default=3, help='how often to measure')
  parser.add_argument('--json', metavar='FILE', type=argparse.FileType('w'), help='file for the results')
  arguments = parser.parse_args()
  if not xla_kernels.register():
    parser.error('there are no native kernels here; see BUILD.md')
  config = bitnet.BitNetConfig(layers=arguments.layers)
  weights = random_weights(config)
  results = []
  for rows in arguments.rows:
    result = measure(config, weights, rows, arguments.prompt, arguments.steps, arguments.repeats)
    results.append(result)
    print(
      f'{rows} row(s): prompt {result["prompt_tokens_per_second"]:,.1f} tokens/s, '
      f'{100 * result["prompt_roofline_fraction"]:.0f} % of roofline; '
      f'decoding {result["decoded_tokens_per_second"]:,.1f} tokens/s, '
      f'{100 * result["decoding_roofline_fraction"]:.0f} % of roofline'
    )
  if arguments.json:
    json.dump(results, arguments.json, indent=1)


if __name__ == '__main__':
  main()
