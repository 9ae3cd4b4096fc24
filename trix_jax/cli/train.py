"""Train a language model of routed ternary tiles.

  python train.py --config=configs/quickstart.py --workdir=runs/quickstart

Any setting of the config can be changed: --config.training.steps=100 --config.model.tiles=8. Every setting, with its
default, stands in trix_jax/configuration.py. Running the same command again resumes a run that was stopped.
"""

from trix_jax import host

if __name__ == '__main__':
  host.prepare_cpu()  # Before anything imports JAX.

from absl import flags
from ml_collections import config_flags

from trix_jax import cli, trainer

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Settings of the run: a file in configs/.')
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run: metrics, checkpoints, TensorBoard events.', required=True
)
flags.mark_flag_as_required('config')


def main() -> None:
  trainer.train(cli.config_of(_CONFIG), cli.folder_of(_WORKDIR))


if __name__ == '__main__':
  cli.run(main)
