"""Time the packed operations beside float32 and beside the limits of this machine.

  python -m xla_kernels.benchmark
  python -m xla_kernels.benchmark --json=results/kernels.json

The benchmark times every product y = x @ w of n tokens with m x k weights in two ways. "hot" uses one copy of the
weights. "rotated" uses one copy after the other, as many as fill 256 MB. The time of a packed product is taken inside
the custom call and includes the quantisation of the activations. The times of JAX and NumPy in float32 include the call
from Python, which takes JAX about 5 µs and NumPy 1 µs. Each number of threads has its own process, bound to as many
cores.

The benchmark also measures the roofline, with as many threads: integer operations from registers, and reading memory. A
product takes at least the longer of (operations / peak) and (bytes of packed weights / bandwidth at that size). The
fraction is this shortest time divided by the measured time. GOP/s count a multiplication and an addition as two
operations.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

import xla_kernels
from xla_kernels import native, packing

SHAPES = ((512, 128), (512, 256), (1024, 1024), (4096, 4096), (14336, 4096))
TOKENS = (1, 8, 64, 512)
NARROW = (128, 128, 4)  # d_model, tiles and their units, as `trix carve` makes them.
ROTATED_BYTES = 256 << 20
MICROSECONDS = 1e5  # Approximate time for each number.


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m xla_kernels.benchmark', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--json', metavar='FILE', help='write one row a measurement')
  parser.add_argument('--threads', help='comma-separated; by default 1 and, where there are so many cores, 2')
  parser.add_argument('--narrow', action='store_true', help='measure only layers of narrow tiles, in this process')
  parser.add_argument('--measure', type=int, metavar='THREADS', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.narrow:
    xla_kernels.register()
    for row in measure_narrow(1):
      print(text_of(row), flush=True)
    return
  if arguments.measure:
    for row in measure(arguments.measure):
      print(json.dumps(row), flush=True)
    return
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else list(range(os.cpu_count() or 1))
  try:
    counts = [int(part) for part in arguments.threads.split(',')] if arguments.threads else [1, 2][: len(cores)]
  except ValueError:
    parser.error(f'--threads={arguments.threads}: give numbers, as in --threads=1,2')
  if not all(1 <= count <= len(cores) for count in counts):
    parser.error(f'--threads={arguments.threads}: this process may use {len(cores)} core(s)')
  if xla_kernels.active_path() == 'reference':
    parser.error('there are no native kernels to measure here, or TRIX_KERNEL says not to use them; see BUILD.md')
  if arguments.json:
    try:  # Fail before the measurements, if at all.
      with open(arguments.json, 'a'):
        pass
    except OSError as error:
      parser.error(f'--json={arguments.json}: {error.strerror}')
  rows = []
  for threads in counts:
    for row in in_own_process(threads, cores[:threads]):
      rows.append(row)
      print(text_of(row), flush=True)
  if arguments.json:
    with open(arguments.json, 'w') as file:
      json.dump([row for row in rows if 'path' in row], file, indent=1)


def in_own_process(threads: int, cores: list[int]) -> Iterator[dict]:
  """Yield rows of `measure` from a process bound to some cores, so that every library uses as many threads."""
  environment = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'OPENBLAS_NUM_THREADS': str(threads)}

  def bind():
    if hasattr(os, 'sched_setaffinity'):
      os.sched_setaffinity(0, cores)

  command = [sys.executable, '-m', 'xla_kernels.benchmark', f'--measure={threads}']
  with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=bind) as process:
    assert process.stdout is not None
    for line in process.stdout:
      yield json.loads(line)
  if process.returncode:
    raise SystemExit(process.returncode)


def text_of(row: dict) -> str:
  """Return a line of the report."""
  if 'path' not in row:
    return row['note']
  packed = row['packed_bytes'] / row['microseconds'] / 1e3
  bandwidth = f'{packed:7.1f} GB/s' if row['path'] not in ('jax_float32', 'numpy_float32') else ' ' * 12
  return (
    f'{row["m"]:>6} x {row["k"]:<5} n {row["n"]:<4}{row["threads"]} thread(s) {row["residency"]:<8}'
    f'{row["path"]:<14}{row["microseconds"]:>11.2f} us {row["gops"]:>8.1f} GOP/s {bandwidth} '
    f'{100 * row["roofline_fraction"]:>6.1f} % of roofline'
  )


def measure(threads: int) -> Iterator[dict]:
  """Yield all rows for this process, which the caller has bound to `threads` cores."""
  xla_kernels.register()
  path = xla_kernels.active_path()
  rng = np.random.default_rng(0)
  peak = measured_peak()
  bandwidth = {
    size: measured_bandwidth(size) for size in sorted({packing.packed_bytes(m, k) for m, k in SHAPES} | {ROTATED_BYTES})
  }
  yield {
    'note': f'{threads} thread(s), path {path}: {peak:,.0f} GOP/s from registers; reading '
    + ', '.join(f'{size / 2**20:g} MiB at {rate:.0f} GB/s' for size, rate in bandwidth.items())
  }

  for m, k in SHAPES:
    packed = xla_kernels.pack(rng.integers(-1, 2, (m, k)).astype(np.int8))
    size, scales = packed.data.size, jnp.ones(m)
    weights = [rng.normal(size=(k, m)).astype(np.float32)]
    for residency in ('hot', 'rotated'):
      copies = max(2, ROTATED_BYTES // size) if residency == 'rotated' else 1
      many = jnp.tile(packed.data, (copies, 1))
      float_copies = max(2, ROTATED_BYTES // (4 * m * k)) if residency == 'rotated' else 1
      weights = weights[:1] + [weights[0].copy() for _ in range(float_copies - 1)]
      on_device = [jnp.asarray(w) for w in weights]
      for n in TOKENS:
        x = rng.normal(size=(n, k)).astype(np.float32)
        work = 2e-3 * m * k * n  # Thousands of operations, so that division by µs gives GOP/s.
        least = max(work / peak, size / 1e3 / bandwidth[ROTATED_BYTES if residency == 'rotated' else size])
        times = {
          path: timed_matmul(jnp.asarray(x), many, scales, least),
          'jax_float32': timed_calls(jax.jit(jnp.matmul), jnp.asarray(x), on_device),
          'numpy_float32': timed_calls(np.matmul, x, weights),
        }
        for name, microseconds in times.items():
          yield {
            'path': name,
            'm': m,
            'k': k,
            'n': n,
            'threads': threads,
            'residency': residency,
            'microseconds': round(microseconds, 4),
            'gops': round(work / microseconds, 2),
            'roofline_fraction': round(least / microseconds, 4),
            'packed_bytes': size,
          }
  yield from measure_ffn(threads)
  yield from measure_narrow(threads)


def measure_ffn(threads: int) -> Iterator[dict]:
  """Time one token through one tile of d_model 128 and d_ff 512: the kernel, a step of a scan, a jitted call."""
  rng = np.random.default_rng(0)
  up, down = (xla_kernels.pack(rng.integers(-1, 2, shape).astype(np.int8)) for shape in ((1, 512, 128), (1, 128, 512)))
  x, tile, gate = jnp.ones((1, 128)), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1))
  scales = jnp.full((1, 512), 0.01), jnp.full((1, 128), 0.01)
  kernel = timed('trix_timed_tile_ffn', x, x, up.data, scales[0], down.data, scales[1], tile, gate, batch=100)
  call = jax.jit(lambda x: xla_kernels.routed_tile_ffn(x, up, scales[0], down, scales[1], tile, gate))
  steps = 10_000
  looped = jax.jit(lambda x: jax.lax.scan(lambda x, _: (call(x), None), x, length=steps)[0])
  up_f, down_f = jnp.ones((128, 512)), jnp.full((512, 128), 1e-5)
  call_f = jax.jit(lambda x: jax.nn.relu(x @ up_f) @ down_f)
  looped_f = jax.jit(lambda x: jax.lax.scan(lambda x, _: (call_f(x), None), x, length=steps)[0])
  yield {
    'note': f'{threads} thread(s), feed-forward layer 128/512, one token, microseconds: kernel {kernel:.2f}, '
    f'scan step {timed_calls(looped, x) / steps:.2f}, jitted call {timed_calls(call, x):.2f}; '
    f'JAX float32: scan step {timed_calls(looped_f, x) / steps:.2f}, '
    f'jitted call {timed_calls(call_f, x):.2f}'
  }


def measure_narrow(threads: int) -> Iterator[dict]:
  """Time narrow tiles beside one tile of as many units: the kernel, and a step of a scan that also routes.

  A quarter of the tiles is kept for each token. To time an older checkout, run this file with PYTHONPATH set to it.
  """
  rng = np.random.default_rng(0)

  def weights(*shape):
    return xla_kernels.pack(rng.integers(-1, 2, shape).astype(np.int8))

  width, tiles, units = NARROW
  for tokens in (1, 64):
    x = jnp.asarray(rng.normal(size=(tokens, width)), jnp.float32)
    kernels, steps = [], []
    for t, h, kept in ((1, tiles * units, 1), (tiles, units, tiles // 4)):
      up, down, signatures = weights(t, h, width), weights(t, width, h), weights(t, width)
      scales = jnp.full((t, h), 0.01), jnp.full((t, width), 0.01)
      chosen = jnp.asarray(np.stack([rng.permutation(t)[:kept] for _ in range(tokens)]), jnp.int32)
      gates = jnp.ones(chosen.shape)
      arguments = x, up.data, scales[0], down.data, scales[1], chosen, gates
      kernels.append(timed('trix_timed_tile_ffn', x, *arguments, batch=max(1, 200 // tokens)))

      def layer(x, t=t, up=up, down=down, signatures=signatures, scales=scales, kept=kept, one=(chosen, gates)):
        if t == 1:
          return xla_kernels.routed_tile_ffn(x, up, scales[0], down, scales[1], *one)
        return xla_kernels.routed_ffn(x, signatures, up, scales[0], down, scales[1], top_k=kept, gate='one_hot')[0]

      length = max(2, 100 // tokens)  # Short, so that most samples fall between other processes' turns.
      looped = jax.jit(lambda x, f=layer, n=length: jax.lax.scan(lambda x, _: (x + 1e-6 * f(x), None), x, length=n)[0])
      steps.append(timed_calls(looped, x, batch_us=1) / length)
    yield {
      'note': f'{threads} thread(s), d_model {width}, {tokens} token(s), microseconds: '
      f'{tiles // 4} of {tiles} tiles of {units} units: kernel {kernels[1]:.2f}, '
      f'scan step with routing {steps[1]:.2f}; one tile of {tiles * units}: {kernels[0]:.2f}, {steps[0]:.2f}; '
      f'ratios {kernels[1] / kernels[0]:.2f}, {steps[1] / steps[0]:.2f}'
    }


def timed(target: str, like, *arguments, samples: int = 51, **attributes) -> float:
  """Return the median of the times that a timing custom call reports, in µs."""
  results = jax.ShapeDtypeStruct(like.shape, like.dtype), jax.ShapeDtypeStruct((samples,), np.float32)
  call = jax.jit(lambda *arguments: jax.ffi.ffi_call(target, results)(*arguments, **attributes))
  return float(np.median(call(*arguments)[1]))


def timed_matmul(x, packed_copies, scales, least: float) -> float:
  """Return the time of one packed product in µs; `least` is the shortest possible time."""
  batch = max(1, round(20 / least))
  samples = int(min(max(MICROSECONDS / (batch * least), 5), 501))
  like = jax.ShapeDtypeStruct((x.shape[0], scales.shape[0]), x.dtype)
  return timed('trix_timed_matmul', like, x, packed_copies, scales, samples=samples, batch=batch)


def timed_calls(function: Callable, x, weights=(), batch_us: float = 2000) -> float:
  """Return the median time of function(x, w) in µs over batches of calls, with one of the weights after the other."""

  def run(calls, first):
    start = time.perf_counter()
    for i in range(first, first + calls):
      result = function(x, weights[i % len(weights)]) if weights else function(x)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) * 1e6 / calls

  run(3, 0)
  batch = int(max(1, batch_us / run(1, 0)))
  samples: list[float] = []
  first, end = 0, time.perf_counter() + MICROSECONDS / 1e6
  while len(samples) < 3 or (time.perf_counter() < end and len(samples) < 101):
    samples.append(run(batch, first))
    first += batch
  return float(np.median(samples))


def measured_peak() -> float:
  """Return GOP/s of the best path's dot products from registers, all threads together; the best of many."""
  path, rounds = native.active_path(), 20_000
  results = jax.ShapeDtypeStruct((1,), np.float32), jax.ShapeDtypeStruct((200,), np.float32)
  native.force(native.available_paths()[0])
  macs, times = jax.device_get(jax.jit(lambda: jax.ffi.ffi_call('trix_timed_peak', results)(rounds=rounds))())
  native.force(path)
  return float(2e-3 * macs[0] * rounds / np.min(times))


def measured_bandwidth(size: int) -> float:
  """Return GB/s of reading a buffer of `size` bytes repeatedly, each thread its own part; the best of many."""
  batch = max(1, (4 << 20) // size)
  results = jax.ShapeDtypeStruct((1,), np.uint8), jax.ShapeDtypeStruct((20,), np.float32)
  call = jax.jit(lambda memory: jax.ffi.ffi_call('trix_timed_read', results)(memory, batch=batch))
  return float(size / 1e3 / np.min(call(jnp.ones(size, jnp.uint8))[1]))


if __name__ == '__main__':
  main()
