"""Minutes from nothing to text: four tiles, one active, on the source of Python's standard library.

  python train.py --config=configs/quickstart.py --workdir=runs/quickstart

Training reads 2 million characters. It takes 1 minute 50 seconds on two cores of an AMD EPYC (Zen 5), and about twice
that on Zen 4. On the library of Python 3.11, with seed 0, the validation loss is 1.4446 (perplexity 4.240). With a
random tile for every character it is 1.9319.
"""

from trix_jax import configuration


def get_config():
  config = configuration.default_config()
  config.corpus = 'python_stdlib'
  config.training.steps = 500
  config.training.eval_every = 100
  config.training.checkpoint_every = 100
  return config
