"""Write text with a trained model.

  python generate.py --workdir=runs/quickstart --prompt='def ' --length=500
"""

from trix_jax import devices

if __name__ == '__main__':
  devices.prepare_cpu()  # Before anything touches JAX.

import sys
import time

from absl import flags

from trix_jax import checkpoints, cli, data, sampling

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder that train.py wrote.', required=True)
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'best', checkpoints.KINDS, 'Which checkpoint.')
_PROMPT = flags.DEFINE_string('prompt', None, 'Text to continue; by default a new line, or where the model knows '
                              'none, the first character it knows.')
_LENGTH = flags.DEFINE_integer('length', 500, 'Characters to write.')
_TEMPERATURE = flags.DEFINE_float('temperature', 0.8, 'Divides the logits; 0 takes the likeliest character.')
_TOP_K = flags.DEFINE_integer('top_k', 0, 'Draw from the k likeliest characters only; 0 for all.')
_SEED = flags.DEFINE_integer('seed', 0, 'The same seed writes the same text.', lower_bound=0,
                             upper_bound=2**32 - 1)


def main() -> None:
  trained = checkpoints.load_trained(cli.folder_of(_WORKDIR), _CHECKPOINT.value)
  start_text = _PROMPT.value
  if start_text is None:
    start_text = '\n' if '\n' in trained.vocabulary else trained.vocabulary[0]
  prompt = data.encode(start_text, trained.vocabulary)
  tokens = sampling.sample(trained.model, trained.params, trained.routing, prompt, _LENGTH.value,
                           _TEMPERATURE.value, _TOP_K.value, _SEED.value)
  print(start_text, end='', flush=True)
  start, written = 0.0, 0
  try:
    for token in tokens:
      print(trained.vocabulary[token], end='', flush=True)
      # The first character waits for compilation.
      start, written = start or time.perf_counter(), written + 1
  except KeyboardInterrupt:
    pass
  print()
  if written > 1:
    print(f'({written} characters, {(written - 1) / (time.perf_counter() - start):.1f} a second)', file=sys.stderr)


if __name__ == '__main__':
  cli.run(main)
