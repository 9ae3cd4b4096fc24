"""Mutations of `trix_jax/configuration.py`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'configuration',
    'trix_jax/configuration.py',
    'test_configs test_command_lines',
    (
      'earlier_defaults_replace_settings',
      'part.setdefault(last, before)',
      'part[last] = before',
    ),
    ('earlier_configs_are_refused', 'for name, before in later_settings().items():', 'for name, before in {}.items():'),
    ('unknown_settings_accepted', 'if unknown := given - known:', 'if unknown := given - given:'),
  ),
)
