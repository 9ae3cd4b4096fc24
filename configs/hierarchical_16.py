"""Sixteen tiles in four clusters: a character looks into two of them and computes four tiles, a quarter of all.

  python train.py --config=configs/hierarchical_16.py --workdir=runs/hierarchical_16

819,136 parameters, 418,192 active for a character. On TinyShakespeare, with a dropout of 0.1, seed 0, on two cores of
an AMD EPYC (Zen 5), beside other work: validation loss 1.4661, no dead tile, the busiest tile at 1.10 times the mean
load.
"""

from trix_jax import configuration


def get_config():
  return configuration.hierarchical_config(tiles=16, clusters=4, probes=2, top_k=4, d_ff=512)
