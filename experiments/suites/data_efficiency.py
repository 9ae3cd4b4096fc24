"""Loss against the text that a model has seen."""

import functools

from experiments.claims.verdicts import judge_sparsity
from experiments.suites.suite import Suite, dense_to_sparse, scaled_steps, sparse_and_dense

# Parts of the budget's steps.
PARTS = ('0.125', '0.25', '0.5', '1')

SUITE = Suite(
  'Data efficiency',
  'Loss against text seen, sparse and dense; each run has a schedule of its own length.',
  sparse_and_dense(PARTS, lambda part: scaled_steps(float(part))),
  against=dense_to_sparse(PARTS),
  verdicts=functools.partial(judge_sparsity, sizes=PARTS, words='of the text', more='more text'),
)
