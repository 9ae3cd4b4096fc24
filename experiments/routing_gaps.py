"""What is reading the route worth? The sparse recipe against a learned gate and against its dense twin, over seeds.

  python experiments/routing_gaps.py --workdirs=runs/gaps --out=results/routing_gaps.json

Each run is an ordinary `train.py` workdir; stopped and started again, the comparison goes on where it was. At the end
it prints the best full-validation loss of every variant, mean and standard deviation over seeds, and the gap to
emergent routing, paired by seed. On two cores a run takes about 12 minutes.

These are models of the recipe as it was, with a dropout of 0.1; what it has now does better (README.md).

The dense twin is tuned by itself in the same way, one seed each:

  python experiments/routing_gaps.py --workdirs=runs/gaps --out=results/routing_gaps.json --seeds=1 \
    --variants=dense,dense_lr_0.01,dense_decay_0.4,dense_dropout_0.2
"""

import comparison
from absl import app

DROPOUT = '--config.model.dropout=0.1'
# Every token computes all tiles, so there is no gate and nothing to balance.
ALL_TILES = ('--config.model.routing=dense', '--config.model.gate=one_hot', '--config.loss.balance_weight=0.0')
DENSE = (DROPOUT, *ALL_TILES)
VARIANTS: dict[str, tuple[str, ...]] = {
    'emergent': (DROPOUT,),
    'learned': (DROPOUT, '--config.model.routing=learned'),
    'dense': DENSE,
    'dense_lr_0.01': (*DENSE, '--config.optimizer.learning_rate=0.01'),
    'dense_decay_0.4': (*DENSE, '--config.optimizer.weight_decay=0.4'),
    'dense_dropout_0.2': (*ALL_TILES, '--config.model.dropout=0.2'),
}


def main(_):
  comparison.run('configs/sparse.py', VARIANTS, ('emergent', 'learned', 'dense'))


if __name__ == '__main__':
  app.run(main)
