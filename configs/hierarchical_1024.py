"""A memory of 1,024 tiles of eight hidden units in 32 clusters: a character looks into four and computes four tiles.

  python train.py --config=configs/hierarchical_1024.py --workdir=runs/hierarchical_1024

9,234,304 parameters, 319,504 of them active for a character. On TinyShakespeare, with a dropout of 0.1, seed 0:
validation loss 1.4371, no dead tile at the end, in about 15 minutes on two cores of an AMD EPYC (Zen 5).
"""

from trix_jax import configuration


def get_config():
  return configuration.hierarchical_config(tiles=1024, clusters=32, probes=4, top_k=4, d_ff=8192)
