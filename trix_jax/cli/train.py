"""Train a language model of routed ternary tiles.

  trix train --config=quickstart --workdir=runs/quickstart
  trix train --config=quickstart --workdir=runs/mine --config.corpus=file --config.file=my_text.txt
  trix train --config=sparse --workdir=runs/t8 --config.model.tiles=8 --config.training.steps=1000

Every setting of a config is a flag. trix_jax/configuration.py and nn/model_config.py list them with their defaults. The
same command resumes an interrupted run.
"""

from absl import flags

from trix_jax.cli import arguments
from trix_jax.training import loop

FLAGS = flags.FlagValues()
_CONFIG = arguments.define_config(FLAGS)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run: metrics, checkpoints, TensorBoard events.',
  required=True,
  flag_values=FLAGS,
)


def main() -> None:
  loop.train(arguments.config_of(_CONFIG), arguments.folder_of(_WORKDIR))
