"""Sixteen tiles in four clusters: a character looks into two of them and computes four tiles, a quarter of all.

  python train.py --config=configs/hierarchical_16.py --workdir=runs/hierarchical_16
"""

from trix_jax import configuration


def get_config():
  return configuration.hierarchical_config(tiles=16, clusters=4, probes=2, top_k=4, d_ff=512)
