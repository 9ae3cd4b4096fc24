"""Sixty-four tiles in eight clusters, of which a character looks into two and computes four tiles: a sixteenth.

  python train.py --config=configs/hierarchical_64.py --workdir=runs/hierarchical_64
"""

from trix_jax import configuration


def get_config():
  return configuration.hierarchical_config(tiles=64, clusters=8, probes=2, top_k=4, d_ff=1024)
