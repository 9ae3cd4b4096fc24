"""The recipe with one part changed at a time."""

from experiments.suites.suite import DROPOUTS, LOSS_FREE, Suite, scaled_steps, tiles

SUITE = Suite(
  'The recipe and its parts',
  'The recipe with one part changed at a time.',
  {
    'recipe': {},
    'sign_signatures': {'model.signature': 'sign'},
    'one_hot_gate': {'model.gate': 'one_hot'},
    'relu': {'model.activation': 'relu'},
    'threshold': {'model.quantiser': 'threshold'},
    'float_activations': {'model.int8_activations': False},
    'loss_free': LOSS_FREE,
    '16_top_4': tiles(16, 4),
    '8_top_2': tiles(8, 2),
    **DROPOUTS,
    'decay_to_0_late': {'optimizer.weight_decay_fraction': 0.5},
    'adamw': {'optimizer.name': 'adamw', 'optimizer.learning_rate': 2e-3},
    'double_batch': {'training.batch_size': 2, **scaled_steps(0.5)},
    'twice_as_long': scaled_steps(2),
  },
  ('specialisation',),
  against={'twice_as_long': None},
)
