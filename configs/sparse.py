"""The recipe people should use: one tile in four active, routed by reading signatures, int8 activations.

  python train.py --config=configs/sparse.py --workdir=runs/sparse

812,416 parameters, 516,480 of them active for a character. See README.md for what it reaches and against what.
"""

from trix_jax import configuration


def get_config():
  config = configuration.default_config()
  config.training.steps = 2400
  config.training.eval_every = 400
  config.training.checkpoint_every = 200
  return config
