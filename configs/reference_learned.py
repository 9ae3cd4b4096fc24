"""The original model and recipe, one tile in four, routed by a learned gate: 844,881 parameters.

  python train.py --config=configs/reference_learned.py --workdir=runs/reference_learned

1,028 million characters, about seven hours on two cores: not run to its end. With --config.training.steps=150, which
scales the schedules (9.8 million characters, as many as configs/sparse.py sees; four and a half minutes on two cores
of an AMD EPYC, Zen 5), one seed: validation loss 2.6758, perplexity 14.52. That is 1 % of the recipe, warm-up and
little more.
"""

from trix_jax import configuration


def get_config():
  return configuration.reference_config('learned')
