"""Measure the cost of fewer bits: pack trained models with attention and head in float32, int8 or ternary.

  python experiments/single/packing_precision.py --workdirs=runs/sparse,runs/dense --out=results/packing_precision.json

For every workdir and pair of precisions the program measures the size and the loss on the whole validation split. It
compares the loss with that of XLA on the same weights as trained, and counts the tokens that go to another tile. It
times a character of text (one row, greedy, the median of repeated runs). It takes a minute for each workdir.
"""

import json
import pathlib
import statistics
import time

from trix_jax.system import host

if __name__ == '__main__':
  host.prepare_cpu()  # Call this before anything imports JAX.

from absl import flags

from trix_jax import inference
from trix_jax.cli import arguments, launcher
from trix_jax.errors import InputError
from trix_jax.evaluation.evaluator import Evaluator, evaluate_packed
from trix_jax.inference import weights
from trix_jax.nn import transformer
from trix_jax.runs import checkpoints
from trix_jax.system import files

_WORKDIRS = flags.DEFINE_list('workdirs', None, 'Folders of runs.', required=True)
_OUT = flags.DEFINE_string('out', None, 'JSON file for the results.', required=True)

PAIRS = (
  ('float32', 'float32'),
  ('int8', 'float32'),
  ('float32', 'int8'),
  ('int8', 'int8'),
  ('ternary', 'int8'),
  ('int8', 'ternary'),
  ('ternary', 'ternary'),
)
CHARACTERS, REPEATS = 1000, 9


def main() -> None:
  files.check_writable(pathlib.Path(_OUT.value))
  models = [(workdir, checkpoints.load_trained(workdir, 'best')) for workdir in arguments.folders_of(_WORKDIRS)]
  if random := [str(workdir) for workdir, trained in models if trained.model.config.ffn.way.is_random]:
    raise InputError(f'{", ".join(random)}: routes at random, which a packed model cannot')
  rows = []
  for workdir, trained in models:
    validation, parameters = trained.corpus().validation, transformer.count_parameters(trained.params)
    model, vocabulary = trained.model.config, trained.vocabulary
    xla = {
      'routing': model.ffn.routing,
      **Evaluator(model, vocabulary, validation)(trained.params, trained.routing_state),
    }
    print(f'{workdir}: XLA, as trained: loss {xla["loss"]:.4f}, {4 * parameters:,} bytes in float32')
    for attention, head in PAIRS:
      config = weights.InferenceConfig(model, len(vocabulary), attention, head)
      [row] = evaluate_packed([xla], config, vocabulary, validation, trained.params, trained.routing_state)
      size = sum(weights.count_bytes(config).values())
      rows.append(
        {
          'run': workdir.name,
          'seed': trained.config.seed,
          **{
            name: row[name] for name in ('attention', 'head', 'routing', 'loss', 'loss_difference', 'tile_disagreement')
          },
          'xla_loss': xla['loss'],
          'bytes': size,
          'times_smaller': round(4 * parameters / size, 2),
          'microseconds_per_character': round(microseconds(trained, attention, head), 1),
          'processor': host.processor(),
        }
      )
      row = rows[-1]
      print(
        f'  attention {attention:<8} head {head:<8}{size:>10,} bytes, {row["times_smaller"]:>5.1f} times smaller'
        f'  loss {row["loss"]:.4f} ({row["loss_difference"]:+.5f})  other tile '
        f'{100 * max(row["tile_disagreement"]):.2f} % at most  {row["microseconds_per_character"]:.1f} us a '
        'character',
        flush=True,
      )
  files.write_text(pathlib.Path(_OUT.value), json.dumps(rows, indent=1) + '\n')


def microseconds(trained, attention, head) -> float:
  """Return the time of one character of a long greedy text in µs, with the occasional reading of the context again."""
  model = inference.from_checkpoint(trained, attention=attention, head=head)
  samples = []
  for _ in range(REPEATS + 1):
    start = time.perf_counter()
    model.generate([trained.vocabulary[:1]], CHARACTERS, temperature=0.0)
    samples.append((time.perf_counter() - start) / CHARACTERS * 1e6)
  return statistics.median(samples[1:])


if __name__ == '__main__':
  launcher.run_main(main)
