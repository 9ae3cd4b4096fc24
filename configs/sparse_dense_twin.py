"""The dense twin of configs/sparse.py: the same model, text and steps, but every token computes all four tiles.

  python train.py --config=configs/sparse_dense_twin.py --workdir=runs/sparse_dense_twin
"""

from configs import sparse


def get_config():
  config = sparse.get_config()
  config.model.routing = 'dense'
  config.model.gate = 'one_hot'
  config.loss.balance_weight = 0.0
  return config
