"""Mutations of `trix_jax/evaluation`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'evaluation',
    'trix_jax/evaluation/evaluator.py',
    'test_metrics',
    ('bits_are_not_bits', 'loss / math.log(2)', 'loss * math.log(2)'),
  ),
  *break_file(
    'evaluation',
    'trix_jax/evaluation/evaluator.py',
    'test_evaluation test_command_lines',
    (
      'a_character_of_padding_is_evaluated',
      'weight_N = (jnp.arange(loss_BL.shape[1]) < targets[:, None])',
      'weight_N = (jnp.arange(loss_BL.shape[1]) <= targets[:, None])',
    ),
    ('unreached_tiles_are_not_dead', 'int(np.sum(np.asarray(quiet) | (used == 0)))', 'int(np.sum(np.asarray(quiet)))'),
    ('silent_tiles_are_not_dead', 'int(np.sum(np.asarray(quiet) | (used == 0)))', 'int(np.sum(used == 0))'),
    (
      'packed_tiles_never_disagree',
      'jnp.any(a != b, axis=1) & counted_N',
      'jnp.any(a != a, axis=1) & counted_N',
    ),
    (
      'other_routings_keep_the_balance_bias',
      'routing=routing_name, balance_bias=False)',
      'routing=routing_name)',
    ),
  ),
  *break_file(
    'evaluation',
    'trix_jax/cli/evaluate.py',
    'test_command_lines',
    ('packed_rows_are_not_written', 'tables.write_rows(path, rows + packed_rows,', 'tables.write_rows(path, rows,'),
  ),
)
