"""Five minutes from nothing to text: four tiles, one active, on the source of Python's standard library.

  python train.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

from trix_jax import configuration


def get_config():
  config = configuration.default_config()
  config.corpus = 'python_stdlib'
  config.training.steps = 500
  config.training.eval_every = 100
  config.training.checkpoint_every = 100
  return config
