"""What sparsity costs in models of other widths."""

import functools

from experiments.claims.verdicts import judge_sparsity
from experiments.suites.suite import Suite, dense_to_sparse, sparse_and_dense

WIDTHS = (64, 128, 256, 512)  # d_model.

SUITE = Suite(
  'Width',
  'Does what sparsity costs grow or shrink with the width of the model?',
  sparse_and_dense(WIDTHS, lambda width: {'model.d_model': width, 'model.d_ff': 4 * width}),
  against=dense_to_sparse(WIDTHS),
  large=('sparse_512', 'dense_512'),
  verdicts=functools.partial(
    judge_sparsity, sizes=[str(width) for width in WIDTHS], words='of d_model', more='more width'
  ),
)
