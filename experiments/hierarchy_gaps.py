"""Are many small tiles behind an index worth more than few large ones? Two-layer models over seeds, both ways fair.

  python experiments/hierarchy_gaps.py --workdirs=runs/hierarchy --out=results/hierarchy_gaps.json

As in the original's comparison, 16 tiles stand against 4, with the same hidden units in all and nearly the same
parameters (about 0.42 million): once a token computes one tile, so that the hierarchy computes a quarter of what the
four tiles do; and once four of 16, so that both compute as much. `flat_16_top_4` has the tiles and not the index.

Then what the tiles contribute is measured, by the same weights with every tile's output scale at zero:

  python experiments/without_tiles.py --workdirs=runs/hierarchy/sparse_4-0,runs/hierarchy/hierarchical_16_top_4-0 \
    --out=results/without_tiles.json

A run takes four to five minutes on two cores.
"""

import comparison
from absl import app

SIXTEEN = ('--config.model.layers=2', '--config.model.tiles=16')
BALANCED = ('--config.model.balance_bias=True', '--config.loss.balance_bias_rate=0.02')
INDEXED = (*SIXTEEN, *BALANCED, '--config.model.clusters=4', '--config.model.probes=2')
VARIANTS: dict[str, tuple[str, ...]] = {
    'sparse_4': ('--config.model.layers=2',),
    'hierarchical_16_top_1': INDEXED,
    'hierarchical_16_top_4': (*INDEXED, '--config.model.top_k=4'),
    'flat_16_top_4': (*SIXTEEN, *BALANCED, '--config.model.top_k=4'),
}


def main(_):
  comparison.run('configs/sparse.py', VARIANTS, tuple(VARIANTS))


if __name__ == '__main__':
  app.run(main)
