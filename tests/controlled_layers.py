"""A layer with a control, for tests of what controls choose."""

import jax
import numpy as np

from trix_jax.nn import controls, ffn
from trix_jax.nn.model_config import FFNConfig

N, D, T = 200, 32, 4
VOCABULARY = 'abcdefgh'
CONFIG = dict(d_model=D, d_ff=64, tiles=T)
TOKEN = np.arange(N) % len(VOCABULARY)
TOKENS = ffn.Tokens(TOKEN, len(VOCABULARY))


def layer_of(control, **settings):
  """A layer, its variables and an input."""
  config, made = FFNConfig(**CONFIG, **settings), controls.TABLE[control]
  x = jax.random.normal(jax.random.key(1), (N, D))
  module = ffn.TriXFFN(
    config,
    lambda layer, given: (made.route or ffn.route_by_signatures)(layer, given._replace(tokens=TOKENS)),
    made.execute or ffn.compute,
  )
  return module, module.init(jax.random.key(0), x), x
