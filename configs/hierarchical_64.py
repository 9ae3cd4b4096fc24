"""Sixty-four tiles in eight clusters, of which a character looks into two and computes four tiles: a sixteenth.

  python train.py --config=configs/hierarchical_64.py --workdir=runs/hierarchical_64

1,370,240 parameters, 352,400 active for a character. On TinyShakespeare, with a dropout of 0.1, seed 0, on two cores
of an AMD EPYC (Zen 5), beside other work: validation loss 1.4563, no dead tile, the busiest tile at 1.31 times the mean
load.
"""

from trix_jax import configuration


def get_config():
  return configuration.hierarchical_config(tiles=64, clusters=8, probes=2, top_k=4, d_ff=1024)
