"""Carve a densely trained model into tiles that route themselves, without training.

  trix carve --workdir=runs/dense --tiles=128 --top_k=32 --out=runs/carved
  trix eval --workdir=runs/carved

The hidden units of each layer are gathered into tiles by what they read, and each token computes the tiles whose
signatures match it best. --out becomes the folder of a run. It evaluates, packs and generates like any other, and
training goes on from it with --config.training.start_from.
"""

import dataclasses

from absl import flags

from trix_jax.cli import arguments, new_run
from trix_jax.editing import carving
from trix_jax.evaluation.evaluator import Evaluator
from trix_jax.nn.cost import count_products
from trix_jax.runs import checkpoints, workdirs

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of a dense run.', required=True, flag_values=FLAGS)
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'best', checkpoints.KINDS, 'Checkpoint to carve.', flag_values=FLAGS)
_TILES = flags.DEFINE_integer('tiles', 128, 'Tiles of each layer; must divide model.d_ff.', flag_values=FLAGS)
_TOP_K = flags.DEFINE_integer('top_k', 32, 'Tiles that a token computes.', flag_values=FLAGS)
_OUT = flags.DEFINE_string('out', None, 'Folder of the new run.', required=True, flag_values=FLAGS)


def main() -> None:
  out, workdir = arguments.folder_of(_OUT), arguments.folder_of(_WORKDIR)
  new_run.check_free(out, workdir)
  carving.make_config(workdirs.read_config(workdir).model, _TILES.value, _TOP_K.value)  # Bad numbers fail at once.
  trained = new_run.load_source(workdir, _CHECKPOINT.value)
  corpus = trained.corpus()
  params, model = carving.carve(trained.params, trained.config.model, _TILES.value, _TOP_K.value)
  config = dataclasses.replace(trained.config, model=model)
  before, after = (
    Evaluator(run.model, corpus.vocabulary, corpus.validation)(of_run)
    for run, of_run in ((trained.config, trained.params), (config, params))
  )
  new_run.write(out, config, corpus, params, {}, trained.step, after)
  whole, part = count_products(trained.config.model.ffn).total, count_products(model.ffn)
  print(f'{"":<24}{"loss":>8}{"products a token and layer":>28}{"of them routing":>17}')
  print(f'{"dense":<24}{before["loss"]:8.4f}{whole:28,}{0:17,}')
  print(f'{f"{_TOP_K.value} of {_TILES.value} tiles":<24}{after["loss"]:8.4f}{part.total:28,}{part.routing:17,}')
  print(f'{after["loss"] - before["loss"]:+.4f} nats with {100 * part.total / whole:.1f} % of the products; {out}')
