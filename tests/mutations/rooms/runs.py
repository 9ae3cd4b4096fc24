"""Mutations of `trix_jax/runs`."""

from mutations.mutation import break_file

MUTATIONS = (
  *break_file(
    'runs',
    'trix_jax/runs/checkpoints.py',
    'test_runs test_training test_evaluation test_command_lines',
    (
      'optimizer_state_not_restored',
      "state = TrainState(tree['step'], tree['params'], tree.get('opt_state'),",
      "state = TrainState(tree['step'], tree['params'], like.opt_state,",
    ),
    (
      'routing_state_not_restored',
      "tree.get('opt_state'), tree.get('routing', {}))",
      "tree.get('opt_state'), like.routing_state)",
    ),
    (
      'best_loss_forgotten_on_resume',
      'return state, math.nan if best_loss is None else best_loss',
      'return state, math.nan',
    ),
    ('best_checkpoints_beyond_the_step_stay', 'if saved > step:', 'if saved > step + saved:'),
    (
      'another_text_evaluated_silently',
      "if corpus.sha256 != self.run['corpus']['sha256']:",
      "if not self.run['corpus']['sha256']:",
    ),
    ('checkpoints_are_never_deleted', 'max_to_keep=self._keep[kind]', 'max_to_keep=None'),
  ),
  *break_file(
    'runs',
    'trix_jax/runs/metrics.py',
    'test_runs test_training test_evaluation test_command_lines',
    ('rows_after_the_restored_step_stay', "if (row := _row(line)) and row['step'] <= resume_step", 'if _row(line)'),
    ('rows_of_both_splits_mixed', "split in (None, row['split'])]", 'True]'),
  ),
  *break_file(
    'runs',
    'trix_jax/runs/workdirs.py',
    'test_runs test_evaluation test_command_lines test_origins',
    ('workdir_of_another_config_accepted', '      if changed:\n', '      if not begun:\n'),
    (
      'workdir_of_another_text_accepted',
      "if known['sha256'] != corpus.sha256:",
      "if not known['sha256']:",
    ),
    ('idle_tiles_count_as_active', "'active_per_token': total - idle", "'active_per_token': total"),
    (
      'gate_parameters_not_counted',
      "'routing': transformer.count_parameters([layer.get('gate', {}) for layer in layers])",
      "'routing': transformer.count_parameters([layer.get('gates', {}) for layer in layers])",
    ),
    ('new_tiles_have_the_origins_of_their_host', ' or training.train_only == TILES', ''),
    ('earlier_sessions_forgotten', "run['sessions'].append(session)", "run['sessions'] = [session]"),
  ),
  *break_file(
    'runs',
    'trix_jax/runs/origins.py',
    'test_origins',
    ('origins_start_with_the_host', 'host.config.model.ffn.tiles\n  for donor', '0\n  for donor'),
    ('a_placed_tile_is_made_of_what_it_replaces', 'weight > 0 and tile not in change.placed', 'weight > 0'),
    ('only_whole_tiles_have_an_origin', 'if weight > 0 and', 'if weight > 0.5 and'),
    ('a_placed_tile_has_no_origin', 'former in origin', 'not former in origin'),
    ('origins_of_no_tile_stay', '    if any(tiles):\n', '    if tiles:\n'),
    ('a_run_lists_no_other_source', '    found += _placed_from(source, changes)', '    pass'),
    ('a_placed_tile_forgets_where_it_was', 'return [*found, describe(source, own)]', 'return [describe(source, own)]'),
    ('a_merged_tile_hides_its_own_run', '  if any(mixed):', '  if not mixed:'),
  ),
)
