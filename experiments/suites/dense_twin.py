"""The dense twin of the recipe, under other settings."""

from experiments.suites.suite import DENSE, DROPOUTS, Suite

SUITE = Suite(
  'The dense twin, tuned by itself',
  'Would dense training want other settings than the sparse recipe has?',
  {
    'dense': DENSE,
    **{
      f'{name}_{value}': {**DENSE, f'{section}.{name}': value}
      for section, name, value in (
        ('optimizer', 'learning_rate', 0.01),
        ('optimizer', 'weight_decay', 0.4),
        ('optimizer', 'learning_rate', 0.04),
        ('optimizer', 'weight_decay', 0.1),
      )
    },
    **{name: {**DENSE, **settings} for name, settings in DROPOUTS.items()},
  },
)
