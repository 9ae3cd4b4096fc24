"""What sparsity costs with more and with less dropout."""

import functools

from experiments.claims.verdicts import judge_sparsity
from experiments.suites.suite import Suite, dense_to_sparse, sparse_and_dense

RATES = (0.1, 0.05, 0.0)

SUITE = Suite(
  'Dropout',
  'Does what sparsity costs depend on how much dropout there is?',
  sparse_and_dense(RATES, lambda rate: {'model.dropout': rate}),
  against=dense_to_sparse(RATES),
  verdicts=functools.partial(
    judge_sparsity, sizes=[str(rate) for rate in RATES], words='of dropout', more='less dropout'
  ),
)
