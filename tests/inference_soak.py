"""Many threads that write with one model at once, for as long as you like, with one core kept busy by somebody else.

  python tests/inference_soak.py --seconds=60 --threads=8

Every text must be, bit for bit, what a single thread wrote before; memory must stay where it was after the first texts;
and every thread must go on. Exits with 1 where one of these fails; a thread that hangs is shown by its stack.
"""

import argparse
import faulthandler
import os
import pathlib
import subprocess
import sys
import threading
import time

import jax
import numpy as np

from trix_jax import configuration, inference
from trix_jax.inference import forward, weights
from trix_jax.nn import transformer
from trix_jax.training.step import init_state

VOCABULARY = ''.join(chr(64 + i) for i in range(65))
HANGS_AFTER = 60  # Seconds without a text.


def packed_model() -> inference.LanguageModel:
  """The recipe's model with random weights."""
  config = configuration.RunConfig()
  params = jax.jit(lambda: init_state(config, transformer.TransformerLM(config.model, len(VOCABULARY))).params)()
  packed = weights.InferenceConfig(config.model, len(VOCABULARY))
  return inference.LanguageModel(packed, VOCABULARY, weights.pack(params, {}, packed), forward.PACKED, {})


def resident_bytes() -> int:
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE')


def soak(seconds: float, threads: int, busy_core: bool) -> dict[str, float]:
  """Texts written, texts that differ, and bytes of growth from a fifth of the time to its end."""
  model, rng = packed_model(), np.random.default_rng(0)
  cases = []
  for seed in range(12):
    prompts = [rng.integers(0, 65, rng.integers(1, 300)) for _ in range(1 + seed % 3)]
    cases.append(
      (
        prompts,
        {
          'length': int(rng.integers(1, 400)),
          'temperature': float(seed % 4 / 2),
          'seed': seed,
          'top_k': 5 * (seed % 2),
        },
      )
    )
  want = [model.generate(prompts, **settings) for prompts, settings in cases]
  texts, different, errors = [0] * threads, [0] * threads, []
  end = time.monotonic() + seconds

  def write(thread):
    try:
      case = thread
      while time.monotonic() < end:
        prompts, settings = cases[case % len(cases)]
        different[thread] += model.generate(prompts, **settings) != want[case % len(cases)]
        texts[thread] += len(prompts)
        case += 1
    except Exception as error:
      errors.append(error)

  busy = subprocess.Popen([sys.executable, '-c', 'while True: pass']) if busy_core else None
  try:
    workers = [threading.Thread(target=write, args=(i,), daemon=True) for i in range(threads)]
    for worker in workers:
      worker.start()
    time.sleep(seconds / 5)
    before, latest, progress = resident_bytes(), list(texts), time.monotonic()
    while any(worker.is_alive() for worker in workers):
      time.sleep(0.05)
      if texts != latest:
        latest, progress = list(texts), time.monotonic()
      if time.monotonic() - progress > HANGS_AFTER:
        faulthandler.dump_traceback()
        raise SystemExit(f'error: no text for {HANGS_AFTER} seconds')
  finally:
    if busy:
      busy.kill()
      busy.wait()
  if errors:
    raise errors[0]
  return {
    'texts': sum(texts),
    'least_of_a_thread': min(texts),
    'different': sum(different),
    'growth': resident_bytes() - before,
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--seconds', type=float, default=60)
  parser.add_argument('--threads', type=int, default=8)
  arguments = parser.parse_args()
  result = soak(arguments.seconds, arguments.threads, busy_core=True)
  print(
    f'{arguments.threads} threads, {arguments.seconds:g} seconds, one core kept busy: {result["texts"]:,} texts, '
    f'at least {result["least_of_a_thread"]:,} a thread; {result["different"]} different from a single thread; '
    f'memory grew by {result["growth"] / 2**20:.1f} MiB'
  )
  sys.exit(bool(result['different'] or result['growth'] > 50 << 20))


if __name__ == '__main__':
  main()
