"""The original model and recipe, all four tiles for every character: 842,817 parameters.

  python train.py --config=configs/reference_dense.py --workdir=runs/reference_dense

1,028 million characters, about half a day on two cores: not yet run to its end, so there is no result to state. A
shorter run, such as --config.training.steps=1000, scales the schedules with it.
"""

from trix_jax import configuration


def get_config():
  return configuration.reference_config('dense')
