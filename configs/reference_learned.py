"""The original model and recipe, one tile in four, routed by a learned gate: 844,881 parameters.

  python train.py --config=configs/reference_learned.py --workdir=runs/reference_learned

This recipe has not run to its end: its 1,028 million characters take about seven hours on two cores. A run of one
seed with --config.training.steps=150, which scales the schedules, is 1 % of the recipe, warm-up and little more. It
reads 9.8 million characters, as many as configs/stream.py. It takes four and a half minutes on two cores of an AMD EPYC
(Zen 5). Its validation loss is 2.6758 (perplexity 14.52).
"""

from trix_jax import configuration


def get_config():
  return configuration.reference_config('learned')
