"""The same number of parameters in fewer and wider layers."""

from experiments.suites.suite import Suite

SUITE = Suite(
  'Shape',
  'The same number of parameters in half as many layers, with more hidden units.',
  {
    f'{layers}_layers_of_{d_ff}': {'model.layers': layers, 'model.d_ff': d_ff} for layers, d_ff in ((4, 512), (2, 1280))
  },
)
