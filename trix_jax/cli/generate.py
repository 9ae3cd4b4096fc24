"""Write text with a trained model.

  trix generate --model=models/shakespeare.safetensors --prompt='ROMEO:'
  trix generate --workdir=runs/quickstart --prompt='def ' --length=500

A file from `trix export` is packed and fast. With --workdir, XLA computes the model as in training.
"""

import sys
import time

from absl import flags

from trix_jax import inference
from trix_jax.cli import arguments
from trix_jax.errors import InputError
from trix_jax.runs import checkpoints
from trix_jax.system import host

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a run.', flag_values=FLAGS)
_MODEL = flags.DEFINE_string('model', None, 'File that trix export wrote.', flag_values=FLAGS)
_CHECKPOINT = flags.DEFINE_enum(
  'checkpoint', 'best', checkpoints.KINDS, 'Checkpoint of the workdir to load.', flag_values=FLAGS
)
_PROMPT = flags.DEFINE_string(
  'prompt',
  None,
  'Text to continue. The default is a new line, or the first known character if the model lacks the new line.',
  flag_values=FLAGS,
)
_LENGTH = flags.DEFINE_integer('length', 500, 'Characters to write after the prompt.', lower_bound=0, flag_values=FLAGS)
_TEMPERATURE = flags.DEFINE_float(
  'temperature', 0.8, 'Divides the logits; 0 takes the likeliest character.', flag_values=FLAGS
)
_TOP_K = flags.DEFINE_integer('top_k', 0, 'Draw from the k likeliest characters only; 0 for all.', flag_values=FLAGS)
_SEED = flags.DEFINE_integer('seed', 0, 'The same seed writes the same text.', flag_values=FLAGS)


def main() -> None:
  model = load()
  prompt = _PROMPT.value
  if prompt == '':
    raise InputError('--prompt is empty; give at least one character, or leave it out')
  if prompt is None:
    prompt = '\n' if '\n' in model.vocabulary else model.vocabulary[0]
  pieces = model.stream([prompt], _LENGTH.value, temperature=_TEMPERATURE.value, top_k=_TOP_K.value, seed=_SEED.value)
  print(prompt, end='', flush=True)
  clock = Clock()
  host.before_leaving(clock.report)
  for (piece,) in pieces:
    print(piece, end='', flush=True)
    clock.tick(len(piece))
  clock.report()


class Clock:
  """Measure characters a second, without the first pieces, which wait for compilation and arrive together."""

  SKIPPED, LEAST = 2, 8  # Pieces that do not count, and the fewest that give a speed.

  def __init__(self):
    self._marks: list[tuple[float, int]] = []

  def tick(self, characters: int) -> None:
    written = self._marks[-1][1] if self._marks else 0
    self._marks.append((time.perf_counter(), written + characters))

  def report(self) -> None:
    print(flush=True)
    written, speed = self._marks[-1][1] if self._marks else 0, 'too few to tell their speed'
    if len(self._marks) >= self.SKIPPED + self.LEAST:
      (start, before), (end, _) = self._marks[self.SKIPPED - 1], self._marks[-1]
      speed = f'{(written - before) / (end - start):,.0f} characters a second, not counting the start'
    print(f'({written:,} characters; {speed})', file=sys.stderr, flush=True)


def load() -> inference.LanguageModel:
  if (_WORKDIR.value is None) == (_MODEL.value is None):
    raise InputError('give either --workdir, the folder of a run, or --model, a file that trix export wrote')
  if _MODEL.value is not None:
    if not _MODEL.value:
      raise InputError('--model is empty; give the path of a file')
    if _CHECKPOINT.present:
      raise InputError('--checkpoint chooses one of a --workdir; a --model holds one already')
    return inference.load(_MODEL.value)
  trained = checkpoints.load_trained(arguments.folder_of(_WORKDIR), _CHECKPOINT.value)
  return inference.as_trained(trained.model, trained.vocabulary, trained.params, trained.routing_state)
